"""The paper's second kind of dispreferred answer: what the model itself says of a picture under noise.

Reads preferences, keeps their preferred answers and puts the model's own in the place of the others. What comes out
are rows of the adapter `preference` with their pictures, in a folder that can be trained on like any other. The same
weights and settings give the same rows, wherever the work was stopped.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from xgenmm.config import ConfigError, Count, encode
from xgenmm.data.adapters.conversations import MARKER
from xgenmm.data.adapters.fields import not_blank
from xgenmm.data.listing import ListedRows
from xgenmm.data.permutation import keyed
from xgenmm.data.quarantine import BadSample, DataError, Fault, read_lines
from xgenmm.data.readers import PICTURE_SUFFIXES
from xgenmm.data.source import SourceConfig
from xgenmm.engines.noise import NoiseConfig, noised
from xgenmm.files import write_whole
from xgenmm.inference.generate import continue_prompts
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.model.feature_cache import fingerprint
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.images import ImageError
from xgenmm.processor.processor import PromptTooLong, XGenMMProcessor
from xgenmm.progress import progress
from xgenmm.types import Example, Picture, Preference

ROWS_AT_ONCE = 64
"""What a stop may cost, in answers."""
ROWS, UNFINISHED, FAULTS, ABOUT = "preferences.jsonl", "unfinished.jsonl", "quarantine.jsonl", "about.json"
"""The rows get their name when all of them are there."""


@dataclass(frozen=True, kw_only=True)
class NoisedConfig:
    """How the model is asked. Not published for xGen-MM: ours."""

    noise: NoiseConfig = field(default_factory=NoiseConfig)
    max_new_tokens: Count = 256
    """Of an answer. It is the likeliest one, token by token."""
    batch_size: Count = 8
    """Prompts at a time."""


def make_noised_preferences(
    model: XGenMMForConditionalGeneration,
    processor: XGenMMProcessor,
    source: SourceConfig,
    config: NoisedConfig,
    folder: Path,
    *,
    seed: int,
) -> SourceConfig:
    """Answer every prompt of a source of preferences; gives the source of what was written.

    Args:
        model: Whose answers are wanted.
        processor: The model's.
        source: Gives preferences.
        config: How to ask.
        folder: Gets rows, pictures, and what was left out. One that was begun is gone on with.
        seed: Of the noise.

    Raises:
        ConfigError: The folder was begun with other weights or settings; or the source gives no preferences.
        DataError: No row is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {"weights": fingerprint(model), "source": encode(source), "config": encode(config), "seed": seed}
    _compare(folder, json.loads(json.dumps(about)))
    if not (folder / ROWS).exists():
        _Writer(model, processor, source, config, folder, seed).write()
    return dataclasses.replace(
        source, adapter="preference", path=str(folder / ROWS), images=str(folder / "images"), options={}
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A row that can be asked about."""

    sample: Preference
    prompt: Example
    """Its pictures are under noise."""


class _Writer:
    """One folder in the making."""

    def __init__(
        self,
        model: XGenMMForConditionalGeneration,
        processor: XGenMMProcessor,
        source: SourceConfig,
        config: NoisedConfig,
        folder: Path,
        seed: int,
    ) -> None:
        self.model = model
        self.processor = processor
        self.source = source
        self.config = config
        self.folder = folder
        self.seed = seed
        self.adapter = source.bind_adapter()
        self.reader = ListedRows(source.name, source.patterns, source.picture_place)

    def write(self) -> None:
        """Answer what has no answer yet, in the rows' order, and give them their name."""
        ids = [self.reader.row_id(index) for index in takewhile(self.reader.has, count())]
        done = {line["id"] for name in (UNFINISHED, FAULTS) for line in _whole_lines(self.folder / name)}
        with progress(f"{self.source.name}: answers under noise", len(ids), "rows", done=len(done)) as tell:
            missing = [index for index, row_id in enumerate(ids) if row_id not in done]
            for first in range(0, len(missing), ROWS_AT_ONCE):
                some = missing[first : first + ROWS_AT_ONCE]
                self.answer(some)
                tell(len(some))
        if not (self.folder / UNFINISHED).exists():
            raise DataError(f'data set "{self.source.name}": no row is left; {self.folder / FAULTS} says why')
        (self.folder / UNFINISHED).replace(self.folder / ROWS)

    def answer(self, indices: Sequence[int]) -> None:
        """Ask about some rows and write down what comes of it."""
        outcomes = [self.read(index) for index in indices]
        asked = [outcome for outcome in outcomes if isinstance(outcome, _Asked)]
        prompts, settings = [one.prompt for one in asked], GenerationConfig(max_new_tokens=self.config.max_new_tokens)
        texts = continue_prompts(self.model, self.processor, prompts, settings, batch_size=self.config.batch_size)
        faults = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
        rows = []
        for one, text in zip(asked, texts, strict=True):
            try:
                rows.append(self.row(one.sample, text))
            except BadSample as error:
                faults.append(
                    Fault(source=self.source.name, id=one.sample.id, reason=error.reason, detail=error.detail)
                )
        _append(self.folder / FAULTS, [dataclasses.asdict(fault) for fault in faults])
        _append(self.folder / UNFINISHED, rows)

    def read(self, index: int) -> _Asked | Fault:
        """A row as what the model is asked, or why it cannot be."""
        row_id = self.reader.row_id(index)
        try:
            sample = self.adapter(self.reader.read(index), lambda _: 0)
            if not isinstance(sample, Preference):
                raise ConfigError(f'data set "{self.source.name}" gives no preferences, but {type(sample).__name__}')
            if not any(isinstance(part, Picture) for turn in sample.prompt.turns for part in turn.parts):
                raise BadSample("no_image", "there is nothing to put noise on")
            prompt = self.processor.prompt(sample.prompt)
        except BadSample as error:
            return Fault(source=self.source.name, id=row_id, reason=error.reason, detail=error.detail)
        except ImageError as error:
            return Fault(source=self.source.name, id=row_id, reason=f"image_{error.reason}", detail=str(error))
        except PromptTooLong as error:
            return Fault(source=self.source.name, id=row_id, reason="text_too_long", detail=str(error))
        pixels = noised(prompt.pixel_values, self.config.noise, keyed(self.seed, "noise", row_id))
        return _Asked(sample=sample, prompt=dataclasses.replace(prompt, pixel_values=pixels))

    def row(self, sample: Preference, answer: str) -> dict[str, Any]:
        """A row of the adapter `preference`.

        Raises:
            BadSample: The answer is no text, or the preferred one.
        """
        not_blank(answer, "answer")
        if answer.strip() == sample.chosen.strip():
            raise BadSample("preference_identical", "the model gives the preferred answer under noise, too")
        if [turn.role for turn in sample.prompt.turns] != ["user"]:
            raise DataError(f"{sample.id}: a row of preferences has one question, and this prompt has more turns")
        parts = sample.prompt.turns[0].parts
        return {
            "id": sample.id,
            "image": [self.keep(part) for part in parts if isinstance(part, Picture)],
            "prompt": "".join(part if isinstance(part, str) else MARKER for part in parts),
            "chosen": sample.chosen,
            "rejected": answer.strip(),
        }

    def keep(self, picture: Picture) -> str:
        """The name of a picture in the folder; one that lies on the same disk is linked and takes no room."""
        content = picture.source if isinstance(picture.source, bytes) else picture.source.read_bytes()
        suffix = Path(picture.name).suffix.lower()
        known = suffix.removeprefix(".") in PICTURE_SUFFIXES
        name = hashlib.sha256(content).hexdigest()[:32] + (suffix if known else "")
        path = self.folder / "images" / name
        if path.exists():
            return name
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f"{name}.partial")
        aside.unlink(missing_ok=True)
        if not (isinstance(picture.source, Path) and _link(picture.source, aside)):
            aside.write_bytes(content)
        aside.replace(path)
        return name


def _link(path: Path, name: Path) -> bool:
    """Give a file another name, if both lie on one disk that can do so."""
    try:
        os.link(path, name)
    except OSError:
        return False
    return True


def _compare(folder: Path, about: Mapping[str, Any]) -> None:
    """Note what a folder is made of, or refuse to go on with something else, if it holds an answer."""
    path = folder / ABOUT
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if before == about:
        return
    if any((folder / name).exists() for name in (ROWS, UNFINISHED)):
        different = ", ".join(name for name in about if before.get(name) != about[name])
        raise ConfigError(f"{folder} holds answers of another {different}: remove it, or take another folder")
    (folder / FAULTS).unlink(missing_ok=True)
    write_whole(path, json.dumps(about, indent=1))


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, and off with one that a stop has cut."""
    lines = read_lines(path)
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, whole)
    return lines


def _append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    if not lines:
        return
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

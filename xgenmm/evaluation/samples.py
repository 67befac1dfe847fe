"""One line of `samples_*.jsonl`: a question with everything that was said and decided about it. Scores nothing."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xgenmm.config import ConfigError, decode
from xgenmm.data.quarantine import read_lines
from xgenmm.evaluation.answers import to_line

PREFIX = "samples_"
LONGEST_TEXT = 4096
"""A longer text cell without a space is an encoded picture and is not kept."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A question, its answer and the verdict."""

    place: int
    """In the order of the data set."""
    key: str
    doc: Mapping[str, Any]
    """The row, without its pictures: what scoring needs."""
    prompt: str
    answer: str
    extraction: Any = None
    """What the profile read from the answer; the answer itself where it reads nothing special."""
    unparsed: bool = False
    """Nothing could be read from it: it is wrong."""
    gold: str
    score: float | None = None
    """0..1; None for what has a score only as a part of the set."""
    result: Mapping[str, Any]
    """All that the profile's rules say of it."""
    fault: str = ""
    """`reason: detail` if the question could not be asked: it is wrong."""
    verdict: str = ""
    """A judge model's word on the answer; empty if there was no judge, or none that could be understood."""
    judge: str = ""
    """Whose."""
    group: str
    """Questions of one group depend on each other."""
    demonstrations: tuple[int, ...] = ()
    logps: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Log-probabilities of given answers, and of them under controls; see `answers.Answer`."""
    tokens: tuple[int, ...] = ()
    """Of each given answer."""


def without_pictures(doc: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON can hold it: pictures are left out, dates become text."""
    return {name: _plain(value) for name, value in doc.items() if name != "_root" and not _is_picture(value)}


def _is_picture(value: Any) -> bool:
    if isinstance(value, bytes | bytearray):
        return True
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes | bytearray)
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_picture(one) for one in value)
    return isinstance(value, str) and len(value) > LONGEST_TEXT and _is_base64(value)


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text[: LONGEST_TEXT // 4 * 4], validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else str(value)


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write the file whole or not at all."""
    scratch = path.with_suffix(".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        file.writelines(to_line(asdict(sample)) for sample in samples)
    scratch.replace(path)


def read_samples(path: Path) -> list[Sample]:
    """The samples of a file.

    Raises:
        ConfigError: A line is no sample of ours.
    """
    try:
        return [decode(Sample, line, f"{path}:{n}") for n, line in enumerate(read_lines(path), start=1)]
    except ValueError as error:
        raise ConfigError(f"{path} is no samples file of xgenmm evaluate: {error}") from error

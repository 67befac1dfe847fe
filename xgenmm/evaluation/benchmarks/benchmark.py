"""What a benchmark is: where its rows come from, what is asked, how an answer becomes a scorer's case, and which number
of the aggregate people quote. One file a benchmark stands beside this one; adding one is adding a file.

A benchmark has three parts that are tested apart: the prompt (`scorers.prompts`), the extraction with its score
(`scorers`, by profile) and the aggregate (`scorers`, too). A file here only ties them to a data set's columns.
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xgenmm.data.quarantine import BadSample
from xgenmm.evaluation.scorers.profiles import (
    LMMS_EVAL,
    OPEN_FLAMINGO,
    PYCOCOEVALCAP,
    VLMEVALKIT_2024,
    VLMEVALKIT_2026,
    Scored,
)
from xgenmm.evaluation.scorers.prompts import LMMS_PROMPTS, VLMEVALKIT_PROMPTS, interleaved
from xgenmm.types import Part, Picture

Doc = Mapping[str, Any]
"""One row, with the data set's columns. `_root` is the folder at which relative picture names start."""
Result = Mapping[str, Any]
"""What a scorer says of one answer, or of all."""
Path_ = tuple[str, ...]
SHORT, SENTENCE, FREE = 16, 64, 1024
"""Longest answers in tokens: a word or letter; a caption; anything (VLMEvalKit's limit for xGen-MM)."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows are: on the Hub, and under the data root by the same names."""

    repo: str
    split: str
    config: str | None = None
    columns: tuple[str, ...]
    """Without these, a file is not this data set."""
    pictures: "Source | None" = None
    """Another table that holds the pictures, where rows only name theirs; its `columns` are its key and the picture."""
    pictures_key: str = ""
    """The column that names the picture in that table."""
    file: str = ""
    """The file in the data set's folder, where that holds tables of several kinds."""
    made_by: str = ""
    """The command that makes it, for what is not on the Hub."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The number that tables quote: its place in a profile's aggregate, brought to percent or points."""

    path: Path_
    factor: float = 100.0
    name: str = "accuracy"
    others: tuple[Path_, ...] = ()
    """Further places; the number is the mean of all."""
    per: Path_ | None = None
    """Divide by what stands here."""


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """A benchmark of the few-shot suite."""

    kind: Literal["caption", "vqa"]
    train: Source
    demonstration: Callable[[Doc], str]
    """The answer that a demonstration shows."""
    images: Callable[[Doc], tuple[Picture, ...]] | None = None
    """Pictures of a train row, where they are elsewhere than a test row's."""
    max_new_tokens: int | None = None
    """Where OpenFlamingo has another one than for its kind."""


Control = Literal["blank", "shuffled"]
"""What stands in for a question's pictures: white paper, or those of another question of the set."""


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """Of a benchmark that writes nothing: a model is asked how likely it finds given answers."""

    candidates: Callable[[Doc], Sequence[str]]
    """The given answers, each as the model would write it."""
    controls: Mapping[Control, Callable[[Doc], Sequence[str]]] = field(default_factory=dict)
    """Which of them, from the first, are weighed again without the pictures: a model that does not look at them scores
    the same. `shuffled` is for questions with equally many pictures."""
    end: bool = False
    """Whether the end of an answer counts, too: whole answers are compared, and not how one begins."""
    prior: int = 0
    """Weigh all given answers of the set behind the first so many questions, and count what a question's own pictures
    make likelier: so a frequent word is no better than a rare one. For sets that ask the same of every picture."""


@dataclass(frozen=True, kw_only=True)
class JudgeQuestion:
    """What a judge model is asked about an answer (`evaluation.judging`)."""

    ask: Callable[[Doc, str], str]
    """From the row and the answer."""
    words: Mapping[str, str]
    """What the judge may say, and the verdict that it means."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """See the module."""

    name: str
    title: str
    source: Source
    licence: str
    scorer: str
    """A name of `evaluation.cases.SCORERS`."""
    prompt: str
    """A name of `scorers.prompts`."""
    headlines: Mapping[str, Headline]
    """By reference, as the scorer's rules are."""
    images: Callable[[Doc], tuple[Picture, ...]]
    key: Callable[[Doc], str]
    """The row's name in samples and messages."""
    gold: Callable[[Doc], str]
    case: Callable[[Doc], dict[str, Any]] = dict
    """The columns that the scorer wants; it also gets the answer as `prediction`."""
    value: Callable[[Result, Doc], float | None]
    """The score of one answer in 0..1, for standard errors and to find the wrong ones; None where it has none alone."""
    group: Callable[[Doc], str] | None = None
    """What makes rows depend on each other, such as their picture: standard errors are clustered by it."""
    wrong: Callable[[Doc], str] = lambda _: ""
    """An answer that is wrong under every rule: what an item counts as whose picture cannot be read."""
    max_new_tokens: int = FREE
    interleaved: bool = False
    """Pictures stand where the text says `<image n>`."""
    document: bool = False
    """The prompt is the beginning of a text, which the model continues, and not a turn of a conversation."""
    weighing: Weighing | None = None
    """For given answers; by default the model writes its own."""
    few_shot: FewShot | None = None
    expand: Callable[[Doc], Sequence[dict[str, Any]]] | None = None
    """The questions of a row that holds several; none for a row that is not part of the benchmark."""
    references: tuple[str, ...] = ()
    """Rules to follow under every profile; by default those of the profile."""
    extra: Callable[[Sequence[Scored]], dict[str, Any]] | None = None
    """Numbers of the whole set that no reference reports."""
    beside: tuple[str, ...] = ()
    """Numbers of the aggregate that belong beside the quoted one, by dotted names; a group's name means all of it."""
    judge: JudgeQuestion | None = None
    """What a judge model is asked, where one is given; its verdict is the case's `judge`."""
    notes: str = ""
    """What a reader of its numbers must know; docs/evaluation.md prints it."""

    def parts(self, doc: Doc, reference: str, pictures: Sequence[Picture] | None = None) -> tuple[Part, ...]:
        """What the user's turn holds under a reference: pictures first, but for interleaved benchmarks.

        Args:
            doc: The row.
            reference: Whose wording.
            pictures: Instead of the row's own.
        """
        builders = VLMEVALKIT_PROMPTS if reference in (VLMEVALKIT_2024, VLMEVALKIT_2026) else LMMS_PROMPTS
        builder = builders.get(self.prompt) or LMMS_PROMPTS.get(self.prompt) or VLMEVALKIT_PROMPTS[self.prompt]
        text, pictures = builder(doc), self.images(doc) if pictures is None else pictures
        if not self.interleaved:
            return (*pictures, text)
        messages = interleaved(text, [str(number) for number in range(len(pictures))])
        return tuple(
            pictures[int(part["value"])] if part["type"] == "image" else part["value"]
            for part in messages
            if part["value"]
        )

    def headline(self, aggregate: Result, references: Sequence[str]) -> tuple[str, float] | None:
        """Name and value of the quoted number, by the first of the references that has one."""
        for reference in references:
            if (entry := self.headlines.get(reference)) is not None:
                values = [at(aggregate, path) for path in (entry.path, *entry.others)]
                divisor = 1 if entry.per is None else at(aggregate, entry.per)
                if all(isinstance(value, int | float) for value in values) and divisor:
                    return entry.name, sum(values) / len(values) / divisor * entry.factor
        return None

    # ---- what few-shot prompts ask (evaluation.fewshot) ----

    def question(self, doc: Doc) -> str:
        """The question as it is in the data."""
        return str(doc["question"])

    def demonstration(self, doc: Doc) -> str:
        """The answer that a demonstration shows."""
        if self.few_shot is None:
            raise ValueError(f"{self.name} is no benchmark of the few-shot suite")
        return self.few_shot.demonstration(doc)

    def train_images(self, doc: Doc) -> tuple[Picture, ...]:
        """The picture of a row of the train split."""
        if self.few_shot is None or self.few_shot.images is None:
            return self.images(doc)
        return self.few_shot.images(doc)


BAD_ROW = (KeyError, ValueError, TypeError, IndexError, AttributeError, SyntaxError)
"""What a row raises that lacks a column, or holds something else than the column should."""


def explained(error: Exception) -> str:
    """Such an error in words."""
    return f"no column {error.args[0]}" if type(error) is KeyError else f"{type(error).__name__}: {error}"


def at(result: Any, path: Path_) -> Any:
    """What stands at a place of nested mappings; None if nothing does."""
    for step in path:
        result = result.get(step) if isinstance(result, Mapping) else None
    return result


# ---- pictures of a row ----


def picture(value: Any, name: str, root: Path) -> Picture:
    """A cell as an unopened picture: Hugging Face's {bytes, path}, bytes, base64 text, or a path below the root.

    Raises:
        BadSample: There is none.
    """
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if content:
            return Picture(source=bytes(content), name=path or name)
        value = path
    if isinstance(value, bytes | bytearray) and value:
        return Picture(source=bytes(value), name=name)
    if isinstance(value, str) and value:
        return _from_text(value, name, root)
    raise BadSample("image_missing", f"{name} has no picture")


LONGEST_PATH = 1000


def _from_text(value: str, name: str, root: Path) -> Picture:
    if len(value) <= LONGEST_PATH:
        path = root / value
        if root.resolve() not in path.resolve().parents:
            raise BadSample("path_escape", f"{name}: {value} leads out of {root}")
        if path.is_file() or path.suffix:
            return Picture(source=path, name=value)
    try:
        return Picture(source=base64.b64decode(value, validate=True), name=name)
    except (binascii.Error, ValueError) as error:
        raise BadSample("image_not_decodable", f"{name}: neither a file nor base64") from error


def cells(*columns: str) -> Callable[[Doc], tuple[Picture, ...]]:
    """Pictures of the columns that are filled, lists of pictures included, in this order."""

    def images(doc: Doc) -> tuple[Picture, ...]:
        found = []
        for column in columns:
            value = doc.get(column)
            values = value if isinstance(value, list | tuple) else [value]
            names = [column] if len(values) == 1 else [f"{column}[{place}]" for place in range(len(values))]
            found += [
                picture(one, name, Path(doc["_root"]))
                for one, name in zip(values, names, strict=True)
                if one is not None or column == columns[0]
            ]
        return tuple(found)

    return images


def column(name: str) -> Callable[[Doc], str]:
    """A column as text."""
    return lambda doc: str(doc[name])


# ---- the value of one result ----


def answers_of(doc: Doc) -> list[str]:
    """The human answers of a VQA row: texts, or objects that hold one each (VQAv2)."""
    return [one["answer"] if isinstance(one, Mapping) else str(one) for one in doc.get("answers") or ()]


def vqa_case(doc: Doc) -> dict[str, Any]:
    """A VQA row as the scorer wants it."""
    return {
        "question_type": doc.get("question_type"),
        "answer_type": doc.get("answer_type"),
        "answers": answers_of(doc),
    }


def number(*names: str) -> Callable[[Result, Doc], float | None]:
    """The first of these fields that a result has, nested ones as "a.b"."""

    def value(result: Result, _doc: Doc) -> float | None:
        for name in names:
            found = at(result, tuple(name.split(".")))
            if found is not None:
                return float(found)
        return None

    return value


def vqa_value(variant: str) -> Callable[[Result, Doc], float | None]:
    """VQA accuracy of one answer; lmms-eval's normalisation differs by benchmark, OpenFlamingo rounds a percentage."""
    plain = number(f"{variant}.score", "score")

    def value(result: Result, doc: Doc) -> float | None:
        found = plain(result, doc)
        percent = result.get("score_percent_rounded")
        return percent / 100 if found is None and percent is not None else found

    return value


def other_of_yes_no(column: str) -> Callable[[Doc], str]:
    """The answer that the column does not give."""
    return lambda doc: "No" if str(doc[column]).strip().lower() in ("yes", "1") else "Yes"


HIT = number("hit", "exact_match", "score", "correct")
"""Most scorers' verdict."""


# ---- headlines that many benchmarks share ----


def both_years(path: Path_, factor: float = 100.0, name: str = "accuracy") -> dict[str, Headline]:
    """The same place in both VLMEvalKits' aggregates."""
    return {ref: Headline(path=path, factor=factor, name=name) for ref in (VLMEVALKIT_2024, VLMEVALKIT_2026)}


def choice_headlines(lmms: Path_) -> dict[str, Headline]:
    """A multiple-choice set: VLMEvalKit's overall accuracy, and lmms-eval's key."""
    return {**both_years(("Overall",)), LMMS_EVAL: Headline(path=lmms)}


def caption_headlines() -> dict[str, Headline]:
    """CIDEr x 100."""
    return {
        **both_years(("CIDEr",), 1.0, "CIDEr"),
        **{ref: Headline(path=("CIDEr",), name="CIDEr") for ref in (PYCOCOEVALCAP, LMMS_EVAL)},
    }


def vqa_headlines(variant: str) -> dict[str, Headline]:
    """VQA accuracy; lmms-eval's normalisation differs by benchmark."""
    return {
        **both_years(("Overall",), 1.0, "VQA accuracy"),
        OPEN_FLAMINGO: Headline(path=("accuracy", "overall"), factor=1.0, name="VQA accuracy"),
        LMMS_EVAL: Headline(path=(variant,), name="VQA accuracy"),
    }

"""A sample as people read it: turns of text and pictures, in order."""

from collections.abc import Iterator
from dataclasses import dataclass

from xgenmm.types import Conversation, Document, Given, Part, Picture, Preference, Sample


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A piece of a turn."""

    kind: str
    """text, given or picture."""
    text: str = ""
    picture: int = -1
    """Its number among the sample's pictures."""


@dataclass(frozen=True, kw_only=True)
class Voice:
    """What one speaker says."""

    role: str
    """system, user or assistant; page for documents; chosen and rejected for the answers of a pair."""
    passages: tuple[Passage, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A sample to be read."""

    kind: str
    """document, conversation or preference."""
    voices: tuple[Voice, ...]
    pictures: tuple[Picture, ...]
    """Each once, in the order in which they come first."""

    @property
    def answers(self) -> tuple[Voice, ...]:
        """The two answers of a pair."""
        return tuple(voice for voice in self.voices if voice.role in ("chosen", "rejected"))

    @property
    def texts(self) -> list[str]:
        """All that is written."""
        return [passage.text for voice in self.voices for passage in voice.passages if passage.kind != "picture"]


def read_sample(sample: Sample) -> Reading:
    """A sample as people read it."""
    pictures: dict[Picture, int] = {}

    def passages(parts: tuple[Part, ...]) -> Iterator[Passage]:
        for part in parts:
            if isinstance(part, Picture):
                yield Passage(kind="picture", picture=pictures.setdefault(part, len(pictures)))
            elif isinstance(part, Given):
                yield Passage(kind="given", text=part.text)
            else:
                yield Passage(kind="text", text=part)

    voices = tuple(Voice(role=role, passages=tuple(passages(parts))) for role, parts in _spoken(sample))
    return Reading(kind=type(sample).__name__.lower(), voices=voices, pictures=tuple(pictures))


def _spoken(sample: Sample) -> list[tuple[str, tuple[Part, ...]]]:
    if isinstance(sample, Document):
        return [("page", sample.parts)]
    if isinstance(sample, Conversation):
        return [(turn.role, turn.parts) for turn in sample.turns]
    assert isinstance(sample, Preference)
    return [*_spoken(sample.prompt), ("chosen", (sample.chosen,)), ("rejected", (sample.rejected,))]

"""Cuts samples that are longer than a row: at paragraphs, pictures and turns, never inside a picture.

A window is a place in a sample, so that it can be written down in an index and cut out again without looking at the
rest. Knows no file.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

from xgenmm.types import Conversation, Document, Given, Part, Picture, Turn

_BORDERS = [re.compile(border) for border in (r"\n[ \t]*\n\s*", r"\n+", r"(?<=[.!?\u3002])\s*", r"\s+")]
"""Where a text may be cut, the best first: paragraphs, lines, sentences, words."""
_FINE = 8
"""A paragraph longer than a row's n-th part may be cut inside, so that rows are filled."""


class Window(NamedTuple):
    """A part of a sample. Documents: from a character of a part up to a character of another. Conversations: turns."""

    first: int
    first_character: int
    last: int
    last_character: int


class Unfit(ValueError):
    """Something that cannot be cut is longer than a row."""


@runtime_checkable
class Ruler(Protocol):
    """Measures before anything is put together."""

    tokens: int
    """Positions that a document's or a conversation's contents may take."""
    tiles: int

    def text(self, text: str) -> int:
        """About how many tokens a text has."""
        ...

    def picture(self, picture: Picture) -> tuple[int, int]:
        """Tokens and tiles of a picture."""
        ...

    def fits(self, sample: Document | Conversation) -> bool:
        """Whether it goes into a row, measured exactly."""
        ...


def windows(sample: Document | Conversation, ruler: Ruler) -> list[Window]:
    """The windows of a sample that is longer than a row, in order, each as full as borders allow.

    Raises:
        Unfit: A picture, or a turn with its answer and the pictures before it, is longer than a row.
    """
    if isinstance(sample, Document):
        return list(_document_windows(sample, ruler))
    return list(_conversation_windows(sample, ruler))


def cut_out(sample: Document | Conversation, window: Window) -> Document | Conversation:
    """A window as a sample of its own.

    A document's window that is not its end has no end of sequence. A conversation's window begins with the system turn,
    and with all pictures that were shown before it: its questions may be about them.
    """
    if isinstance(sample, Document):
        parts = tuple(_parts_between(sample.parts, window))
        return replace(sample, parts=parts, ends=sample.ends and window.last == len(sample.parts))
    system, rounds = _turns(sample)
    turns = rounds[window.first : window.last]
    shown = [part for turn in rounds[: window.first] for part in turn.parts if isinstance(part, Picture)]
    if shown and turns:
        turns = (replace(turns[0], parts=(*shown, *turns[0].parts)), *turns[1:])
    return replace(sample, turns=(*system, *turns))


def _turns(sample: Conversation) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """The system turn, if there is one, and the others."""
    begin = int(bool(sample.turns) and sample.turns[0].role == "system")
    return sample.turns[:begin], sample.turns[begin:]


def _parts_between(parts: Sequence[Part], window: Window) -> Iterator[Part]:
    for number in range(window.first, min(window.last + 1, len(parts))):
        part = parts[number]
        if isinstance(part, Picture):
            if number < window.last:
                yield part
            continue
        text = part.text if isinstance(part, Given) else part
        begin = window.first_character if number == window.first else 0
        end = window.last_character if number == window.last else len(text)
        if begin < end:
            yield Given(text=text[begin:end]) if isinstance(part, Given) else text[begin:end]


@dataclass(frozen=True)
class _Atom:
    """What is not cut."""

    part: int
    begin: int
    end: int
    """Behind its last character; 0 for pictures."""
    tokens: int
    tiles: int = 0


def _document_windows(document: Document, ruler: Ruler) -> Iterator[Window]:
    atoms = list(_atoms(document, ruler))
    first = 0
    while first < len(atoms):
        count = _as_many_as_fit(atoms[first:], ruler)
        if first + count < len(atoms):
            count = _without_last_pictures(atoms[first : first + count])
        while count and not ruler.fits(cut_out(document, _between(document, atoms, first, first + count))):
            count -= 1
        if not count:
            raise Unfit(f"part {atoms[first].part} does not fit into a row of {ruler.tokens} tokens")
        yield _between(document, atoms, first, first + count)
        first += count


def _between(document: Document, atoms: Sequence[_Atom], first: int, stop: int) -> Window:
    if stop == len(atoms):
        return Window(atoms[first].part, atoms[first].begin, len(document.parts), 0)
    return Window(atoms[first].part, atoms[first].begin, atoms[stop].part, atoms[stop].begin)


def _as_many_as_fit(atoms: Sequence[_Atom], ruler: Ruler) -> int:
    tokens = tiles = 0
    for count, atom in enumerate(atoms):
        tokens, tiles = tokens + atom.tokens, tiles + atom.tiles
        if count and (tokens > ruler.tokens or tiles > ruler.tiles):
            return count
    return len(atoms)


def _without_last_pictures(atoms: Sequence[_Atom]) -> int:
    """A picture goes with the text behind it; a window of nothing but pictures stays as it is."""
    count = len(atoms)
    while count and atoms[count - 1].tiles:
        count -= 1
    return count or len(atoms)


def _atoms(document: Document, ruler: Ruler) -> Iterator[_Atom]:
    for number, part in enumerate(document.parts):
        if isinstance(part, Picture):
            tokens, tiles = ruler.picture(part)
            yield _Atom(number, 0, 0, tokens + 1, tiles)
            continue
        text = part.text if isinstance(part, Given) else part
        for begin, end, tokens in _pieces(text, 0, len(text), ruler, 0):
            yield _Atom(number, begin, end, tokens)


def _pieces(text: str, begin: int, end: int, ruler: Ruler, level: int) -> Iterator[tuple[int, int, int]]:
    """Begin, end and tokens of the pieces of a text, cut at the best borders that make them small."""
    tokens = ruler.text(text[begin:end])
    if tokens * _FINE <= ruler.tokens or (level == len(_BORDERS) and tokens <= ruler.tokens):
        yield begin, end, tokens
        return
    if level == len(_BORDERS):  # one word longer than a row
        middle = (begin + end) // 2
        for half in ((begin, middle), (middle, end)):
            yield from _pieces(text, *half, ruler, level)
        return
    places = [match.end() for match in _BORDERS[level].finditer(text, begin, end) if begin < match.end() < end]
    for one, other in zip([begin, *places], [*places, end], strict=True):
        yield from _pieces(text, one, other, ruler, level + 1)


def _conversation_windows(conversation: Conversation, ruler: Ruler) -> Iterator[Window]:
    _, rounds = _turns(conversation)
    first = 0
    while first < len(rounds):
        stop = first
        while stop < len(rounds) and ruler.fits(cut_out(conversation, Window(first, 0, stop + 2, 0))):
            stop += 2
        if stop == first:
            raise Unfit(f"turn {first} with its answer does not fit into a row of {ruler.tokens} tokens")
        yield Window(first, 0, min(stop, len(rounds)), 0)
        first = stop

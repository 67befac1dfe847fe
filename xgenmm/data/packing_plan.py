"""Which documents share a row: best fit, with two capacities. Knows lengths, not tokens."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from xgenmm.data.plan import Row, Slot

OPEN_BINS = 32
"""More win next to nothing, and each makes the state larger: see benchmarks/planner.py."""
STALE_ROWS = 16 * OPEN_BINS
"""A bin leaves when so many rows have left since it was opened: no sample waits for long."""


class Item(NamedTuple):
    """A document to be packed."""

    slot: Slot
    draw: int
    """Which draw of its source it came from."""
    tokens: int
    tiles: int


@dataclass(slots=True)
class _Bin:
    free_tiles: int
    opened: int
    """Rows that had left when it was opened."""
    items: list[Item] = field(default_factory=list)


class _Bins:
    """Bins, the fullest first."""

    def __init__(self, tokens: int, tiles: int) -> None:
        self.tokens = tokens
        self.tiles = tiles
        self.free: list[int] = []  # tokens free in each of `bins`, ascending
        self.bins: list[_Bin] = []

    def __len__(self) -> int:
        return len(self.bins)

    def find(self, item: Item) -> int | None:
        """The fullest bin into which the document fits."""
        for place in range(bisect_left(self.free, item.tokens), len(self.bins)):
            if self.bins[place].free_tiles >= item.tiles:
                return place
        return None

    def put(self, item: Item, place: int | None, opened: int = 0) -> int:
        """Add a document to a bin, or to a new one, which moves; its new place."""
        free, chosen = (self.tokens, _Bin(self.tiles, opened)) if place is None else self.pop(place)
        chosen.items.append(item)
        chosen.free_tiles -= item.tiles
        place = bisect_right(self.free, free - item.tokens)  # behind its equals: the oldest is filled first
        self.free.insert(place, free - item.tokens)
        self.bins.insert(place, chosen)
        return place

    def pop(self, place: int) -> tuple[int, _Bin]:
        """Take a bin out; its free tokens, and itself."""
        return self.free.pop(place), self.bins.pop(place)


class Packer:
    """Fills rows from a stream of documents: each goes into the open bin that it fills best.

    A bin leaves as a row when it is full within a slack of 1/256, when a document fits nowhere (the fullest leaves), or
    when it has become too old.
    """

    def __init__(self, tokens: int, tiles: int) -> None:
        """Begin with no open bin.

        Args:
            tokens: Capacity of a row.
            tiles: Capacity of a row.
        """
        self._slack = tokens // 256
        self._open = _Bins(tokens, tiles)
        self._left = 0

    def put(self, item: Item) -> list[list[Item]]:
        """Take a document that fits into an empty row, and give the documents of every row that leaves."""
        leaving = []
        place = self._open.find(item)
        if place is None and len(self._open) == OPEN_BINS:
            leaving.append(self._leave(self._fullest()))
        place = self._open.put(item, place, self._left)
        if self._open.free[place] <= self._slack:
            leaving.append(self._leave(place))
        if leaving and len(self._open):
            bins = self._open.bins
            oldest = min(range(len(bins)), key=lambda place: bins[place].opened)
            if bins[oldest].opened + STALE_ROWS <= self._left:
                leaving.append(self._leave(oldest))
        return leaving

    def flush(self) -> list[list[Item]]:
        """All open bins, because nothing more comes."""
        return [self._leave(0) for _ in range(len(self._open))]

    def open_bins(self) -> list[tuple[int, list[Item]]]:
        """Age in rows and documents of every open bin, for `restore`."""
        return [(self._left - one.opened, list(one.items)) for one in self._open.bins]

    def restore(self, bins: Iterable[tuple[int, Sequence[Item]]]) -> None:
        """Go on from `open_bins`."""
        self._left = 0
        self._open = _Bins(self._open.tokens, self._open.tiles)
        for age, items in bins:
            self._open.free.append(self._open.tokens - sum(item.tokens for item in items))
            tiles = sum(item.tiles for item in items)
            self._open.bins.append(_Bin(self._open.tiles - tiles, -age, list(items)))

    def _fullest(self) -> int:
        """The bin with the least room, by whichever capacity is nearer to its end."""
        bins = self._open

        def room(place: int) -> int:
            return min(bins.free[place] * bins.tiles, bins.bins[place].free_tiles * bins.tokens)

        return min(range(len(bins)), key=room)

    def _leave(self, place: int) -> list[Item]:
        self._left += 1
        return self._open.pop(place)[1].items


def pack_step(items: Iterable[Item], tokens: int, tiles: int) -> list[list[Item]]:
    """Rows for exactly these documents: best fit, the largest first.

    Args:
        items: Documents, each of which fits into a row.
        tokens: Capacity of a row.
        tiles: Capacity of a row.
    """
    bins = _Bins(tokens, tiles)
    for item in sorted(items, key=lambda item: -max(item.tokens * tiles, item.tiles * tokens)):
        bins.put(item, bins.find(item))
    return [one.items for one in bins.bins]


def row_of(items: Sequence[Item]) -> Row:
    """The row in which these documents stand."""
    return Row(
        slots=tuple(item.slot for item in items),
        tokens=sum(item.tokens for item in items),
        tiles=sum(item.tiles for item in items),
        squares=sum(item.tokens**2 for item in items),
    )

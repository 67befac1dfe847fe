"""What a source gives at its n-th draw: which row and variant, and how long it is. Knows no other source."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xgenmm.data.lengths import Piece, SourceLengths
from xgenmm.data.permutation import EpochOrder, Permutation, keyed, keyed_choice

_BLOCK = 4096
"""Draws that are looked up at once."""


class Draw(NamedTuple):
    """One sample."""

    row: int
    epoch: int
    variant: int
    pieces: tuple[Piece, ...]


class Draws:
    """The draws 0, 1, 2, … of a source: epochs, each of which holds every row once, in an order of its own.

    They depend on seed, name and lengths: another source in the mixture leaves them alone.
    """

    def __init__(self, lengths: SourceLengths, samples: int | None, *, seed: int, mix_shards: int) -> None:
        """Choose the rows.

        Args:
            lengths: The source.
            samples: Take so many rows, drawn once, in place of all; more than there are repeats rows.
            seed: Of order and choice.
            mix_shards: As for `EpochOrder`.
        """
        self.lengths = lengths
        self._key = (seed, lengths.name)
        self._mix_shards = mix_shards
        self._subset = None if samples is None else _subset(lengths.rows, samples, keyed(*self._key, "subset"))
        self._shards = lengths.shards if self._subset is None else np.searchsorted(self._subset, lengths.shards)
        self.size = int(self._shards[-1])
        """Draws of an epoch."""
        self._order: tuple[int, EpochOrder] | None = None
        self._block: list[Draw] = []
        self._block_start = 0

    def at(self, draw: int) -> Draw:
        """One draw; those that follow each other are cheap."""
        place = draw - self._block_start
        if 0 <= place < len(self._block):
            return self._block[place]
        epoch, first = divmod(draw, self.size)
        self._block = self._read(epoch, np.arange(first, min(first + _BLOCK, self.size)))
        self._block_start = draw
        return self._block[0]

    def look_up(self, draws: Sequence[int]) -> dict[int, Draw]:
        """Any draws, by their number."""
        epochs: dict[int, list[int]] = defaultdict(list)
        for draw in draws:
            epochs[draw // self.size].append(draw)
        return {
            draw: found
            for epoch, numbers in epochs.items()
            for draw, found in zip(numbers, self._read(epoch, np.array(numbers) % self.size), strict=True)
        }

    def _read(self, epoch: int, places: NDArray[np.int64]) -> list[Draw]:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, EpochOrder(self._shards, self._mix_shards, (*self._key, "order", epoch)))
        rows = self._order[1].rows(places)
        if self._subset is not None:
            rows = self._subset[rows].astype(np.int64)
        if self.lengths.variants is None:
            variants, chosen = repeat(0), rows
        else:
            first = self.lengths.variants[rows].astype(np.int64)
            counts = self.lengths.variants[rows + 1].astype(np.int64) - first
            choice = keyed_choice(keyed(*self._key, "variant", epoch), rows, counts)
            variants, chosen = choice.tolist(), first + choice
        return list(map(Draw, rows.tolist(), repeat(epoch), variants, self._pieces(chosen)))

    def _pieces(self, variants: NDArray[np.int64]) -> list[tuple[Piece, ...]]:
        """The pieces of each of these variants."""
        if self.lengths.pieces is None:
            return list(zip(self._columns(variants), strict=True))
        first = self.lengths.pieces[variants].astype(np.int64)
        counts = self.lengths.pieces[variants + 1].astype(np.int64) - first
        stops = np.cumsum(counts)
        flat = self._columns(np.repeat(first - stops + counts, counts) + np.arange(stops[-1]))
        return [tuple(flat[stop - count : stop]) for stop, count in zip(stops.tolist(), counts.tolist(), strict=True)]

    def _columns(self, places: NDArray[np.int64]) -> list[Piece]:
        columns = (self.lengths.tokens, self.lengths.tiles, self.lengths.loss_tokens)
        return list(zip(*(column[places].tolist() for column in columns), strict=True))


def _subset(rows: int, samples: int, key: int) -> NDArray[np.uint32]:
    """So many rows in ascending order, all equally often but for chance."""
    repeats, rest = divmod(samples, rows)
    order = Permutation(rows, key)
    times = np.full(rows, repeats, dtype=np.uint32)
    for first in range(0, rest, _BLOCK):  # in blocks, so that ten million rows do not take a gigabyte on the way
        times[order(np.arange(first, min(first + _BLOCK, rest)))] += 1
    return np.repeat(np.arange(rows, dtype=np.uint32), times)

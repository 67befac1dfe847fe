"""Shuffles that are computed and not stored: any place of any epoch at once, in memory that does not grow with rows."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LISTED = 4096
"""Up to so many elements a shuffle is a sorted list of keys: exactly uniform, and cheaper than computing places."""
_ROUNDS = 6


def keyed(*parts: int | str) -> int:
    """64 bits that depend on all parts and on nothing else: the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def keyed_choice(key: int, numbers: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.int64]:
    """For each number one of 0 ... count - 1, each equally likely, decided by key and number."""
    return _scale(_mix(numbers.astype(np.uint64) + np.uint64(key)), counts.astype(np.uint64)).astype(np.int64)


class Permutation:
    """A shuffle of 0 ... size - 1, decided by a key.

    A Feistel network on pairs (left, right) with `sides[0] * sides[1]` just above size: each round adds to one side a
    keyed hash of the other, which can be undone, so no two places go to one. Results that are not below size go through
    again. NumPy's own generators are no ground for this: their streams may change between versions.
    """

    def __init__(self, size: int, key: int) -> None:
        self.size = size
        self._list: NDArray[np.int64] | None = None
        if size <= _LISTED:
            self._list = np.argsort(_mix(np.arange(size, dtype=np.uint64) + np.uint64(key)))
            return
        left = math.isqrt(size - 1) + 1
        self._sides = (np.uint64(left), np.uint64(-(-size // left)))
        self._keys = [np.uint64(keyed(key, turn)) for turn in range(_ROUNDS)]

    def __call__(self, places: NDArray[Any]) -> NDArray[np.int64]:
        """The elements at these places of the shuffled order."""
        if self._list is not None:
            return self._list[places]
        found = self._once(places.astype(np.uint64))
        while len(outside := np.flatnonzero(found >= self.size)):
            found[outside] = self._once(found[outside])
        return found.astype(np.int64)

    def _once(self, places: NDArray[np.uint64]) -> NDArray[np.uint64]:
        sides = list(np.divmod(places, self._sides[1]))
        for turn, key in enumerate(self._keys):
            changed, size = turn % 2, self._sides[turn % 2]
            side = sides[changed] + _scale(_mix(sides[1 - changed] + key), size)
            sides[changed] = side - np.where(side >= size, size, np.uint64(0))
        return sides[0] * self._sides[1] + sides[1]


class EpochOrder:
    """The order in which one epoch goes through the rows of a source: shards shuffled, then mixed some at a time.

    So rows that come soon after each other lie in few shards: object stores, row groups and caches want that.
    """

    def __init__(self, shards: NDArray[Any], mix_shards: int, key: Sequence[int | str]) -> None:
        """Shuffle the shards.

        Args:
            shards: Row numbers at which shards begin, and at which the last one ends.
            mix_shards: So many shards that follow each other in the shuffled order are mixed row by row.
            key: What the order depends on.
        """
        self._key = keyed(*key)
        order = Permutation(len(shards) - 1, self._key)(np.arange(len(shards) - 1))
        starts = np.asarray(shards, dtype=np.int64)
        self._firsts = starts[order]
        self._places = np.concatenate(([0], np.cumsum(starts[order + 1] - self._firsts)))  # where each shard begins
        self._windows = np.append(self._places[:-1:mix_shards], self._places[-1])
        self._mixed: tuple[int, Permutation] | None = None

    def rows(self, places: NDArray[Any]) -> NDArray[np.int64]:
        """The rows at these places of the epoch."""
        windows = np.searchsorted(self._windows, places, side="right") - 1
        mixed = np.empty(len(places), dtype=np.int64)
        for window in np.unique(windows):
            inside = windows == window
            start = self._windows[window]
            mixed[inside] = start + self._permutation(int(window))(places[inside] - start)
        shards = np.searchsorted(self._places, mixed, side="right") - 1
        return self._firsts[shards] + mixed - self._places[shards]

    def _permutation(self, window: int) -> Permutation:
        if self._mixed is None or self._mixed[0] != window:
            size = int(self._windows[window + 1] - self._windows[window])
            self._mixed = (window, Permutation(size, keyed(self._key, "window", window)))
        return self._mixed[1]


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64 bits: every bit of the result depends on every bit given (the finaliser of SplitMix)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _scale(numbers: NDArray[np.uint64], sizes: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """64 random bits to 0 ... size - 1, without a division; sizes below 2^32."""
    return ((numbers >> np.uint64(32)) * sizes) >> np.uint64(32)

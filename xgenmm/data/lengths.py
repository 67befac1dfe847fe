"""How long the samples of a source are: all that the planner knows of it. Columns may be memory maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class SourceLengths:
    """The usable rows of a source, numbered from 0 in the order in which they lie in its shards.

    A row has one or more variants (an image's several captions), of which every draw takes one; a variant has one or
    more pieces (documents of a packed row: several where it was cut because it is longer than a row). The three columns
    hold a number per piece, in the order of rows, then variants, then pieces.
    """

    name: str
    digest: str
    """Of everything that the columns depend on: shards, tokenizer, settings. Another digest is another plan."""
    shards: NDArray[Any]
    """Where shards begin and end: shard s holds rows `shards[s]` to before `shards[s + 1]`. A shard is what is best
    read together: a tar, or a row group of a parquet file."""
    tokens: NDArray[Any]
    """Positions of the language model, text and vision."""
    tiles: NDArray[Any]
    loss_tokens: NDArray[Any]
    """Supervised positions."""
    longest: int
    """Largest number in `tokens`."""
    most_tiles: int
    """Largest number in `tiles`."""
    variants: NDArray[Any] | None = None
    """Row r's variants are numbers `variants[r]` to before `variants[r + 1]`; None: every row has one."""
    pieces: NDArray[Any] | None = None
    """Variant v's pieces are places `pieces[v]` to before `pieces[v + 1]` of the columns; None: every one has one."""

    def __post_init__(self) -> None:
        if len(self.shards) < 2 or self.shards[0] != 0 or self.rows < 1:
            raise ValueError(f'source "{self.name}" has no rows, or its shards do not begin at row 0')
        count = self.rows
        for name, offsets in (("variants", self.variants), ("pieces", self.pieces)):
            if offsets is not None:
                if len(offsets) != count + 1 or offsets[0] != 0:
                    raise ValueError(
                        f'source "{self.name}": {name} must be {count + 1} offsets from 0 on, but is {len(offsets)}'
                    )
                count = int(offsets[-1])
        columns = {"tokens": self.tokens, "tiles": self.tiles, "loss_tokens": self.loss_tokens}
        if any(len(column) != count for column in columns.values()):
            found = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
            raise ValueError(f'source "{self.name}": columns for {count} pieces are needed, but there are {found}')

    @property
    def rows(self) -> int:
        """Number of usable rows."""
        return int(self.shards[-1])

    def place(self, row: int, variant: int, piece: int) -> tuple[int, int]:
        """Where a document stands in the columns, and how many pieces its sample has."""
        number = row + variant if self.variants is None else int(self.variants[row]) + variant
        if self.pieces is None:
            return number, 1
        first, stop = int(self.pieces[number]), int(self.pieces[number + 1])
        return first + piece, stop - first


Piece = tuple[int, int, int]
"""Tokens, tiles and supervised tokens of one document."""


def source_lengths(
    name: str, rows: Sequence[Sequence[Sequence[Piece]]], *, digest: str, shards: Sequence[int] | None = None
) -> SourceLengths:
    """Columns of a source that is small enough to be listed.

    Args:
        name: The source's name.
        rows: For every row its variants, for every variant its pieces.
        digest: As in `SourceLengths`.
        shards: As in `SourceLengths`; by default all rows are one shard.

    >>> lengths = source_lengths("a", [[[(9, 1, 4)]], [[(5, 0, 5), (3, 0, 3)]]], digest="d")
    >>> lengths.rows, lengths.tokens.tolist(), lengths.variants, lengths.pieces.tolist(), lengths.longest
    (2, [9, 5, 3], None, [0, 1, 3], 9)
    """
    variants = [variant for row in rows for variant in row]
    pieces = np.array([piece for variant in variants for piece in variant], dtype=np.uint32).reshape(-1, 3)
    return SourceLengths(
        name=name,
        digest=digest,
        shards=np.array([0, len(rows)] if shards is None else shards, dtype=np.int64),
        tokens=pieces[:, 0].copy(),
        tiles=pieces[:, 1].astype(np.uint16),
        loss_tokens=pieces[:, 2].copy(),
        longest=int(pieces[:, 0].max(initial=0)),
        most_tiles=int(pieces[:, 1].max(initial=0)),
        variants=None if all(len(row) == 1 for row in rows) else _offsets(rows),
        pieces=None if all(len(variant) == 1 for variant in variants) else _offsets(variants),
    )


def _offsets(lists: Sequence[Sequence[object]]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum([len(one) for one in lists]))).astype(np.int64)

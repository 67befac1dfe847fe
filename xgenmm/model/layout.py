"""Which positions of a packed row belong together, and what else all ways to compute attention take.

A row's layout is worked out once, on the CPU, for all layers and backends.
"""

import itertools
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

T = TypeVar("T")

Queries = Float[Tensor, "L H D"]
"""Of all positions of a row, one for each head; `H / KV` heads share keys and values."""
Keys = Float[Tensor, "L KV D"]
Values = Float[Tensor, "L KV V"]
Mixed = Float[Tensor, "L H V"]
"""What attention gives: for each position and head, a mixture of the values that it sees."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model does to the scores of queries and keys within a document."""

    scale: float
    window: int | None = None
    """How far back a token sees, itself included; None: to the beginning of its document."""
    softcap: float | None = None
    """Bound that scores approach, instead of growing without end (Gemma 2)."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One document of a row: its trunk, then its branches, each of which sees the trunk and itself."""

    start: int
    """Position in the row."""
    trunk: int
    """Tokens."""
    branches: tuple[int, ...] = ()
    """Tokens of each."""

    @property
    def length(self) -> int:
        """Tokens of trunk and branches together."""
        return self.trunk + sum(self.branches)

    @property
    def pairs(self) -> int:
        """Pairs of positions of which one sees the other, every position with itself included.

        >>> Segment(start=0, trunk=3, branches=(2,)).pairs  # 6 in the trunk; the branch sees it twice, and itself
        15
        """
        own = sum(length * (length + 1) // 2 for length in (self.trunk, *self.branches))
        return own + self.trunk * sum(self.branches)

    def branch_numbers(self) -> Int[Tensor, " L"]:
        """Of every position: 0 in the trunk, 1, 2, ... in the branches."""
        lengths = torch.tensor([self.trunk, *self.branches])
        return torch.arange(len(lengths)).repeat_interleave(lengths)

    def positions(self) -> Int[Tensor, " L"]:
        """Of every position: how many tokens it sees before it. A branch counts on from the end of the trunk."""
        index, numbers = torch.arange(self.length), self.branch_numbers()
        begins = torch.tensor([0, self.trunk, *self.branches]).cumsum(0)
        return index - torch.where(numbers == 0, 0, begins[numbers] - self.trunk)

    def visible(self, window: int | None = None) -> Bool[Tensor, "L L"]:
        """Which position (row) sees which (column): of what stands before it, its own branch and the trunk.

        Args:
            window: How far back a token sees, itself included; None: to the beginning.
        """
        numbers, index = self.branch_numbers(), torch.arange(self.length)
        seen = (index[:, None] >= index) & ((numbers == 0) | (numbers == numbers[:, None]))
        if window is not None:
            positions = self.positions()
            seen &= positions[:, None] - positions < window
        return seen


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The documents of a packed row in order, and the padding behind them."""

    segments: tuple[Segment, ...]
    length: int
    """Positions of the row, with its padding."""
    _memo: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tokens(self) -> int:
        """Positions without padding."""
        return self.segments[-1].start + self.segments[-1].length if self.segments else 0

    def positions(self) -> Int[Tensor, " L"]:
        """Of every position: how many tokens of its document it sees before it; 0 at padding."""
        padding = torch.zeros(self.length - self.tokens, dtype=torch.long)
        return torch.cat([*(segment.positions() for segment in self.segments), padding])

    @property
    def branched(self) -> bool:
        """Whether any document has branches."""
        return any(segment.branches for segment in self.segments)

    def once(self, key: Hashable, work: Callable[[], T]) -> T:
        """What a backend works out of the row, the first time that it is asked for."""
        if key not in self._memo:
            self._memo[key] = work()
        return self._memo[key]


row_in_work: ContextVar[Layout | None] = ContextVar("row_in_work", default=None)
"""The layout of the packed row that goes through a language model at this moment."""


def layout_between(ends: Int[Tensor, " ends"], length: int) -> Layout:
    """The layout of a row by where its documents begin, and where the last one ends.

    >>> [(segment.start, segment.length) for segment in layout_between(torch.tensor([0, 4, 10]), 12).segments]
    [(0, 4), (4, 6)]

    Args:
        ends: As in torch's `varlen_attn` (`cu_seqlens`). Where it lies on a GPU, this waits for it.
        length: Positions of the row, with its padding.

    Raises:
        ValueError: It does not begin with 0, falls, or goes beyond the row.
    """
    places = ends.tolist()
    if not places or places[0] != 0 or places[-1] > length or places != sorted(places):
        raise ValueError(
            f"documents of a row of {length} positions cannot end at {places}: from 0, rising, to {length}"
        )
    pairs = itertools.pairwise(places)
    return Layout(segments=tuple(Segment(start=a, trunk=b - a) for a, b in pairs if b > a), length=length)


def layout_of(documents: Int[Tensor, " L"], branches: Int[Tensor, " L"] | None = None) -> Layout:
    """Read a row's layout off its `Batch` fields.

    Args:
        documents: Where they lie on a GPU, this waits for it; a batch's own lie on the CPU.
        branches: Of the same positions.

    Raises:
        ValueError: A document or a branch lies in pieces, or padding lies between documents.
    """
    both = torch.stack([documents, torch.zeros_like(documents) if branches is None else branches])
    runs, lengths = both.unique_consecutive(dim=1, return_counts=True)
    found: list[tuple[int, list[int]]] = []
    before, number, at = -1, -1, 0
    for document, of, length in zip(*runs.tolist(), lengths.tolist(), strict=True):
        if document < 0 and at + length == len(documents):
            break  # padding
        if document == before + 1:
            # a document of branches only has a trunk of no tokens
            found.append((at, [length] if of == 0 else [0, length]))
        elif document == before and of > number and found:
            found[-1][1].append(length)
        else:
            raise ValueError(
                f"document {document}, branch {of} stands behind document {before}, branch {number}: documents must "
                "stand one behind the other, each with its trunk first and then its branches, and padding at the end"
            )
        before, number, at = document, of, at + length
    segments = (Segment(start=start, trunk=trunk, branches=tuple(rest)) for start, (trunk, *rest) in found)
    return Layout(segments=tuple(segments), length=len(documents))

"""Which positions of a packed row belong together. Knows no tokens and no tensors on a device."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One document of a row: its trunk, then its branches, each of which sees the trunk and itself."""

    trunk: int
    """Tokens."""
    branches: tuple[int, ...] = ()
    """Tokens of each."""

    @property
    def parts(self) -> tuple[int, ...]:
        """Lengths of trunk and branches, in order."""
        return (self.trunk, *self.branches)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The documents of a packed row in order, and the padding behind them."""

    segments: tuple[Segment, ...]
    padding: int = 0

    @property
    def length(self) -> int:
        """Positions of the row."""
        return sum(sum(segment.parts) for segment in self.segments) + self.padding


def layout_of(documents: Int[Tensor, " L"], branches: Int[Tensor, " L"] | None = None) -> Layout:
    """Read a row's layout off its `Batch` fields.

    Args:
        documents: Where they lie on a GPU, this waits for it; a batch's own lie on the CPU.
        branches: Of the same positions.

    Raises:
        ValueError: A document or a branch lies in pieces, or padding lies between documents.
    """
    docs = documents.tolist()
    branch = [0] * len(docs) if branches is None else branches.tolist()
    tokens = len(docs)
    while tokens and docs[tokens - 1] < 0:
        tokens -= 1
    segments: list[list[int]] = []
    before, number = -1, -1
    for document, of in zip(docs[:tokens], branch[:tokens], strict=True):
        if document == before + 1:
            # a document of branches only has a trunk of no tokens
            segments.append([1] if of == 0 else [0, 1])
        elif document == before and of == number:
            segments[-1][-1] += 1
        elif document == before and of > number:
            segments[-1].append(1)
        else:
            raise ValueError(
                f"document {document}, branch {of} stands behind document {before}, branch {number}: documents must "
                "stand one behind the other, each with its trunk first and then its branches, and padding at the end"
            )
        before, number = document, of
    return Layout(
        segments=tuple(Segment(trunk=trunk, branches=tuple(others)) for trunk, *others in segments),
        padding=len(docs) - tokens,
    )


def paths(segment: Segment, start: int) -> Sequence[Sequence[int]]:
    """The positions of every plain text from left to right that a document holds: its trunk with each branch."""
    trunk = range(start, start + segment.trunk)
    ends, begin = [], start + segment.trunk
    for length in segment.branches:
        ends.append([*trunk, *range(begin, begin + length)])
        begin += length
    return ends or [trunk]

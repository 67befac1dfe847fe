"""What a plan has drawn and how tightly it is packed: counts that stay small however long the plan is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xgenmm.data.draws import Draw
from xgenmm.data.mixture import Unit
from xgenmm.data.plan import Row

LENGTH_CLASSES = 24
"""Class n counts samples of 2^(n-1) to 2^n - 1 tokens."""
FILL_CLASSES = 20
"""Class n counts rows that are filled to n/20 up to (n+1)/20; the last one has the full rows too."""


@dataclass(kw_only=True, slots=True)
class SourceCounts:
    """What was drawn from one source."""

    samples: int = 0
    pieces: int = 0
    tokens: int = 0
    """Positions, text and vision."""
    loss_tokens: int = 0
    tiles: int = 0
    cut: int = 0
    """Samples of more than one piece."""
    longest: int = 0
    """Tokens of the longest sample, its pieces together."""
    lengths: list[int] = field(default_factory=lambda: [0] * LENGTH_CLASSES)

    def add(self, draw: Draw, unit: Unit) -> int:
        """Count one sample; how much it is, in this unit."""
        loss_before = self.loss_tokens
        length = 0
        for tokens, tiles, loss_tokens in draw.pieces:
            length += tokens
            self.tiles += tiles
            self.loss_tokens += loss_tokens
        self.samples += 1
        self.tokens += length
        self.pieces += len(draw.pieces)
        self.cut += len(draw.pieces) > 1
        self.longest = max(self.longest, length)
        self.lengths[min(length.bit_length(), LENGTH_CLASSES - 1)] += 1
        if unit == "samples":
            return 1
        return length if unit == "tokens" else self.loss_tokens - loss_before

    def amount(self, unit: Unit) -> int:
        """The count that a mixture in this unit goes by."""
        return {"samples": self.samples, "tokens": self.tokens, "loss_tokens": self.loss_tokens}[unit]


@dataclass(kw_only=True, slots=True)
class RowCounts:
    """What was packed into the rows of the steps so far."""

    rows: int = 0
    documents: int = 0
    tokens: int = 0
    tiles: int = 0
    tile_bound: int = 0
    """Rows that are nearer to their capacity of tiles than to that of tokens: many of them waste tokens."""
    fills: list[int] = field(default_factory=lambda: [0] * FILL_CLASSES)
    """Rows by how much of their tokens is used."""

    def add(self, row: Row, capacity: int, tile_capacity: int) -> None:
        """Count one row."""
        self.rows += 1
        self.documents += len(row.slots)
        self.tokens += row.tokens
        self.tiles += row.tiles
        self.tile_bound += row.tiles * capacity > row.tokens * tile_capacity
        self.fills[min(row.tokens * FILL_CLASSES // capacity, FILL_CLASSES - 1)] += 1


@dataclass(frozen=True, kw_only=True)
class SourceStatistics:
    """One source's part in a plan so far, what waits in open rows included."""

    counts: SourceCounts
    text_tokens: int
    vision_tokens: int
    epochs: float
    """How often it was gone through."""
    shares: Mapping[Unit, float]
    """Of all that was drawn, in each unit."""
    target: float
    """The share, in the mixture's unit, that it should have so far."""


@dataclass(frozen=True, kw_only=True)
class PlanStatistics:
    """A plan so far."""

    sources: Mapping[str, SourceStatistics]
    rows: RowCounts
    fill: float
    """Share of the rows' positions that hold a token; what is missing is padding where rows have a fixed length."""


def shares(counts: Sequence[SourceCounts], source: int) -> dict[Unit, float]:
    """The shares of one source in all units; 0 before the first draw.

    >>> a, b = SourceCounts(samples=1, tokens=10, loss_tokens=10), SourceCounts(samples=3, tokens=10, loss_tokens=0)
    >>> shares([a, b], 0)
    {'samples': 0.25, 'tokens': 0.5, 'loss_tokens': 1.0}
    """
    units: tuple[Unit, ...] = ("samples", "tokens", "loss_tokens")
    return {unit: counts[source].amount(unit) / max(sum(one.amount(unit) for one in counts), 1) for unit in units}

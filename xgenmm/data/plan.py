"""A planned step: which documents stand in which packed row, and which rank takes which rows. Reads nothing."""

from dataclasses import dataclass
from typing import NamedTuple


class Slot(NamedTuple):  # a tuple, because a plan makes tens of thousands a second
    """One document of a packed row."""

    source: int
    """The source's number in the mixture."""
    row: int
    """The row's number in the source (`SourceLengths`)."""
    epoch: int
    """How often the source was gone through before this draw."""
    variant: int
    """Which of the row's variants."""
    piece: int
    """Which of the variant's pieces."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Documents that stand in one packed row, in their order."""

    slots: tuple[Slot, ...]
    tokens: int
    tiles: int
    squares: int
    """Sum of the documents' squared lengths: attention costs so much."""


EMPTY_ROW = Row(slots=(), tokens=0, tiles=0, squares=0)


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """All rows of one optimizer step, over all ranks."""

    number: int
    """Counted from 0."""
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a row costs to train on, in tokens of a language model's linear layers.

    The defaults are the paper's 4.4 B model with a frozen vision encoder, three times forward where something trains: a
    token's linear layers take 2 * 3.62e9 * 3 FLOPs, attention 6 * 3072 * 32 FLOPs per squared token of a document, a
    tile 666e9 (encoder) + 3 * 63e9 (resampler).
    """

    square: float = 6 * 3072 * 32 / 21.7e9
    tile: float = (666e9 + 3 * 63e9) / 21.7e9

    def of(self, row: Row) -> float:
        """The cost of one row."""
        return row.tokens + self.square * row.squares + self.tile * row.tiles


def deal(plan: StepPlan, world_size: int, cost: Cost | None = None) -> tuple[tuple[Row, ...], ...]:
    """The rows of each rank: every row goes to one rank, and all ranks have about equally much to do.

    Rounds of one row for each rank, from the dearest rows to the cheapest; within a round, the dearest row goes to the
    rank that has least so far. So a rank's n-th row costs about the same as every other rank's n-th. Where rows are not
    a multiple of ranks, some ranks end with an `EMPTY_ROW`: all ranks get equally many rows, because all must take part
    in the same collectives.

    >>> rows = [Row(slots=(), tokens=n, tiles=0, squares=0) for n in (5, 9, 7)]
    >>> [[row.tokens for row in rank] for rank in deal(StepPlan(number=0, rows=tuple(rows)), 2)]
    [[9, 0], [7, 5]]
    """
    if world_size < 1:
        raise ValueError(f"world_size must be at least 1, but is {world_size}")
    cost = cost or Cost()
    costs = [cost.of(row) for row in plan.rows]
    order = sorted(range(len(costs)), key=lambda number: -costs[number])  # stable: equal costs keep their order
    loads = [0.0] * world_size
    ranks: list[list[Row]] = [[] for _ in range(world_size)]
    for first in range(0, len(order), world_size):
        emptiest = sorted(range(world_size), key=loads.__getitem__)
        dealt = order[first : first + world_size]
        for rank, number in zip(emptiest, dealt, strict=False):
            loads[rank] += costs[number]
            ranks[rank].append(plan.rows[number])
        for rank in emptiest[len(dealt) :]:
            ranks[rank].append(EMPTY_ROW)
    return tuple(tuple(rows) for rows in ranks)

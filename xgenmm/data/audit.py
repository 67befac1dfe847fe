"""`xgenmm data check`: what a stage's mixture is and what of it training will see, before it trains. Decodes no pixel.

Everything comes from the indexes (how long each document is, and what cannot be used) and from the planner, which plans
the steps that training would take.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xgenmm.data.lengths import SourceLengths
from xgenmm.data.mixture import Unit
from xgenmm.data.plan import Row, Slot
from xgenmm.data.plan_statistics import PlanStatistics, RowCounts
from xgenmm.data.planner import Planner

SNAPSHOTS = 100
"""How often on its way a plan is looked at."""
DRAWN_ROWS = 6
"""Packed rows that the report draws."""


@dataclass(frozen=True, kw_only=True)
class Stock:
    """What one source holds, before anything is drawn from it."""

    name: str
    records: int = 0
    quarantined: Mapping[str, int]
    """Records that cannot be used, by reason."""
    lengths: SourceLengths | None = None
    """None: nothing of it can be used."""
    fault: str = ""
    """Why nothing of it can be used."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A document in a packed row."""

    source: str
    id: str
    tokens: int
    vision_tokens: int
    loss_tokens: int
    cut: bool
    """It is a piece of a longer sample."""


@dataclass(frozen=True, kw_only=True)
class SourceAudit:
    """One source: what it holds, and its part in the planned steps."""

    name: str
    records: int
    quarantined: Mapping[str, int]
    usable: int
    supervised_share: float
    """Of all tokens of the source that are predicted."""
    longest: int
    """Tokens of its longest sample."""
    longest_id: str
    samples: int
    """Drawn in the planned steps, as all that follows."""
    text_tokens: int
    vision_tokens: int
    loss_tokens: int
    cut: int
    epochs: float
    target: float
    """Share that it should have, in the mixture's unit."""
    shares: Mapping[Unit, float]
    lengths: tuple[int, ...]
    """Samples by length: class n is 2^(n-1) to 2^n - 1 tokens."""
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class StageAudit:
    """A stage's data."""

    name: str
    unit: Unit
    steps: int
    """Steps that were planned."""
    of_steps: int | None
    """Steps of the stage; None: as long as one likes."""
    capacity: int
    """Tokens of a row."""
    sources: tuple[SourceAudit, ...]
    rows: RowCounts | None
    fill: float
    seen_at: tuple[int, ...]
    """Steps at which the shares were noted."""
    shares: Mapping[str, Mapping[Unit, tuple[float, ...]]]
    targets: Mapping[str, tuple[float, ...]]
    examples: tuple[tuple[Segment, ...], ...]
    """The first packed rows."""
    digest: str
    problem: str = ""
    """What is wrong with the stage's data as a whole."""

    @property
    def faults(self) -> list[str]:
        """Why training would not begin."""
        found = [f'data set "{source.name}": {source.fault}' for source in self.sources if source.fault]
        return [*found, self.problem] if self.problem else found


def audit(
    name: str,
    stocks: Sequence[Stock],
    planner: Planner | None,
    *,
    steps: int,
    of_steps: int | None,
    unit: Unit,
    capacity: int,
    tokens_per_tile: int,
    name_of: Callable[[Slot], str],
    problem: str = "",
) -> StageAudit:
    """Plan some steps of a stage and count.

    Args:
        name: The stage's.
        stocks: Its sources.
        planner: Before step 0; None where a source has nothing to plan with.
        steps: How many to plan; a plan that ends sooner ends sooner.
        of_steps: How many the stage has.
        unit: Of the mixture.
        capacity: Tokens of a row.
        tokens_per_tile: Vision tokens of a tile.
        name_of: Gives the id of a slot's row.
        problem: What is known to be wrong with the stage's data as a whole.
    """
    seen_at: list[int] = []
    seen: list[PlanStatistics] = []
    examples: tuple[tuple[Segment, ...], ...] = ()
    every = max(1, steps // SNAPSHOTS)
    for step in planner or ():
        if step.number == 0:
            examples = tuple(_segments(row, stocks, tokens_per_tile, name_of) for row in step.rows[:DRAWN_ROWS])
        last = step.number + 1 == steps
        if planner is not None and (step.number % every == 0 or last):
            seen_at.append(step.number + 1)
            seen.append(planner.statistics())
        if last:
            break
    final = planner.statistics() if planner is not None else None
    return StageAudit(
        name=name,
        unit=unit,
        steps=planner.number if planner is not None else 0,
        of_steps=of_steps,
        capacity=capacity,
        sources=tuple(_source_audit(number, stock, final, name_of) for number, stock in enumerate(stocks)),
        rows=final.rows if final is not None else None,
        fill=final.fill if final is not None else 0.0,
        seen_at=tuple(seen_at),
        shares={
            stock.name: {
                key: tuple(one.sources[stock.name].shares[key] for one in seen)
                for key in ("samples", "tokens", "loss_tokens")
            }
            for stock in stocks
        },
        targets={stock.name: tuple(one.sources[stock.name].target for one in seen) for stock in stocks},
        examples=examples,
        digest=planner.digest if planner is not None else "",
        problem=problem,
    )


def _source_audit(
    number: int, stock: Stock, statistics: PlanStatistics | None, name_of: Callable[[Slot], str]
) -> SourceAudit:
    lengths = stock.lengths
    planned = statistics.sources[stock.name] if statistics is not None else None
    longest, row, variant = (0, 0, 0) if lengths is None else longest_sample(lengths)
    tokens = 0 if lengths is None else int(np.sum(lengths.tokens, dtype=np.int64))
    loss_tokens = 0 if lengths is None else int(np.sum(lengths.loss_tokens, dtype=np.int64))
    counts = planned.counts if planned is not None else None
    return SourceAudit(
        name=stock.name,
        records=stock.records,
        quarantined=stock.quarantined,
        usable=0 if lengths is None else lengths.rows,
        supervised_share=loss_tokens / max(tokens, 1),
        longest=longest,
        longest_id="" if lengths is None else name_of(Slot(number, row, 0, variant, 0)),
        samples=counts.samples if counts else 0,
        text_tokens=planned.text_tokens if planned else 0,
        vision_tokens=planned.vision_tokens if planned else 0,
        loss_tokens=counts.loss_tokens if counts else 0,
        cut=counts.cut if counts else 0,
        epochs=planned.epochs if planned else 0.0,
        target=planned.target if planned else 0.0,
        shares=planned.shares if planned else {"samples": 0.0, "tokens": 0.0, "loss_tokens": 0.0},
        lengths=tuple(counts.lengths) if counts else (),
        fault=stock.fault or ("" if loss_tokens else "no token of it is supervised"),
    )


def longest_sample(lengths: SourceLengths) -> tuple[int, int, int]:
    """Tokens, row and variant of the longest sample, its pieces together."""
    tokens = np.asarray(lengths.tokens, dtype=np.int64)
    if lengths.pieces is not None:
        tokens = np.add.reduceat(tokens, np.asarray(lengths.pieces[:-1], dtype=np.int64))
    place = int(tokens.argmax())
    if lengths.variants is None:
        return int(tokens[place]), place, 0
    row = int(np.searchsorted(lengths.variants, place, side="right")) - 1
    return int(tokens[place]), row, place - int(lengths.variants[row])


def _segments(
    row: Row, stocks: Sequence[Stock], tokens_per_tile: int, name_of: Callable[[Slot], str]
) -> tuple[Segment, ...]:
    segments = []
    for slot in row.slots:
        lengths = stocks[slot.source].lengths
        assert lengths is not None, "a source without lengths is in no plan"
        place, pieces = lengths.place(slot.row, slot.variant, slot.piece)
        segments.append(
            Segment(
                source=lengths.name,
                id=name_of(slot),
                tokens=int(lengths.tokens[place]),
                vision_tokens=int(lengths.tiles[place]) * tokens_per_tile,
                loss_tokens=int(lengths.loss_tokens[place]),
                cut=pieces > 1,
            )
        )
    return tuple(segments)

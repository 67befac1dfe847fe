"""What the micro-batches of a step add up to, on one process and over all."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from xgenmm.costs.flops import Work
from xgenmm.data.loader import NOTHING, Step
from xgenmm.data.quarantine import Fault
from xgenmm.data.report import Tally, add_tallies
from xgenmm.model.layout import layout_of
from xgenmm.objectives.objective import ObjectiveOutput
from xgenmm.phases import phase
from xgenmm.training.ranks import gather
from xgenmm.types import IGNORE_INDEX, Batch

NO_WORK = Work(tiles=0, tokens=0, pairs=0, targets=0)


@dataclass(frozen=True, kw_only=True)
class DocumentLoss:
    """What one document adds to a step."""

    id: str
    loss: float
    targets: int

    def line(self) -> dict[str, Any]:
        """As JSON, which knows no number that is not finite."""
        return {"id": self.id, "loss": plain(self.loss), "targets": self.targets}


@dataclass(kw_only=True)
class Sums:
    """Losses, counts and figures of a step."""

    losses: list[float] = field(default_factory=list)
    """Of each micro-batch."""
    count: int = 0
    """Supervised tokens, or pairs."""
    figures: Counter[str] = field(default_factory=Counter)
    source_losses: Counter[str] = field(default_factory=Counter)
    source_counts: Counter[str] = field(default_factory=Counter)
    documents: list[DocumentLoss] = field(default_factory=list)
    remembered: int = 0
    """Tiles whose features came out of the feature cache."""

    @property
    def loss(self) -> float:
        """Of the whole step."""
        return sum(self.losses)

    def add(self, output: ObjectiveOutput, ids: tuple[str, ...], sources: Mapping[str, str]) -> None:
        """Add a micro-batch of documents with these ids, whose sources are looked up."""
        self.losses.append(output.loss.item())
        self.count += output.count
        self.figures.update(output.figures)
        documents = zip(ids, output.document_losses.tolist(), output.document_counts.tolist(), strict=True)
        for name, loss, count in documents:
            self.source_losses[sources[name]] += loss
            self.source_counts[sources[name]] += count
            self.documents.append(DocumentLoss(id=name, loss=loss, targets=count))

    def include(self, other: "Sums") -> None:
        """Add another process's sums; its documents stay with it: they are many, and seldom asked for."""
        self.losses += other.losses
        self.count += other.count
        self.figures.update(other.figures)
        self.source_losses.update(other.source_losses)
        self.source_counts.update(other.source_counts)
        self.remembered += other.remembered


@dataclass(frozen=True, kw_only=True)
class Totals:
    """A step of all processes together; the same on each of them, but for `sums.documents`."""

    sums: Sums
    tallies: Mapping[str, Tally]
    faults: Sequence[Fault]
    work: Work
    """What went through the model, without padding."""
    positions: int
    """With padding."""
    wait: float
    """Seconds for which the process that waited longest waited for data."""


@phase("communication")
def add_up(step: Step, sums: Sums) -> Totals:
    """What all processes did in a step. All must call it."""
    ours = Sums()
    ours.include(sums)
    idle = {NOTHING, *(fault.id for fault in step.faults)}
    part = Totals(
        sums=ours,
        tallies=step.tallies,
        faults=step.faults,
        work=sum((_work(batch, idle) for batch in step.batches), start=NO_WORK),
        positions=sum(len(batch.documents) for batch in step.batches if batch.ids != (NOTHING,)),
        wait=step.wait,
    )
    parts = gather(part)
    total, tallies = Sums(documents=sums.documents), dict[str, Tally]()
    for part in parts:
        total.include(part.sums)
        add_tallies(tallies, part.tallies)
    return Totals(
        sums=total,
        tallies=tallies,
        faults=[fault for part in parts for fault in part.faults],
        work=sum((part.work for part in parts), start=NO_WORK),
        positions=sum(part.positions for part in parts),
        wait=max(part.wait for part in parts),
    )


def _work(batch: Batch, idle: Set[str]) -> Work:
    """Of a row's documents, less those that stand for documents which could not be read, or for no row."""
    segments = layout_of(batch.documents, batch.branches).segments
    real = [segment for name, segment in zip(batch.ids, segments, strict=True) if name not in idle]
    return Work(
        tiles=len(batch.pixel_values),
        tokens=sum(segment.length for segment in real),
        pairs=sum(segment.pairs for segment in real),
        targets=int((batch.labels != IGNORE_INDEX).sum()),
    )


def plain(value: float) -> float | str:
    """A number as JSON can have it."""
    return value if math.isfinite(value) else str(value)

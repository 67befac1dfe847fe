"""What the micro-batches of a step add up to."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xgenmm.objectives.objective import ObjectiveOutput


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


def plain(value: float) -> float | str:
    """A number as JSON can have it."""
    return value if math.isfinite(value) else str(value)

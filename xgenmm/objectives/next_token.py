"""Cross-entropy of the supervised tokens: pre-training, SFT, interleaved SFT and safety tuning.

They differ in their data and in what trains, not in code.
"""

from dataclasses import dataclass

from xgenmm.objectives.objective import (
    Model,
    Objective,
    ObjectiveOutput,
    documents_of_targets,
    summed_nll,
    sums_of,
)
from xgenmm.objectives.reference import Reference
from xgenmm.types import Batch


@dataclass(frozen=True, kw_only=True)
class NextTokenConfig:
    """There is nothing to set."""

    def build(self, model: Model, reference: Reference | None = None) -> Objective:  # noqa: ARG002  (DPO needs them)
        """The objective; it needs nothing of the model beforehand."""
        return next_token


def next_token(model: Model, batch: Batch) -> ObjectiveOutput:
    """Sum of -log p over the supervised tokens of the batch, and their number."""
    (loss, logps), documents = summed_nll(model, batch), documents_of_targets(batch)
    return ObjectiveOutput(
        loss=loss,
        count=len(logps),
        figures={},
        document_losses=sums_of(-logps, documents, len(batch.ids)),
        document_counts=documents.bincount(minlength=len(batch.ids)),
    )

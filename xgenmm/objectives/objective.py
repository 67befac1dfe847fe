"""What an objective is: (model, batch) -> a sum of losses, their number, and figures to log. No optimizer, no files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int, Num
from torch import Tensor

from xgenmm.types import IGNORE_INDEX, Batch


@runtime_checkable
class Logps(Protocol):
    """What a model gives for a batch with targets."""

    @property
    def loss(self) -> Float[Tensor, ""] | None:
        """Minus the mean of the log-probabilities; or, where that was asked for, their sum."""
        ...

    @property
    def logps(self) -> Float[Tensor, " M"] | None:
        """Log-probability of each supervised target, in the order of their positions."""
        ...


@runtime_checkable
class Model(Protocol):
    """What an objective asks of a model."""

    def __call__(self, **inputs: Any) -> Logps:
        """Pass a batch with its targets through the model."""
        ...

    def frozen_reference(self) -> Callable[..., Logps]:
        """The model as it is now."""
        ...


@dataclass(frozen=True, kw_only=True)
class ObjectiveOutput:
    """Everything is a sum, so that micro-batches add up: whoever wants means divides by the sum of the counts."""

    loss: Float[Tensor, ""]
    """Sum over the `count` things that were judged."""
    count: int
    """Supervised tokens, or pairs."""
    figures: dict[str, float]
    """Sums over the same things, by name."""
    document_losses: Float[Tensor, " documents"]
    """What each document of the batch adds to `loss`, without a graph: for the loss of each data set."""
    document_counts: Int[Tensor, " documents"]
    """What each document adds to `count`."""


Objective = Callable[[Model, Batch], ObjectiveOutput]


def target_logps(model: Callable[..., Logps], batch: Batch) -> Float[Tensor, " M"]:
    """Log-probabilities of the batch's supervised targets, in the order of their positions."""
    logps = model(**batch.inputs(), targets=batch.labels[None]).logps
    assert logps is not None
    return logps


def summed_nll(model: Callable[..., Logps], batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, " M"]]:
    """Minus the sum of the log-probabilities; and each of them, without a graph."""
    output = model(**batch.inputs(), targets=batch.labels[None], reduction="sum")
    assert output.loss is not None
    assert output.logps is not None
    return output.loss, output.logps


def documents_of_targets(batch: Batch) -> Int[Tensor, " M"]:
    """The document in which each supervised target stands."""
    return batch.documents[batch.labels != IGNORE_INDEX]


def sums_of(values: Num[Tensor, " M"], owners: Int[Tensor, " M"], num_owners: int) -> Num[Tensor, " owners"]:
    """Sum of the values of each owner; 0 for one that has none."""
    return values.new_zeros(num_owners).index_add(0, owners.to(values.device), values)

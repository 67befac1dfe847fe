"""What an objective is: (model, batch) -> a sum of losses, their number, and figures to log. No optimizer, no files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int, Num
from torch import Tensor

from xgenmm.types import Batch


@runtime_checkable
class Logps(Protocol):
    """What a model gives for a batch with targets."""

    @property
    def logps(self) -> Float[Tensor, " M"] | None:
        """Log-probability of each supervised target, row after row."""
        ...

    @property
    def rows(self) -> Int[Tensor, " M"] | None:
        """The row in which each supervised target stands."""
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
    row_losses: Float[Tensor, " B"]
    """What each row of the batch adds to `loss`, without a graph: for the loss of each data set."""
    row_counts: Int[Tensor, " B"]
    """What each row adds to `count`."""


Objective = Callable[[Model, Batch], ObjectiveOutput]


def target_logps(model: Callable[..., Logps], batch: Batch) -> tuple[Float[Tensor, " M"], Int[Tensor, " M"]]:
    """Log-probabilities of the batch's supervised targets, and their rows."""
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=batch.pixel_values,
        image_layouts=batch.image_layouts,
        targets=batch.labels,
        branches=batch.branches,
    )
    assert output.logps is not None
    assert output.rows is not None
    return output.logps, output.rows


def row_sums(values: Num[Tensor, " M"], rows: Int[Tensor, " M"], num_rows: int) -> Num[Tensor, " B"]:
    """Sum of the values of each row; 0 for a row that has none."""
    return values.new_zeros(num_rows).index_add(0, rows, values)

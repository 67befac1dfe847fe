"""In which number format to compute: measured on this machine, for speed and for error, never assumed."""

import time
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16"]

WORTHWHILE = 1.5
"""bfloat16 is taken where it multiplies so many times faster. Machines with instructions for it reach 3 to 16, others
stay below 1, so that noise does not change the choice."""
TOLERABLE_ERROR = 0.01
"""Largest relative error of a bfloat16 matrix product. Rounding the result costs 0.002, adding in bfloat16 more."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a short measurement found; kept in the run folder."""

    speed_up: float
    """float32 time over bfloat16 time of a matrix product like those of a small language model."""
    error: float
    """Relative error of the bfloat16 product, in Frobenius norm."""

    @property
    def choice(self) -> Precision:
        """bfloat16, if it is both faster and accurate."""
        return "bfloat16" if self.speed_up >= WORTHWHILE and self.error <= TOLERABLE_ERROR else "float32"


def probe(device: torch.device, seconds: float = 0.2) -> Probe:
    """Measure what a linear layer does forward and backward, in both formats, and take the best time of each.

    Args:
        device: Where the model will run.
        seconds: How long each format may take; a CPU without instructions for bfloat16 needs that for one product.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(size, generator=generator).to(device) for size in ((128, 576), (576, 576)))
    best = {dtype: _best_time(inputs.to(dtype), weight.to(dtype), seconds) for dtype in (torch.float32, torch.bfloat16)}
    rounded, rounded_weight = inputs.bfloat16(), weight.bfloat16()
    exact = rounded.double() @ rounded_weight.double()
    error = ((rounded @ rounded_weight).double() - exact).norm() / exact.norm()
    return Probe(speed_up=best[torch.float32] / best[torch.bfloat16], error=error.item())


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Where the forward pass runs: float32 parameters compute in bfloat16 if that was chosen."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def lost_in(model: nn.Module, dtype: torch.dtype) -> dict[str, Float[Tensor, "..."]]:
    """Frozen parameters that would not survive being kept in `dtype`, as they are now.

    Frozen means unchanged: who keeps them in fewer bits while something else trains saves these instead.
    """
    frozen = {name: parameter.data for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in frozen.items() if not torch.equal(value.to(dtype).to(value.dtype), value)}


def _best_time(inputs: Float[Tensor, "B D"], weight: Float[Tensor, "D D"], seconds: float) -> float:
    """Seconds of the fastest of many runs; the first ones, which set things up, are the slowest."""
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        began = time.perf_counter()
        ((inputs @ weight.t()) @ weight)[0, 0].item()  # asking for a number waits for the device
        best = min(best, time.perf_counter() - began)
    return best

"""In which number format to compute: measured on this machine, for speed and for error, never assumed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16"]
Float32 = Literal["highest", "medium"]
"""How torch multiplies float32: as by default; or by oneDNN, if that is as accurate here. Processors without
instructions for lower precision give full accuracy under either name, and the second one is up to twice as fast."""

WORTHWHILE = 1.5
"""Another way is taken where it multiplies so many times faster. With instructions for bfloat16 it is 3 to 16 times,
without them below 1; oneDNN is 2 times as fast as torch's default for float32 or no faster: noise changes no choice."""
TOLERABLE_ERROR = 0.01
"""Largest relative error of a bfloat16 matrix product. Rounding the result costs 0.002, adding in bfloat16 more."""
ROUNDING = 1e-5
"""Largest relative error of a float32 product. Order of additions costs 1e-6, bfloat16 in between 2e-3."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a short measurement found; kept in the run folder. Errors are relative, in Frobenius norm."""

    speed_up: float
    """Time of a float32 matrix product like those of a small language model, done the better way, over bfloat16's."""
    error: float
    """Of the bfloat16 product."""
    float32_speed_up: float = 1.0
    """Time of torch's default float32 product over that of the other way."""
    float32_error: float = 0.0
    """Of the other way's product."""

    @property
    def choice(self) -> Precision:
        """bfloat16, if it is both faster and accurate."""
        return "bfloat16" if self.speed_up >= WORTHWHILE and self.error <= TOLERABLE_ERROR else "float32"

    @property
    def float32(self) -> Float32:
        """The other way, if it is both faster and accurate."""
        return "medium" if self.float32_speed_up >= WORTHWHILE and self.float32_error <= ROUNDING else "highest"


def probe(device: torch.device, seconds: float = 0.2) -> Probe:
    """Measure what a linear layer does forward and backward, in all formats, and take the best time of each.

    Args:
        device: Where the model will run.
        seconds: How long each format may take; a CPU without instructions for bfloat16 needs that for one product.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(size, generator=generator).to(device) for size in ((128, 576), (576, 576)))
    best = _best_time(inputs, weight, seconds)
    float32_speed_up, float32_error = 1.0, 0.0
    if device.type == "cpu":  # on a GPU the other way rounds to fewer bits, by its maker's word
        with multiplying("medium"):
            other, float32_error = _best_time(inputs, weight, seconds), _error(inputs, weight)
        float32_speed_up = best / other
        if float32_error <= ROUNDING:
            best = min(best, other)
    rounded = inputs.bfloat16(), weight.bfloat16()
    return Probe(
        speed_up=best / _best_time(*rounded, seconds),
        error=_error(*rounded),
        float32_speed_up=float32_speed_up,
        float32_error=float32_error,
    )


@contextmanager
def multiplying(way: Float32) -> Iterator[None]:
    """While this lasts, float32 is multiplied in this way."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(way)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Where the forward pass runs: float32 parameters compute in bfloat16 if that was chosen."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def lost_in(model: nn.Module, dtype: torch.dtype) -> dict[str, Float[Tensor, "..."]]:
    """Frozen parameters that would not survive being kept in `dtype`, as they are now.

    Frozen means unchanged: who keeps them in fewer bits while something else trains saves these instead.
    """
    frozen = {name: parameter.data for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in frozen.items() if not torch.equal(value.to(dtype).to(value.dtype), value)}


def _error(inputs: Float[Tensor, "B D"], weight: Float[Tensor, "D D"]) -> float:
    exact = inputs.double() @ weight.double()
    return (((inputs @ weight).double() - exact).norm() / exact.norm()).item()


def _best_time(inputs: Float[Tensor, "B D"], weight: Float[Tensor, "D D"], seconds: float) -> float:
    """Seconds of the fastest of many runs; the first ones, which set things up, are the slowest."""
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        began = time.perf_counter()
        ((inputs @ weight.t()) @ weight)[0, 0].item()  # asking for a number waits for the device
        best = min(best, time.perf_counter() - began)
    return best

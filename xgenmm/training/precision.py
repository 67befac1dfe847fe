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

BFLOAT16_FROM = 1.2
"""bfloat16 is taken where it multiplies so many times faster than the better float32. With instructions for it, it is
1.4 to 16 times, without them below 1: other work on the machine changes no choice."""
ONEDNN_FROM = 1.5
"""The same for oneDNN's float32 over torch's default; it is 2 times as fast or hardly faster."""
TOLERABLE_ERROR = 0.01
"""Largest relative error of a bfloat16 matrix product. Rounding the result costs 0.002, adding in bfloat16 more."""
SIZES = {"cpu": (128, 576), "cuda": (4096, 4096)}
"""Rows and width of the product that is measured: like those of a small language model; a GPU would take as long to be
told of that as to compute it.
"""
TURNS = 5
"""How often the formats are measured in turn."""
ROUNDING = 1e-5
"""Largest relative error of a float32 product. Order of additions costs 1e-6, bfloat16 in between 2e-3."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a short measurement found; kept in the run folder. Errors are relative, in Frobenius norm."""

    speed_up: float
    """Time of a float32 matrix product, done the better way, over bfloat16's."""
    error: float
    """Of the bfloat16 product."""
    float32_speed_up: float = 1.0
    """Time of torch's default float32 product over that of the other way."""
    float32_error: float = 0.0
    """Of the other way's product."""

    @property
    def choice(self) -> Precision:
        """bfloat16, if it is both faster and accurate."""
        return "bfloat16" if self.speed_up >= BFLOAT16_FROM and self.error <= TOLERABLE_ERROR else "float32"

    @property
    def float32(self) -> Float32:
        """The other way, if it is both faster and accurate."""
        return "medium" if self.float32_speed_up >= ONEDNN_FROM and self.float32_error <= ROUNDING else "highest"


def probe(device: torch.device, seconds: float = 0.2) -> Probe:
    """Measure what a linear layer does forward and backward, in all formats, and take the best time of each.

    Args:
        device: Where the model will run.
        seconds: How long each format may take; a CPU without instructions for bfloat16 needs that for one product.
    """
    rows, width = SIZES[device.type]
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(size, width, generator=generator).to(device) for size in (rows, width))
    rounded = inputs.bfloat16(), weight.bfloat16()
    best = other = fewer = float("inf")
    for _ in range(TURNS):  # in turn, so that other work on the machine meets all of them
        best = min(best, _best_time(inputs, weight, seconds / TURNS))
        with multiplying("medium"):
            other = min(other, _best_time(inputs, weight, seconds / TURNS))
        fewer = min(fewer, _best_time(*rounded, seconds / TURNS))
    float32_speed_up, float32_error = 1.0, 0.0
    if device.type == "cpu":  # on a GPU the other way rounds to fewer bits, by its maker's word
        with multiplying("medium"):
            float32_error = _error(inputs, weight)
        float32_speed_up = best / other
        if float32_error <= ROUNDING:
            best = min(best, other)
    return Probe(
        speed_up=best / fewer,
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
    """Seconds of the fastest of many runs; the first ones, which set things up, are the slowest.

    On a CPU it is the computing time of one thread: what else the machine does is no part of it, and nobody waits for
    a thread that is not let run.
    """
    clock = time.thread_time if inputs.device.type == "cpu" else time.perf_counter
    best, begin, threads = float("inf"), clock(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        while clock() - begin < seconds:
            began = clock()
            ((inputs @ weight.t()) @ weight)[0, 0].item()  # asking for a number waits for the device
            best = min(best, clock() - began)
    finally:
        torch.set_num_threads(threads)
    return best

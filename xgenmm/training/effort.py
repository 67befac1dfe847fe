"""How much of what the machine could do a step makes use of, part by part."""

import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from xgenmm.config import ConfigError
from xgenmm.costs.architectures import model_shape
from xgenmm.costs.flops import Flops, Passes, Trained, Work, step_flops
from xgenmm.costs.gpus import find_gpu
from xgenmm.costs.shapes import ModelShape
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.training.precision import Precision
from xgenmm.training.ranks import gather

log = logging.getLogger(__name__)

SIZES = {"cpu": (2048, 1024), "cuda": (8192, 8192)}
"""Rows and width of the product that a peak is measured with: large enough that longer ones are no faster."""
PROBE_SECONDS = 0.15
PROBE_RUNS = 10
"""At least, however slow: at a start other work, such as the end of another run, is not seldom."""


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """A step's operations as a share of what all processes could have done in its time."""

    mfu: float
    """Useful ones: what the step is about, without what is computed a second time to save memory."""
    hfu: float
    """Also these. What a kernel computes of pairs of positions that do not see each other is in neither."""
    parts: Mapping[str, float]
    """`mfu` by part: `vision`, `resampler`, `linear` (the language model's matrices), `attention` (its, by pairs of
    positions that see each other), `head`, `lora`, `reference` (a preference objective's second opinion)."""
    peak_tflops: float
    """Of all processes together, in the format of training."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What the steps of a stage cost, and what the machine could do."""

    shape: ModelShape
    trained: Trained
    compares: bool = False
    """The model as it was is asked about every batch, too."""
    peak: float
    """FLOP/s of all processes together."""

    def flops(self, work: Work, remembered: int = 0) -> Flops:
        """A step's operations, of which the encoder is spared those for features that were remembered."""
        parts = dict(step_flops(self.shape, work, self.trained).parts)
        if remembered and "vision" in parts:
            tiles = work.tiles * (2 if self.compares else 1)
            parts["vision"] *= 1 - remembered / tiles
        if self.compares:
            # Adapters are off, where there are any.
            parts["reference"] = Passes(sum(passes.forward for name, passes in parts.items() if name != "lora"))
        return Flops(parts=parts)

    def utilisation(self, work: Work, seconds: float, remembered: int = 0) -> Utilisation:
        """What part of the peak a step reached that took so long."""
        flops, could = self.flops(work, remembered), self.peak * seconds
        return Utilisation(
            mfu=flops.sum.useful / could,
            hfu=flops.sum.total / could,
            parts={name: passes.useful / could for name, passes in flops.parts.items()},
            peak_tflops=self.peak / 1e12,
        )


def effort_of(
    model: XGenMMForConditionalGeneration,
    trained: Trained,
    *,
    compares: bool,
    device: torch.device,
    precision: Precision,
) -> Effort | None:
    """What a model's steps cost on this machine; None where its backbones' sizes are not known. All ranks must call it.

    Args:
        model: Of which only the configuration is read.
        trained: What of it learns.
        compares: See `Effort`.
        device: This process's.
        precision: Of computation.
    """
    config, peak = model.config, sum(gather(peak_flops(device, precision)))
    try:
        shape = model_shape(config.vision_config.to_dict(), config.text_config.to_dict(), config.resampler)
    except ConfigError as error:
        log.info("utilisation is not told: %s", error)
        return None
    return Effort(shape=shape, trained=trained, compares=compares, peak=peak)


@functools.cache
def peak_flops(device: torch.device, precision: Precision) -> float:
    """FLOP/s that one process can reach: what a GPU's maker states, or what a large matrix product is measured at.

    The table of GPUs is for bfloat16; in float32 and for GPUs that it does not know, the product is measured as well.
    On a CPU it is measured in computing time: what else the machine does at that moment would make all later steps look
    better than they are.
    """
    if device.type == "cuda" and precision == "bfloat16":
        try:
            return find_gpu(torch.cuda.get_device_name(device)).tflops * 1e12
        except ConfigError as error:
            log.info("the GPU's peak is measured: %s", error)
    dtype = getattr(torch, precision)
    generator = torch.Generator().manual_seed(0)
    rows, width = SIZES[device.type]
    inputs, weight = (torch.randn(size, width, generator=generator).to(device, dtype) for size in (rows, width))
    clock, threads = (time.process_time, torch.get_num_threads()) if device.type == "cpu" else (time.perf_counter, 1)
    best, begin, runs = float("inf"), clock(), 0
    with torch.no_grad():
        while clock() - begin < PROBE_SECONDS * threads or runs < PROBE_RUNS:
            began = clock()
            F.linear(inputs, weight)[0, 0].item()  # asking for a number waits for the device
            best, runs = min(best, (clock() - began) / threads), runs + 1
    return 2 * rows * width * width / best

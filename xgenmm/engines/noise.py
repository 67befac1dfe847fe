"""Pictures under noise, as a model reads them: pixels in, pixels out.

Source of the form and of both schedules: the forward process of denoising diffusion (arXiv 2006.11239, equation 4),
with which visual contrastive decoding (arXiv 2311.16922) makes a model look less at a picture.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from xgenmm.config import Bounds, ConfigError, CountFrom0


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """How much noise. The paper says neither kind nor amount: ours are visual contrastive decoding's."""

    step: CountFrom0 = 500
    """After so many steps of the process; 0 is the picture as it is."""
    steps: Annotated[int, Bounds(least=2)] = 1000
    """Steps of the whole process."""
    schedule: Literal["sigmoid", "linear"] = "sigmoid"
    """How the noise of a step grows: from 1e-5 to 5e-3 along a sigmoid (visual contrastive decoding: 0.86 of a
    picture's amplitude are left after 500 of 1000 steps, 0.29 after all), or from 1e-4 to 2e-2 in equal parts
    (denoising diffusion: 0.28 after 500, 0.006 after all).
    """

    def __post_init__(self) -> None:
        if not 0 <= self.step <= self.steps:
            raise ConfigError(f"noise: step {self.step} must lie between 0 and steps, {self.steps}")

    @property
    def kept(self) -> float:
        """Share of the picture's variance that is left."""
        if self.schedule == "linear":
            noise = torch.linspace(1e-4, 2e-2, self.steps, dtype=torch.float64)
        else:
            noise = torch.linspace(-6, 6, self.steps, dtype=torch.float64).sigmoid() * (5e-3 - 1e-5) + 1e-5
        return float((1 - noise[: self.step]).prod())


def noised(pixels: Float[Tensor, "T 3 S S"], config: NoiseConfig, seed: int) -> Float[Tensor, "T 3 S S"]:
    """Normalised tiles with noise of variance 1 in the place of what is not kept; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(pixels.shape, generator=generator)
    return config.kept**0.5 * pixels + (1 - config.kept) ** 0.5 * noise

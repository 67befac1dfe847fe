"""What an optimizer step does: AdamW with a learning rate per part, warm-up and decay, one clip per step."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xgenmm.config import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move."""

    lr: float
    """Highest learning rate."""
    part_lr: dict[str, float] = field(default_factory=dict)
    """Another highest learning rate for `vision`, `resampler` or `language`."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises in equal parts."""
    floor: float = 0.1
    """Where the cosine ends, as a share of the highest rate."""
    weight_decay: float = 0.0
    """On all that trains, biases and norms included, as in the reference (spec 1.5)."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float = 1.0
    """Largest norm of a step's gradient; longer ones are shortened to it."""


def build_optimizer(config: OptimConfig, model: nn.Module, parts: Mapping[str, str]) -> torch.optim.AdamW:
    """AdamW over what trains, one group per part, named after it.

    Args:
        config: Learning rates and the rest.
        model: Its parameters with `requires_grad` train.
        parts: Name of a part -> its submodule's name in `model`.

    Raises:
        ConfigError: Nothing trains, or `part_lr` names no part.
    """
    for name in config.part_lr:
        if name not in parts:
            raise ConfigError(f'optim.part_lr: there is no part "{name}"; {nearest(name, parts)}')
    groups = []
    for part, module in parts.items():
        trainable = [p for p in model.get_submodule(module).parameters() if p.requires_grad]
        if trainable:
            groups.append({"params": trainable, "name": part, "peak": config.part_lr.get(part, config.lr)})
    if not groups:
        raise ConfigError(f"nothing trains: set one of {', '.join(parts)} under `train`")
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )


def lr_share(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate at a step, as a share of the highest.

    >>> config = OptimConfig(lr=1.0, warmup_steps=2, floor=0.1)
    >>> [round(lr_share(config, step, 10), 3) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.55, 0.1]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rates(optimizer: torch.optim.Optimizer, share: float) -> dict[str, float]:
    """Set every group to its share of the highest rate; rates by part."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """Norm of all gradients together."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


@torch.no_grad()
def scale_gradients(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Multiply all gradients."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)

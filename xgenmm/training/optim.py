"""What an optimizer step does: AdamW with learning rates by part and depth, a schedule, one clip, a moving average."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xgenmm.config import Bounds, ConfigError, Count, CountFrom0, NotNegative, Share, nearest
from xgenmm.costs.sharding import PARTS
from xgenmm.model.lora import whole
from xgenmm.phases import phase

Decay = Annotated[float, Bounds(least=0, below=1)]
"""Share of the old value that a moving average keeps."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move."""

    lr: NotNegative
    """Highest learning rate."""
    part_lr: dict[str, NotNegative] = field(default_factory=dict)
    """Another highest learning rate for `vision`, `resampler` or `language`."""
    layer_decay: dict[str, Annotated[float, Bounds(above=0, most=1)]] = field(default_factory=dict)
    """By part: how the rate falls per layer from its output down to its input, so that what reads raw data moves least.
    Between 0 and 1; 1 is no decay.
    """
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """What follows the warm-up: half a cosine, a long plateau with a short straight decay at the end
    (warm-up, stable, decay), a straight line, or nothing.
    """
    warmup_steps: CountFrom0 = 0
    """Steps over which the learning rate rises in equal parts."""
    decay_steps: Count | None = None
    """For `wsd`: length of the decay at the end; by default a tenth of all steps."""
    floor: Share = 0.1
    """Where the decay ends, as a share of the highest rate."""
    weight_decay: NotNegative = 0.0
    """On all that trains, biases and norms included, as in the reference (spec 1.5)."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NotNegative = 1e-8
    clip: Annotated[float, Bounds(above=0, endless=True)] = 1.0
    """Largest norm of a step's gradient; longer ones are shortened to it. `.inf`: none is."""
    ema: Decay | None = None
    """Keep a moving average of what trains, with this share of the old average in every step (0.999, say). It is then
    what is evaluated, and what the stage's weights hold.
    """

    def __post_init__(self) -> None:
        for setting, names in (("part_lr", self.part_lr), ("layer_decay", self.layer_decay)):
            for name in names:
                if name not in PARTS:
                    raise ConfigError(f'optim.{setting}: there is no part "{name}"; {nearest(name, PARTS)}')
        if self.decay_steps is not None and self.schedule != "wsd":
            raise ConfigError("optim.decay_steps: only with the schedule wsd")


def build_optimizer(config: OptimConfig, model: nn.Module, parts: Mapping[str, str]) -> torch.optim.AdamW:
    """AdamW over what trains: one group per part, named after it, or one per layer of a part with `layer_decay`.

    Args:
        config: Learning rates and the rest.
        model: Its parameters with `requires_grad` train.
        parts: Name of a part -> its submodule's name in `model`.

    Raises:
        ConfigError: Nothing trains.
    """
    groups = []
    for part, module in parts.items():
        peak = config.part_lr.get(part, config.lr)
        for height, parameters in _by_height(model.get_submodule(module), config.layer_decay.get(part, 1.0) < 1):
            share = config.layer_decay[part] ** height if height else 1.0
            groups.append({"params": parameters, "name": part, "peak": peak * share})
    if not groups:
        raise ConfigError(f"nothing trains: set one of {', '.join(parts)} under `train`")
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )


def _by_height(part: nn.Module, layered: bool) -> list[tuple[int, list[nn.Parameter]]]:
    """What trains in a part, by the number of layers between it and the part's output, the output's own first.

    The layers are the longest numbered list in the part. What is declared before it (embeddings, latents) is below all
    layers, what is declared after it (last norm, head) above.
    """
    numbered = [re.match(r"(|.*?\.)(\d+)\.", name) for name, _ in part.named_parameters()]
    lengths = Counter(prefix for prefix, _ in dict.fromkeys(match.groups() for match in numbered if match))
    layers, num_layers = lengths.most_common(1)[0] if lengths else ("", 0)
    groups: defaultdict[int, list[nn.Parameter]] = defaultdict(list)
    height = num_layers + 1 if layered else 0
    for parameter, match in zip(part.parameters(), numbered, strict=True):
        if layered and match and match[1] == layers:
            height = num_layers - int(match[2])
        elif height <= num_layers:
            height = 0
        if parameter.requires_grad:
            groups[height].append(parameter)
    return sorted(groups.items())


def lr_share(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate at a step, as a share of the highest.

    >>> config = OptimConfig(lr=1.0, warmup_steps=2, floor=0.1)
    >>> [round(lr_share(config, step, 10), 3) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.55, 0.1]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    begin = config.warmup_steps
    if config.schedule == "wsd":
        begin = max(begin, steps - (config.decay_steps or math.ceil(steps / 10)))
    progress = max(step - begin, 0) / max(steps - begin, 1)
    falling = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "wsd": 1 - progress,
        "linear": 1 - progress,
        "constant": 1.0,
    }
    return config.floor + (1 - config.floor) * falling[config.schedule]


def set_learning_rates(optimizer: torch.optim.Optimizer, share: float) -> dict[str, float]:
    """Set every group to its share of its highest rate; the largest one of each part."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
        rates[group["name"]] = max(group["lr"], rates.get(group["name"], 0.0))
    return rates


def complete_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Zeros where no document of a step touches a weight, as a resampler's in a step without pictures: its moments and
    its decay go on as they do where several processes share the work, of which others may have touched it.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """Norm of all gradients together, over all processes that share them."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    with phase("communication"):
        return whole(norm)


@torch.no_grad()
def scale_gradients(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Multiply all gradients."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


AVERAGE = "average"
"""Where the optimizer's state of a parameter keeps its moving average: checkpoints then hold it without being told."""


@torch.no_grad()
def update_average(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Move the average of every parameter towards its value. It begins with the value after the first step."""
    for parameter, state in _moved(optimizer):
        if AVERAGE in state:
            state[AVERAGE].lerp_(parameter, 1 - decay)
        else:
            state[AVERAGE] = parameter.detach().clone()


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Parameters have their average values for as long as the context lasts; those without an average their own."""
    pairs = [(parameter.data, state[AVERAGE]) for parameter, state in _moved(optimizer) if AVERAGE in state]
    _swap(pairs)
    try:
        yield
    finally:
        _swap(pairs)


def _moved(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Parameters that have ever had a gradient, and their state."""
    return [(parameter, state) for parameter, state in optimizer.state.items() if state]


def _swap(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for one, other in pairs:
        held = one.clone()
        one.copy_(other)
        other.copy_(held)

"""LoRA on any part of the model: put on, turned off for a reference, merged on the way out.

The adapters are peft's, which is imported when the first one is put on: it takes half a second.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from xgenmm.config import Bounds, ConfigError, Count

if TYPE_CHECKING:
    from peft.tuners.lora import Linear as LoraLinear
else:
    LoraLinear = nn.Module
    """A layer with an adapter, where types are written down."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters on every linear layer of a part, but the language model's head. Not published for xGen-MM:
    ours.
    """

    rank: Count = 16
    alpha: Count = 32
    """The adapter's output is scaled by alpha / rank."""
    dropout: Annotated[float, Bounds(least=0, below=1)] = 0.0


def add_lora(part: nn.Module, config: LoraConfig, spared: Iterable[nn.Module] = ()) -> None:
    """Put an adapter that does nothing yet on every linear layer.

    Args:
        part: The vision encoder, the resampler or the language model.
        config: Size of the adapters.
        spared: Modules of the part that get none.

    Raises:
        ConfigError: The part has no linear layer.
    """
    from peft import LoraConfig as PeftLoraConfig
    from peft import inject_adapter_in_model

    without = {id(inner) for module in spared for inner in module.modules()}
    names = [
        name
        for name, module in part.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) not in without
    ]
    if not names:
        raise ConfigError(
            f"{type(part).__name__} has no linear layer that could carry LoRA: train all of it, or nothing"
        )
    settings = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=names,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in part.modules()),
    )
    inject_adapter_in_model(settings, part)


def has_lora(module: nn.Module) -> TypeGuard[LoraLinear]:
    """Whether a layer carries an adapter. As long as nobody imported peft, none does."""
    peft = sys.modules.get("peft.tuners.lora")
    return peft is not None and isinstance(module, peft.Linear)


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The layers that carry an adapter, by name; empty without LoRA."""
    return {name: module for name, module in model.named_modules() if has_lora(module)}


def does_nothing(layer: LoraLinear) -> bool:
    """Whether a layer's adapter is still as it was born: its second half is 0."""
    return not any(bool(second.get_parameter("weight").any()) for second in layer.lora_B.children())


@contextmanager
def lora_off(layers: Iterable[LoraLinear]) -> Iterator[None]:
    """These layers as they were before LoRA, for as long as the context lasts."""
    layers = list(layers)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts, on every process that shares it; all must call it."""
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    # parts of unequal size come in memory that is larger than the tensor
    return full if full.untyped_storage().nbytes() == full.nbytes else full.clone()


@torch.no_grad()
def merged_state(
    model: nn.Module, instead: Mapping[str, Tensor] | None = None, *, keep: bool = True
) -> dict[str, Tensor]:
    """The model's state with every adapter added to its layer, under the names that the layers had before LoRA.

    A merged weight is float32: added to a bfloat16 weight, most of a small change would be rounded away. The model
    itself is not changed.

    Args:
        model: Also one that processes share; all of them must then call this.
        instead: Values to take for the model's own, by their names in the model: of weights that were rounded.
        keep: Whether this process wants the result; otherwise it only helps the others, and gets nothing.
    """
    adapted, instead = lora_layers(model), instead or {}
    state: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if _is_adapter_weight(name, adapted):
            continue
        tied = first.setdefault(id(value), name)
        if tied != name:  # a tied weight has two names and stays one tensor
            state |= {name: state[tied]} if keep else {}
            continue
        value = whole(value.detach())
        if keep:
            value = instead.get(name, value).to(value.device)
        owner, _, leaf = name.rpartition(".base_layer.")
        if owner in adapted and leaf == "weight":
            layer = adapted[owner]
            deltas = (whole(layer.get_delta_weight(adapter)).float() for adapter in layer.active_adapters)
            value = sum(deltas, start=value.float())
        if keep:
            state[f"{owner}.{leaf}" if owner in adapted else name] = value.cpu()
    return state


def _is_adapter_weight(name: str, adapted: Mapping[str, LoraLinear]) -> bool:
    owner, separator, _ = name.partition(".lora_")
    return bool(separator) and owner in adapted

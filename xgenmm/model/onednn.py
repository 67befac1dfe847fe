"""Linear layers of models that write answers, on a CPU: weights in the order in which oneDNN reads them.

torch brings a weight into that order anew for every product, which is much of what a product costs where a few tokens
are written (`benchmarks/decode.py`). In bfloat16 the numbers are the same, bit for bit; in float32, where torch asks
another library, sums are rounded another way.
"""

import functools
import os
from types import MethodType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

SHARE_OF_MEMORY = 0.25
"""A model is left as it is if its second copy would take more of the machine's memory."""
ROWS = 8
"""For how many rows the order is chosen. It is right for any number, and best near this one."""
LARGE = 1_000_000
"""In float32, smaller weights stay in a cache, where their order does not matter."""
FEW_ROWS = range(2, 33)
"""In float32, so many gain: one is read without any order, and of more the order costs little of the product."""


class _Ordered(NamedTuple):
    weight: Tensor
    """Of no order that anything but oneDNN reads."""
    made_of: tuple[int, int]
    """Where the layer's own weight was, and how often it had been changed in place."""


_ordered: "WeakKeyDictionary[nn.Module, _Ordered]" = WeakKeyDictionary()


def use_ordered_weights(model: nn.Module) -> None:
    """Have a model's linear layers keep a second copy of their weights, made when it is first of use.

    Only in inference mode on a CPU, in bfloat16 and, if they are large, in float32; a weight that changes is copied
    again. Whatever reads weights themselves, such as training, saving and adapters, finds what was there before.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
    layers = [layer for layer in layers if _is_read_faster(layer.weight)]
    if sum(layer.weight.nbytes for layer in layers) > SHARE_OF_MEMORY * _memory():
        return
    for layer in layers:
        layer.forward = MethodType(_linear, layer)


def _linear(layer: Any, inputs: Float[Tensor, "*rows F"]) -> Float[Tensor, "*rows D"]:
    weight = layer.weight
    if not (
        not torch.compiler.is_compiling()
        and torch.is_inference_mode_enabled()
        and inputs.dtype is weight.dtype
        and _is_read_faster(weight)
        and (weight.dtype is torch.bfloat16 or inputs.shape[:-1].numel() in FEW_ROWS)
        and inputs.device.type == weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not weight.is_inference()  # tells of no changes
    ):
        return F.linear(inputs, weight, layer.bias)
    found = _ordered.get(layer)
    now = weight.data_ptr(), weight._version
    if found is None or found.made_of != now:
        found = _ordered[layer] = _Ordered(torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS), now)
    return torch.ops.mkldnn._linear_pointwise(inputs, found.weight, layer.bias, "none", [], "")


def _is_read_faster(weight: Tensor) -> bool:
    if weight.dtype is torch.float32:
        return torch.backends.mkldnn.is_available() and weight.numel() >= LARGE
    return weight.dtype is torch.bfloat16 and _has_bfloat16()


@functools.cache
def _has_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

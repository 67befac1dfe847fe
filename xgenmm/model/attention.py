"""Attention over packed rows: a token sees its own document up to itself, and nothing of its neighbours.

`attend` is the only place that computes it. Language models of transformers reach it through transformers' attention
interface: `packed_attention` is registered there under a name of its own, which a model is given once and keeps; a
forward pass says with a keyword argument how its row is laid out. Without that argument, the same function does what
the model did before (padded rows, a cache), so that nothing has to be switched back and forth, and nothing computed
later (activations that are computed again in the backward pass) can fall back to attention across documents.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from xgenmm.model.layout import Layout

PREFIX = "packed_"
"""`packed_sdpa` is `sdpa` where no layout is given."""

_without_mask: ContextVar[bool] = ContextVar("_without_mask", default=False)


def attend(
    query: Float[Tensor, "1 H L D"],
    key: Float[Tensor, "1 KV L D"],
    value: Float[Tensor, "1 KV L V"],
    layout: Layout,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "1 H L V"]:
    """Causal attention within each document of a packed row."""
    lengths = [length for segment in layout.segments for length in segment.parts]
    if layout.padding:
        lengths.append(layout.padding)
    parts = iter(zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True))

    def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=dropout, scale=scale, enable_gqa=grouped
        )

    outputs: list[Tensor] = []
    for segment in layout.segments:
        trunk = next(parts)
        outputs_of = []
        for _ in segment.branches:
            whole = causal(*(torch.cat(pair, dim=2) for pair in zip(trunk, next(parts), strict=True)))
            outputs_of.append(whole)
        if not outputs_of:
            outputs.append(causal(*trunk))
            continue
        outputs.append(outputs_of[0][:, :, : segment.trunk])
        outputs += [whole[:, :, segment.trunk :] for whole in outputs_of]
    if layout.padding:
        outputs.append(next(parts)[2].new_zeros(1, query.shape[1], layout.padding, value.shape[-1]))
    return torch.cat(outputs, dim=2)


def use_packed_attention(language_model: PreTrainedModel) -> None:
    """Let a language model's attention take layouts, once and for all.

    Raises:
        ValueError: The model has attention of its own making.
    """
    before = language_model.config._attn_implementation
    assert before is not None  # transformers settles it when a model is made
    if before.startswith(PREFIX):
        return
    if not language_model._can_set_attn_implementation():
        raise ValueError(
            f"{type(language_model).__name__} does not use transformers' attention interface, so documents of a packed "
            "row cannot be kept apart in it: choose another language model"
        )
    name = PREFIX + before
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        ALL_ATTENTION_FUNCTIONS.register(name, _attention_over(before))
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, _mask_over(before))
    language_model.config._attn_implementation = name


@contextmanager
def no_mask() -> Iterator[None]:
    """While this lasts, a language model builds no mask: a layout is given in its place."""
    token = _without_mask.set(True)
    try:
        yield
    finally:
        _without_mask.reset(token)


def _attention_over(before: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def packed_attention(
        module: nn.Module,
        query: Float[Tensor, "B H L D"],
        key: Float[Tensor, "B KV total D"],
        value: Float[Tensor, "B KV total V"],
        attention_mask: Tensor | None,
        layout: Layout | None = None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **options: Any,
    ) -> tuple[Float[Tensor, "B L H V"], Tensor | None]:
        if layout is None:
            # a model's own eager attention has no entry in transformers' table: it stands beside the model
            function = (
                vars(sys.modules[type(module).__module__])["eager_attention_forward"]
                if before == "eager"
                else ALL_ATTENTION_FUNCTIONS[before]
            )
            return function(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options)
        _refuse(module, options)
        mixed = attend(query, key, value, layout, scale=scaling, dropout=dropout)
        return mixed.transpose(1, 2), None

    return packed_attention


def _mask_over(before: str) -> Callable[..., Any]:
    def mask(*args: Any, **kwargs: Any) -> Any:
        return None if _without_mask.get() else ALL_MASK_ATTENTION_FUNCTIONS[before](*args, **kwargs)

    return mask


def _refuse(module: nn.Module, options: dict[str, Any]) -> None:
    """What some families add to attention and `attend` does not know must not be left out in silence."""
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if options.get(name) is not None:
            raise ValueError(f"{type(module).__name__} asks for {name} in attention, which packed rows do not have yet")

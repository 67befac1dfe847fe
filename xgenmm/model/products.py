"""Attention as plain matrix products: all scores of what it is given, and a backward pass that computes them again.

For small pieces on a CPU. In bfloat16 torch's fused attention needs 2 to 5 times as long there, most of it in its
backward pass; scores are rounded, as in transformers' eager attention. Tensors are [pieces, heads of keys, heads that
share them, places, width]; keys and values have an axis of one where queries have those that share them.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SCORES_AT_ONCE = 700_000
"""1.4 MB in bfloat16: what is made of them finds them in a cache."""


def small_attention(
    query: Float[Tensor, "n h p d"],
    key: Float[Tensor, "n h m d"],
    value: Float[Tensor, "n h m v"],
    mask: torch.Tensor | None = None,
    *,
    scale: float | None = None,
) -> Float[Tensor, "n h p v"]:
    """What `scaled_dot_product_attention` computes, in the way that is faster for a few hundred places.

    Args:
        query: From each place.
        key: Of what is looked at.
        value: Of the same.
        mask: False where nobody may look; every query has something to look at.
        scale: Of scores, by default one over the root of the width.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, float("-inf"))
        bias = bias.expand(*query.shape[:2], -1, -1).flatten(0, 1)
    scaled = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    mixed = _SmallAttention.apply(*(tensor.flatten(0, 1) for tensor in (scaled, key, value)), bias)
    return mixed.unflatten(0, query.shape[:2])


class _SmallAttention(torch.autograd.Function):
    """A few heads at a time, of all pieces one behind the other."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Float[Tensor, "n p d"],
        key: Float[Tensor, "n m d"],
        value: Float[Tensor, "n m v"],
        bias: Float[Tensor, "n _ m"] | None,
    ) -> Float[Tensor, "n p v"]:
        query, key, value = (tensor.contiguous() for tensor in (query, key, value))
        ctx.save_for_backward(query, key, value, bias)
        mixed = query.new_empty(*query.shape[:2], value.shape[-1])
        with torch.autocast(query.device.type, enabled=False):
            for some in _portions(query, key):
                q, k, v, b = (_pick(tensor, some) for tensor in (query, key, value, bias))
                mixed[some] = times(chances_of(q, k, b)[0], v)[:, 0, 0]
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        found = [torch.empty_like(tensor) for tensor in (query, key, value)]
        with torch.autocast(query.device.type, enabled=False):
            for some in _portions(query, key):
                q, k, v, g, b = (_pick(tensor, some) for tensor in (query, key, value, gradient, bias))
                for whole, part in zip(found, gradients_of(q, k, v, g, chances_of(q, k, b)[0]), strict=True):
                    whole[some] = part[:, 0, 0]
        return *found, None


def _portions(query: Float[Tensor, "n p d"], key: Float[Tensor, "n m d"]) -> list[slice]:
    size = max(SCORES_AT_ONCE // (query.shape[1] * key.shape[1]), 1)
    return [slice(start, start + size) for start in range(0, len(query), size)]


def _pick(tensor: Tensor | None, some: slice) -> Any:
    """Heads as pieces of one head each."""
    return None if tensor is None else tensor[some, None, None]


def times(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in which all that share a head of keys are rows of one matrix."""
    return torch.bmm(_flat(left), right.flatten(0, 2)).view(*left.shape[:-1], right.shape[-1])


def chances_of(q: Tensor, k: Tensor, bias: Tensor | None, softcap: float | None = None) -> tuple[Tensor, Tensor | None]:
    """How much each query makes of each key; and the slope of the soft cap, if there is one.

    Args:
        q: Queries, scaled.
        k: Keys.
        bias: Added to the scores of the last keys.
        softcap: Bound that scores approach.
    """
    scores = times(q, k.mT)
    slope = None
    if softcap is not None:
        scores = (scores / softcap).tanh_()
        slope = 1 - scores * scores
        scores *= softcap
    if bias is not None:
        scores[..., scores.shape[-1] - bias.shape[-1] :] += bias
    return scores.softmax(dim=-1), slope


def gradients_of(
    q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, chances: Tensor, slope: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of scaled queries, keys and values, from that of the output."""
    of_chances = times(gradient, v.mT)
    of_scores = torch._softmax_backward_data(of_chances, chances, -1, chances.dtype)
    if slope is not None:
        of_scores *= slope
    of_keys = torch.bmm(_flat(of_scores).mT, _flat(q))
    of_values = torch.bmm(_flat(chances).mT, _flat(gradient))
    return times(of_scores, k), of_keys.view_as(k), of_values.view_as(v)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(2, 3).flatten(0, 1)

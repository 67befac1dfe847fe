"""Attention as plain matrix products: all scores of what it is given, and a backward pass that computes them again.

For small pieces on a CPU. In bfloat16 torch's fused attention needs 2 to 5 times as long there, most of it in its
backward pass; scores are rounded, as in transformers' eager attention. Tensors are [pieces, heads of keys, heads that
share them, places, width]; keys and values have an axis of one where queries have those that share them.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def small_attention(
    query: Float[Tensor, "n h p d"],
    key: Float[Tensor, "n h m d"],
    value: Float[Tensor, "n h m d"],
    mask: torch.Tensor | None = None,
) -> Float[Tensor, "n h p d"]:
    """What `scaled_dot_product_attention` computes, in the way that is faster for a few hundred places.

    Args:
        query: From each place.
        key: Of what is looked at.
        value: Of the same.
        mask: False where nobody may look; every query has something to look at.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, float("-inf"))[:, :, None]
    query, key, value = (tensor[:, :, None] for tensor in (query * query.shape[-1] ** -0.5, key, value))
    return _SmallAttention.apply(query, key, value, bias)[:, :, 0]


class _SmallAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        query, key, value = (tensor.contiguous() for tensor in (query, key, value))
        ctx.save_for_backward(query, key, value, bias)
        with torch.autocast(query.device.type, enabled=False):
            return times(chances_of(query, key, bias)[0], value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias = ctx.saved_tensors
        with torch.autocast(query.device.type, enabled=False):
            chances, _ = chances_of(query, key, bias)
            return (*gradients_of(query, key, value, gradients[0].contiguous(), chances), None)


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
    return rearrange(tensor, "n k s p d -> (n k) (s p) d")

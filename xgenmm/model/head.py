"""The language model's head and the loss behind it: logits exist for a few positions at a time, and never all at once.

Between two chunks nothing is kept but log-probabilities, or gradients of the size of hidden states and weights.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

LOGITS_PER_CHUNK = 8_000_000
"""Logits that exist at the same time: 16 MB in bfloat16. Fewer would add to the weight's gradient too often."""
LOGITS_IN_FLOAT32 = 2_000_000
"""How many of them are in float32 at a time, for their softmax: 8 MB, which caches hold."""
WEIGHTS_AT_ONCE = 1_000_000
"""Weights whose gradient is added up at a time, for the same reason."""


def head_of(language_model: PreTrainedModel) -> nn.Linear:
    """The layer that turns hidden states into logits."""
    return cast(nn.Linear, language_model.get_output_embeddings())


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What some families do to logits behind their head."""

    scale: float = 1.0
    softcap: float | None = None

    def of(self, logits: Float[Tensor, "M vocabulary"]) -> Float[Tensor, "M vocabulary"]:
        """Logits as the family means them."""
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def shape_of(language_model: PreTrainedModel) -> Shape:
    """The scaling or capping of a family."""
    config = language_model.config.to_dict()
    scale = config.get("logit_scale", 1.0) / config.get("logits_scaling", 1.0)  # Cohere's, Granite's
    return Shape(scale=scale, softcap=config.get("final_logit_softcapping"))  # Gemma's


def target_logps(
    language_model: PreTrainedModel, hidden: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """Log-probability of each target, in float32. A head that trains computes its logits twice."""
    return _chunked(language_model, hidden, targets, summed=False)[0]


def summed_nll(
    language_model: PreTrainedModel, hidden: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " M"]]:
    """Minus the sum of the targets' log-probabilities; and each of them, without a graph.

    The gradient is computed with the sum, so no logits are needed twice.
    """
    logps, total = _chunked(language_model, hidden, targets, summed=True)
    return total, logps.detach()


def _chunked(
    language_model: PreTrainedModel, hidden: Tensor, targets: Tensor, *, summed: bool
) -> tuple[Tensor, Tensor]:
    head: nn.Module | None = language_model.get_output_embeddings()
    assert head is not None
    shape = shape_of(language_model)
    if type(head) is nn.Linear:
        return _Head.apply(hidden, head.weight, head.bias, targets, shape, summed)

    # Something around it, such as LoRA: autograd does it, and computes the logits again instead of keeping them.
    def chunk_logps(hidden: Tensor, targets: Tensor) -> Tensor:
        logits = shape.of(head(hidden))
        return logits.log_softmax(-1, dtype=torch.float32).gather(1, targets[:, None])[:, 0]

    chunks = _chunks(len(hidden), LOGITS_PER_CHUNK // language_model.config.vocab_size)
    parts = [checkpoint(chunk_logps, hidden[rows], targets[rows], use_reentrant=False) for rows in chunks]
    logps = torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)
    return logps, -logps.sum()


def _chunks(length: int, size: int) -> list[slice]:
    return [slice(start, start + max(size, 1)) for start in range(0, length, max(size, 1))]


class _Head(torch.autograd.Function):
    """(log-probabilities, minus their sum). Only one of the two has a gradient: the sum if `summed`, else the others.

    The gradient of -log p with respect to its hidden state is known when p is: it is kept for every position, and the
    backward pass multiplies it with what arrives. That of the weights mixes positions, so it is known beforehand only
    for the sum, where 1 arrives everywhere. Log-probabilities can be differentiated as often as their graph is kept,
    the sum once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shape: Shape, summed: bool
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        logps = torch.empty(len(hidden), device=hidden.device)
        of_hidden = torch.empty_like(hidden) if needs_hidden else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight and summed else None
        of_bias = torch.zeros_like(weight[:, 0], dtype=torch.float32) if needs_bias and summed else None
        with torch.autocast(device, enabled=False):
            cast_weight, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
            for rows in _chunks(len(hidden), LOGITS_PER_CHUNK // len(weight)):
                inputs = hidden[rows].to(dtype)
                logits = nn.functional.linear(inputs, cast_weight, cast_bias)
                logps[rows] = _to_errors(logits, targets[rows], shape)
                if of_hidden is not None:
                    of_hidden[rows] = logits @ cast_weight
                if of_weight is not None:
                    _add_product(of_weight, logits, inputs)
                if of_bias is not None:
                    of_bias += logits.sum(0, dtype=torch.float32)
        ctx.shape, ctx.summed, ctx.dtype = shape, summed, dtype
        ctx.types = weight.dtype, None if bias is None else bias.dtype
        ctx.known = [of_hidden, of_weight, of_bias]
        if needs_weight or needs_bias:
            ctx.save_for_backward(*(() if summed else (hidden, weight, bias, targets)))
        total = -logps.sum()
        ctx.mark_non_differentiable(logps if summed else total)
        return logps, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_logps, of_total = gradients
        if ctx.known is None:
            raise RuntimeError("the sum was differentiated already, and its gradients are used up by that")
        of_hidden, of_weight, of_bias = ctx.known
        if ctx.summed:
            # In place: a second copy of the weight's gradient is not always small.
            ctx.known = None
            of_hidden, of_weight, of_bias = (
                None if known is None else known.mul_(of_total) for known in (of_hidden, of_weight, of_bias)
            )
        else:
            of_hidden = None if of_hidden is None else of_hidden * -of_logps[:, None]
            if any(ctx.needs_input_grad[1:3]):
                of_weight, of_bias = _by_position(ctx, -of_logps)
        weight_type, bias_type = ctx.types
        of_weight = of_weight.to(weight_type) if ctx.needs_input_grad[1] else None
        of_bias = of_bias.to(bias_type) if ctx.needs_input_grad[2] else None
        return of_hidden, of_weight, of_bias, None, None, None


def _by_position(ctx: Any, weights: Float[Tensor, " M"]) -> tuple[Tensor, Tensor | None]:
    """Gradients of the head's weight and bias from the sum of -log p, each weighted."""
    hidden, weight, bias, targets = ctx.saved_tensors
    of_weight = torch.zeros_like(weight, dtype=torch.float32)
    of_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        cast_weight, cast_bias = weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype)
        for rows in _chunks(len(hidden), LOGITS_PER_CHUNK // len(weight)):
            inputs = hidden[rows].to(ctx.dtype)
            logits = nn.functional.linear(inputs, cast_weight, cast_bias)
            _to_errors(logits, targets[rows], ctx.shape, weights[rows])
            _add_product(of_weight, logits, inputs)
            if of_bias is not None:
                of_bias += logits.sum(0, dtype=torch.float32)
    return of_weight, of_bias


def _to_errors(
    logits: Float[Tensor, "m vocabulary"],
    targets: Int[Tensor, " m"],
    shape: Shape,
    weights: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, " m"]:
    """Log-probabilities of the targets. Logits are overwritten with the gradient of minus those, weighted, with respect
    to themselves.
    """
    logps = torch.empty(len(logits), device=logits.device)
    for rows in _chunks(len(logits), LOGITS_IN_FLOAT32 // logits.shape[1]):
        raw, wanted = logits[rows], targets[rows, None]
        errors = shape.of(raw).log_softmax(-1, dtype=torch.float32)
        logps[rows] = errors.gather(1, wanted)[:, 0]
        errors.exp_().scatter_add_(1, wanted, torch.full_like(wanted, -1.0, dtype=errors.dtype))
        if shape.softcap is not None:
            errors *= 1 - torch.tanh(raw.float() * (shape.scale / shape.softcap)) ** 2
        if shape.scale != 1:
            errors *= shape.scale
        if weights is not None:
            errors *= weights[rows, None]
        raw.copy_(errors)
    return logps


def _add_product(total: Float[Tensor, "vocabulary D"], errors: Float[Tensor, "m vocabulary"], inputs: Tensor) -> None:
    """Add what a chunk contributes to the weight's gradient, in float32 whatever the product's type."""
    for tokens in _chunks(len(total), WEIGHTS_AT_ONCE // total.shape[1]):
        total[tokens] += errors[:, tokens].t() @ inputs

"""The language model's head and the loss behind it: logits exist for a few positions at a time, and never all at once.

Between two chunks nothing is kept but log-probabilities, or gradients of the size of hidden states and weights.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

FEWEST_COLUMNS = 256
"""Tokens of the vocabulary that are taken at a time at least, however many positions there are."""


@dataclass(frozen=True, kw_only=True)
class Portions:
    """How much there is of something at a time."""

    logits: int
    """Fewer would add to the weight's gradient too often."""
    in_float32: int
    """How many of these logits, for their softmax."""
    weights: int
    """Whose gradient is added up."""


ON_A_CPU = Portions(logits=8_000_000, in_float32=500_000, weights=1_000_000)
"""16 MB in bfloat16; and what caches hold."""
ON_A_GPU = Portions(logits=2**27, in_float32=2**24, weights=2**27)
"""Some hundred MB each: to start a kernel takes as long as some MB."""


def portions_on(device: torch.device) -> Portions:
    """The ones for a device."""
    return ON_A_CPU if device.type == "cpu" else ON_A_GPU


def head_of(language_model: PreTrainedModel) -> nn.Linear:
    """The layer that turns hidden states into logits."""
    return cast(nn.Linear, language_model.get_output_embeddings())


def _head(language_model: PreTrainedModel) -> Any:
    """The same, or what is around it."""
    return language_model.get_output_embeddings()


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

    def slope(self, logits: Float[Tensor, "M vocabulary"]) -> Float[Tensor, "M vocabulary"] | float:
        """How much `of` moves with each logit."""
        if self.softcap is None:
            return self.scale
        return self.scale * (1 - torch.tanh(logits * (self.scale / self.softcap)).square())


def shape_of(language_model: PreTrainedModel) -> Shape:
    """The scaling or capping of a family."""
    config = language_model.config.to_dict()
    scale = config.get("logit_scale", 1.0) / config.get("logits_scaling", 1.0)  # Cohere's, Granite's
    return Shape(scale=scale, softcap=config.get("final_logit_softcapping"))  # Gemma's


def target_logps(
    language_model: PreTrainedModel, hidden: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """Log-probability of each target, in float32. A head that trains computes its logits twice."""
    head = _head(language_model)
    if type(head) is not nn.Linear:
        return _around(language_model, hidden, targets)
    return _Each.apply(hidden, head.weight, head.bias, targets, shape_of(language_model))


def summed_nll(
    language_model: PreTrainedModel, hidden: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " M"]]:
    """Minus the sum of the targets' log-probabilities; and each of them, without a graph.

    The gradient is computed with the sum, so no logits are needed twice.
    """
    head = _head(language_model)
    if type(head) is not nn.Linear:
        logps = _around(language_model, hidden, targets)
        return -logps.sum(), logps.detach()
    return _Sum.apply(hidden, head.weight, head.bias, targets, shape_of(language_model))


def _around(language_model: PreTrainedModel, hidden: Tensor, targets: Tensor) -> Float[Tensor, " M"]:
    """Log-probabilities where something is around the head, such as LoRA: by autograd, which computes logits twice."""
    head, shape = _head(language_model), shape_of(language_model)

    def chunk_logps(hidden: Tensor, targets: Tensor) -> Tensor:
        return shape.of(head(hidden)).log_softmax(-1, dtype=torch.float32).gather(1, targets[:, None])[:, 0]

    chunks = _chunks(len(hidden), portions_on(hidden.device).logits // language_model.config.vocab_size)
    parts = [checkpoint(chunk_logps, hidden[rows], targets[rows], use_reentrant=False) for rows in chunks]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _chunks(length: int, size: int) -> list[slice]:
    return [slice(start, start + max(size, 1)) for start in range(0, length, max(size, 1))]


class _Sum(torch.autograd.Function):
    """(minus the sum of log-probabilities, the log-probabilities without a gradient).

    Some positions at a time, with all their logits. The gradient of the sum is known with it, but for the factor that
    arrives in the backward pass: so no logits are computed twice, and the sum can be differentiated once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shape: Shape
    ) -> tuple[Tensor, Tensor]:
        dtype = _product_type(hidden)
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        logps = torch.empty(len(hidden), device=hidden.device)
        of_hidden = torch.empty_like(hidden) if needs_hidden else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        of_bias = torch.zeros_like(weight[:, 0], dtype=torch.float32) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            cast_weight, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
            for rows in _chunks(len(hidden), portions_on(hidden.device).logits // len(weight)):
                inputs = hidden[rows].to(dtype)
                logits = nn.functional.linear(inputs, cast_weight, cast_bias)
                logps[rows] = _to_errors(logits, targets[rows], shape)
                if of_hidden is not None:
                    of_hidden[rows] = logits @ cast_weight
                if of_weight is not None:
                    _add_product(of_weight, logits, inputs)
                if of_bias is not None:
                    of_bias += logits.sum(0, dtype=torch.float32)
                del logits  # before the next ones are there
        ctx.types = weight.dtype, None if bias is None else bias.dtype
        ctx.known = [of_hidden, of_weight, of_bias]
        ctx.mark_non_differentiable(logps)
        return -logps.sum(), logps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.known is None:
            raise RuntimeError("the sum was differentiated already, and its gradients are used up by that")
        # In place: a second copy of the weight's gradient is not always small.
        of_hidden, of_weight, of_bias = (None if known is None else known.mul_(gradients[0]) for known in ctx.known)
        ctx.known = None
        weight_type, bias_type = ctx.types
        return (
            of_hidden,
            None if of_weight is None else of_weight.to(weight_type),
            None if of_bias is None else of_bias.to(bias_type),
            *(None, None),
        )


class _Each(torch.autograd.Function):
    """The log-probabilities. What arrives in the backward pass differs by position, so logits are computed again there.

    Some tokens of the vocabulary at a time, with the logits of all positions: their part of the weight's gradient is
    then one product, and neither it nor a rounded copy of the weight has to be there as a whole beside another.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shape: Shape) -> Tensor:
        ctx.dtype, ctx.shape = _product_type(hidden), shape
        largest = torch.full((len(hidden),), float("-inf"), device=hidden.device)
        sums, wanted = torch.zeros_like(largest), torch.zeros_like(largest)
        with torch.autocast(hidden.device.type, enabled=False):
            inputs = hidden.to(ctx.dtype)
            for tokens in _columns(inputs, weight):
                logits = _some_logits(inputs, weight, bias, tokens)
                index, inside = _places(targets, tokens)
                wanted = torch.where(inside, shape.of(logits.gather(1, index).float())[:, 0], wanted)
                for rows in _in_float32(logits):
                    some = shape.of(logits[rows].float())
                    top = torch.maximum(largest[rows], some.amax(1))
                    sums[rows] *= (largest[rows] - top).exp()
                    sums[rows] += some.sub_(top[:, None]).exp_().sum(1)
                    largest[rows] = top
                del logits
        normaliser = largest + sums.log()
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        return wanted - normaliser

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        of_hidden = torch.zeros_like(hidden, dtype=torch.float32) if needs_hidden else None
        of_weight = torch.empty_like(weight) if needs_weight else None
        of_bias = torch.empty_like(weight[:, 0], dtype=bias.dtype) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            inputs = hidden.to(ctx.dtype)
            for tokens in _columns(inputs, weight):
                errors = _some_logits(inputs, weight, bias, tokens)
                _weigh_errors(errors, *_places(targets, tokens), ctx.shape, normaliser, -gradients[0])
                if of_hidden is not None:
                    of_hidden += errors @ weight[tokens].to(ctx.dtype)
                if of_weight is not None:
                    of_weight[tokens] = errors.t() @ inputs
                if of_bias is not None:
                    of_bias[tokens] = errors.sum(0, dtype=torch.float32)
                del errors
        return None if of_hidden is None else of_hidden.to(hidden.dtype), of_weight, of_bias, None, None


def _product_type(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _columns(inputs: Float[Tensor, "M D"], weight: Float[Tensor, "vocabulary D"]) -> list[slice]:
    """Tokens of the vocabulary, a few at a time."""
    most = portions_on(inputs.device).logits
    return _chunks(len(weight), max(most // max(len(inputs), 1), FEWEST_COLUMNS))


def _in_float32(logits: Float[Tensor, "M some"]) -> list[slice]:
    """Positions, a few at a time."""
    return _chunks(len(logits), portions_on(logits.device).in_float32 // logits.shape[1])


def _some_logits(inputs: Tensor, weight: Tensor, bias: Tensor | None, tokens: slice) -> Float[Tensor, "M some"]:
    some_bias = None if bias is None else bias[tokens].to(inputs.dtype)
    return nn.functional.linear(inputs, weight[tokens].to(inputs.dtype), some_bias)


def _places(targets: Int[Tensor, " M"], tokens: slice) -> tuple[Int[Tensor, "M 1"], Bool[Tensor, " M"]]:
    """Where targets stand among some tokens, and whether they do; those that do not stand anywhere."""
    inside = (targets >= tokens.start) & (targets < tokens.stop)
    return torch.where(inside, targets - tokens.start, 0)[:, None], inside


def _weigh_errors(
    logits: Float[Tensor, "M some"],
    index: Int[Tensor, "M 1"],
    inside: Bool[Tensor, " M"],
    shape: Shape,
    normaliser: Float[Tensor, " M"],
    weights: Float[Tensor, " M"],
) -> None:
    """Overwrite logits with the gradient of minus the weighted log-probabilities with respect to themselves."""
    for rows in _in_float32(logits):
        raw = logits[rows].float()
        errors = shape.of(raw).sub(normaliser[rows, None]).exp_()
        errors.scatter_add_(1, index[rows], -inside[rows, None].float())
        errors *= shape.slope(raw) * weights[rows, None]
        logits[rows] = errors


def _to_errors(logits: Float[Tensor, "m vocabulary"], targets: Int[Tensor, " m"], shape: Shape) -> Float[Tensor, " m"]:
    """Log-probabilities of the targets. Logits are overwritten with the gradient of minus their sum with respect to
    themselves.
    """
    logps = torch.empty(len(logits), device=logits.device)
    for rows in _in_float32(logits):
        raw, wanted = logits[rows].float(), targets[rows, None]
        shaped = shape.of(raw)
        errors = shaped.softmax(-1)
        # The largest chance is at least one in all, so its logarithm is exact: what all logits are normalised by.
        normaliser = shaped.amax(-1) - errors.amax(-1).log()
        logps[rows] = shaped.gather(1, wanted)[:, 0] - normaliser
        errors.scatter_add_(1, wanted, torch.full_like(wanted, -1.0, dtype=errors.dtype))
        logits[rows] = errors if shape == Shape() else errors.mul_(shape.slope(raw))
    return logps


def _add_product(total: Float[Tensor, "vocabulary D"], errors: Float[Tensor, "m vocabulary"], inputs: Tensor) -> None:
    """Add what a chunk contributes to the weight's gradient, in float32 whatever the product's type."""
    if inputs.dtype == total.dtype:
        torch.addmm(total, errors.t(), inputs, out=total)
        return
    for tokens in _chunks(len(total), portions_on(total.device).weights // total.shape[1]):
        total[tokens] += errors[:, tokens].t() @ inputs

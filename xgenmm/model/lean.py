"""Norms, rotary positions, gated feed-forward layers and adapters of language models, on a CPU: fewer passes over
memory, less kept.

transformers and peft write them as chains of small operations, each of which reads and writes everything, and some of
which keep what they read for the backward pass. Here each is one operation that works through a few rows at a time and
keeps its input; what is quickly computed again, as the inside of a feed-forward layer, is not kept.

transformers' layers are not known by name: one is replaced if it gives the same numbers when tried, so a family that
does it another way stays as it is. peft's are known by their class.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import SiLUActivation

from xgenmm.model.lora import has_lora

NUMBERS_AT_ONCE = 65_536
"""What one portion of rows holds: 256 kB in float32, so that the next operation finds it in the cache."""
FEW_NUMBERS = 1_000_000
"""So many are one portion: outer caches hold them, and on several threads every operation costs a wake-up."""
GATED = (("gate_up_proj", "down_proj", "activation_fn"), ("gate_proj", "up_proj", "down_proj", "act_fn"))
"""What families call the parts of a gated feed-forward layer, its activation last."""
ROTARY = "apply_rotary_pos_emb"
"""What families call the function that turns queries and keys by their positions."""
TRIED = 8
"""Width of the layers that are tried."""

Rotary = Callable[..., tuple[Tensor, Tensor]]
"""(queries [B, H, L, D], keys [B, KV, L, D], cosines and sines [B, L, R]) -> both, their first R numbers turned."""


def use_lean_layers(language_model: nn.Module) -> None:
    """Replace the forward passes of all layers that compute what is computed here. Their weights stay where they are.

    Compiled or on another device they do what they did before: there, operations are fused anyway.
    """
    for module in language_model.modules():
        if "forward" in vars(module):
            continue
        if (turning := _with_lean_rotary(type(module))) is not None:
            module.forward = MethodType(turning, module)
            continue
        if has_lora(module) and type(module.base_layer) is nn.Linear:
            module.forward = MethodType(_adapted, module)
            continue
        names = set(vars(module)["_modules"])
        if not names and set(vars(module)["_parameters"]) == {"weight"} and "variance_epsilon" in vars(module):
            _replace(module, _norm, {"weight": nn.Parameter(_random(TRIED))}, {})
        elif any(names == {*parts, activation} for *parts, activation in GATED):
            activation = vars(module)["_modules"].get("act_fn") or vars(module)["_modules"]["activation_fn"]
            if isinstance(activation, nn.SiLU | SiLUActivation):
                _replace(module, _gated, {}, {name: _tried_part(name, module) for name in names})


def _replace(module: nn.Module, forward: Any, weights: dict[str, nn.Parameter], parts: dict[str, nn.Module]) -> None:
    """Give a module another forward pass, if a copy of it with the given small weights gives the same by both."""
    if len(inspect.signature(type(module).forward).parameters) != 2:
        return
    tried = copy.copy(module)
    vars(tried).update(_parameters=weights, _modules=parts)
    inputs = _random(3, TRIED)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        same = torch.allclose(type(module).forward(tried, inputs), forward(tried, inputs), rtol=1e-5, atol=1e-6)
    if same:
        module.forward = MethodType(forward, module)


@functools.cache
def _with_lean_rotary(kind: type[nn.Module]) -> FunctionType | None:
    """The forward pass of a kind of layer, if it turns queries and keys, with `_turned` in the place of its own way.

    Families call theirs by a global name. It is replaced in a copy of the function: other models keep it.
    """
    forward = kind.forward
    if not isinstance(forward, FunctionType) or ROTARY not in forward.__code__.co_names:
        return None
    own = forward.__globals__.get(ROTARY)
    if own is None or list(inspect.signature(own).parameters) != ["q", "k", "cos", "sin", "unsqueeze_dim"]:
        return None
    query, key, cos, sin = _random(2, 3, 5, TRIED), _random(2, 1, 5, TRIED), _random(2, 5, TRIED), _random(5, TRIED)
    sin = sin.expand(2, 5, TRIED)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        turned = own(query, key, cos, sin)
        same = all(torch.allclose(_Turned.apply(x, cos, sin), y) for x, y in zip((query, key), turned, strict=True))
    if not same:
        return None

    names = {**forward.__globals__, ROTARY: functools.partial(_turned, own)}
    # By this name torch.compile would look for the others in the family's own module, where one of them is another.
    del names["__name__"]
    copied = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copied.__kwdefaults__ = forward.__kwdefaults__
    return copied


def _turned(
    own: Rotary, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    if _plain(q) or unsqueeze_dim != 1:
        return own(q, k, cos, sin, unsqueeze_dim)
    if _in_one_go(q):
        return _turned_at_once(q, cos, sin), _turned_at_once(k, cos, sin)
    return _Turned.apply(q, cos, sin), _Turned.apply(k, cos, sin)


def _turned_at_once(
    vectors: Float[Tensor, "B H L D"], cos: Float[Tensor, "_ L R"], sin: Float[Tensor, "_ L R"]
) -> Float[Tensor, "B H L D"]:
    """What `_Turned` gives."""
    width, dtype = cos.shape[-1], _result_format(vectors, cos)
    values = vectors[..., :width].float()
    first, second = values.chunk(2, dim=-1)
    turned = (values * cos.float()[:, None]).add_(torch.cat((-second, first), dim=-1).mul_(sin.float()[:, None]))
    turned = turned.to(dtype)
    return turned if width == vectors.shape[-1] else torch.cat((turned, vectors[..., width:].to(dtype)), dim=-1)


def _random(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(len(size)), device="cpu")


def _tried_part(name: str, module: nn.Module) -> nn.Module:
    if name in ("activation_fn", "act_fn"):
        return module.get_submodule(name)
    outputs, inputs = {"gate_up_proj": (6, TRIED), "down_proj": (TRIED, 3)}.get(name, (3, TRIED))
    part = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
    part.weight = nn.Parameter(_random(outputs, inputs))
    return part


def _plain(inputs: Tensor) -> bool:
    """Whether the family's own forward pass is the right one here."""
    return inputs.device.type != "cpu" or torch.compiler.is_compiling()


def _in_one_go(inputs: Tensor) -> bool:
    """Whether nothing is gained by portions or by what is not kept: where a few tokens are written, what costs is the
    number of operations.
    """
    return not torch.is_grad_enabled() and inputs.numel() <= FEW_NUMBERS


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    if _plain(hidden_states):
        return type(module).forward(module, hidden_states)
    if not _in_one_go(hidden_states):
        return _RmsNorm.apply(hidden_states, module.weight, module.variance_epsilon)
    values = hidden_states.float()
    scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + module.variance_epsilon)
    return ((values * scale).to(hidden_states.dtype) * module.weight).to(_result_format(hidden_states, module.weight))


def _gated(module: Any, hidden_states: Tensor) -> Tensor:
    if _plain(hidden_states):
        return type(module).forward(module, hidden_states)
    if hasattr(module, "gate_up_proj"):
        gate, up = module.gate_up_proj(hidden_states), None
    else:
        gate, up = module.gate_proj(hidden_states), module.up_proj(hidden_states)
    if _in_one_go(gate):
        gate, up = gate.chunk(2, dim=-1) if up is None else (gate, up)
        return module.down_proj(F.silu(gate).mul_(up))
    if _is_bare(module.down_proj):
        return _GatedLinear.apply(gate, up, module.down_proj.weight)
    return module.down_proj(_Gated.apply(gate, up))


def _adapted(module: Any, inputs: Tensor) -> Tensor:
    """A linear layer and its adapter. Whatever else peft can do, it does itself."""
    name = _plain_adapter(module)
    if name is None or _plain(inputs):
        return type(module).forward(module, inputs)
    base, first, second = module.base_layer, module.lora_A[name].weight, module.lora_B[name].weight
    return _Adapted.apply(inputs, base.weight, base.bias, first, second, module.scaling[name])


def _plain_adapter(module: Any) -> str | None:
    """The adapter that is at work, if it is the only one and nothing but two matrices."""
    names = module.active_adapters
    if module.disable_adapters or module.merged or len(names) != 1 or names[0] not in module.lora_A:
        return None
    (name,) = names
    dropped = module.training and not isinstance(module.lora_dropout[name], nn.Identity)
    return None if dropped or name in module.lora_variant or module.lora_bias[name] else name


def gelu_linear(inputs: Float[Tensor, "*rows F"], linear: nn.Module) -> Float[Tensor, "*rows D"]:
    """GELU and the layer behind it. On a CPU GELU is computed again in the backward pass instead of being kept."""
    if _plain(inputs) or not _is_bare(linear):
        return linear(F.gelu(inputs))
    return _GeluLinear.apply(inputs, linear.weight)


def _is_bare(module: nn.Module) -> bool:
    """Whether a layer is its weight and nothing else, such as LoRA."""
    return type(module) is nn.Linear and module.bias is None


def _portions(rows: Tensor) -> list[slice]:
    """Rows of a matrix, a few at a time."""
    each = rows[:1].numel()
    size = len(rows) if rows.numel() <= FEW_NUMBERS else max(NUMBERS_AT_ONCE // max(each, 1), 1)
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def _result_format(*inputs: Tensor) -> torch.dtype:
    """Under autocast its format, to which the products behind would round the result anyway."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in inputs))


class _Turned(torch.autograd.Function):
    """Rotary positions, computed in float32. The result lies in memory as [B, L, H, D], which attention reads."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Float[Tensor, "B H L D"], cos: Float[Tensor, "_ L R"], sin: Float[Tensor, "_ L R"]
    ) -> Float[Tensor, "B H L D"]:
        rows = rearrange(vectors, "b h l d -> (b l) h d")
        result = torch.empty(rows.shape, dtype=_result_format(vectors, cos))
        ctx.save_for_backward(cos, sin)
        ctx.dtype = vectors.dtype
        width, own, others = _turns(cos, sin, len(vectors))
        for some in _portions(rows):
            values = rows[some, :, :width].float()
            # Not multiplied and added at once: that rounds another way where a vector stands elsewhere in a row.
            result[some, :, :width] = (values * own[some]).add_(values.roll(width // 2, -1).mul_(others[some]))
        result[..., width:] = rows[..., width:]
        return rearrange(result, "(b l) h d -> b h l d", b=len(vectors))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows = rearrange(gradients[0], "b h l d -> (b l) h d")
        found = torch.empty(rows.shape, dtype=ctx.dtype)
        cos, sin = ctx.saved_tensors
        width, own, others = _turns(cos, sin, len(gradients[0]))
        for some in _portions(rows):
            values = rows[some, :, :width].float()
            found[some, :, :width] = (values * own[some]).add_((values * others[some]).roll(width // 2, -1))
        found[..., width:] = rows[..., width:]
        return rearrange(found, "(b l) h d -> b h l d", b=len(gradients[0])), None, None


def _turns(cos: Tensor, sin: Tensor, batch: int) -> tuple[int, Float[Tensor, "L 1 R"], Float[Tensor, "L 1 R"]]:
    """How many numbers of a vector are turned, and for all rows of a batch what the first and the second half of them
    are multiplied by: (first, second) becomes (first cos - second sin, second cos + first sin).
    """
    half = cos.shape[-1] // 2
    cos, sin = (rearrange(x.float().expand(batch, -1, -1), "b l r -> (b l) 1 r") for x in (cos, sin))
    return 2 * half, cos, torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)


class _RmsNorm(torch.autograd.Function):
    """In float32."""

    @staticmethod
    def forward(ctx: Any, inputs: Float[Tensor, "*rows D"], weight: Float[Tensor, " D"], eps: float) -> Tensor:
        rows = inputs.flatten(0, -2)
        result = torch.empty(rows.shape, dtype=_result_format(inputs, weight))
        scales = torch.empty(len(rows), 1)
        for some in _portions(rows):
            values = rows[some].float()
            scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)
            result[some] = (values * scale).to(inputs.dtype) * weight
            scales[some] = scale
        ctx.save_for_backward(rows, weight, scales)
        return result.view(inputs.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, scales = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)
        needs_inputs, needs_weight, _ = ctx.needs_input_grad
        of_inputs = torch.empty_like(rows) if needs_inputs else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for some in _portions(rows):
            scale, arriving = scales[some], gradient[some].float()
            normed = rows[some].float() * scale
            if of_weight is not None:
                of_weight += (arriving * normed).sum(0)
            if of_inputs is not None:
                arriving = arriving * weight
                along = (arriving * normed).mean(-1, keepdim=True)
                of_inputs[some] = (arriving - normed * along) * scale
        return (
            None if of_inputs is None else of_inputs.view(gradients[0].shape),
            None if of_weight is None else of_weight.to(weight.dtype),
            None,
        )


class _Gated(torch.autograd.Function):
    """SiLU of one half, times the other. The halves are two tensors, or those of every row of one."""

    @staticmethod
    def forward(ctx: Any, gate: Float[Tensor, "*rows F"], up: Float[Tensor, "*rows F"] | None) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _product(*_halves(gate, up)).view(*gate.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        return _gated_gradients(gate, up, gradients[0].flatten(0, -2))


class _GatedLinear(torch.autograd.Function):
    """The same and the linear layer behind it, whose input is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor | None, weight: Float[Tensor, "D F"]) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        with torch.autocast("cpu", enabled=False):
            result = _product(*_halves(gate, up)) @ weight.to(gate.dtype).t()
        return result.view(*gate.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        gradient, of_weight = gradients[0].flatten(0, -2).to(gate.dtype), None
        with torch.autocast("cpu", enabled=False):
            arriving = gradient @ weight.to(gate.dtype)
            of_inputs = _gated_gradients(gate, up, arriving, leave_product=True)
            if ctx.needs_input_grad[2]:
                of_weight = (gradient.t() @ arriving).to(weight.dtype)
        return *of_inputs, of_weight


class _Adapted(torch.autograd.Function):
    """A linear layer, and what a narrow one that leads into a wide one adds to it."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Float[Tensor, "*rows F"],
        weight: Float[Tensor, "D F"],
        bias: Float[Tensor, " D"] | None,
        first: Float[Tensor, "R F"],
        second: Float[Tensor, "D R"],
        scaling: float,
    ) -> Float[Tensor, "*rows D"]:
        dtype = _result_format(inputs, weight)
        rows = inputs.flatten(0, -2).to(dtype)
        with torch.autocast("cpu", enabled=False):
            narrow = rows @ first.to(dtype).t()
            result = F.linear(rows, weight.to(dtype), None if bias is None else bias.to(dtype))
            # Not in place: what a product gave is kept, where blocks are computed again selectively.
            result = result.addmm(narrow, second.to(dtype).t(), alpha=scaling)
        ctx.save_for_backward(rows, narrow, weight, first, second)
        ctx.scaling, ctx.dtype = scaling, inputs.dtype
        return result.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | float | None, ...]:
        rows, narrow, weight, first, second = ctx.saved_tensors
        gradient, dtype = gradients[0].flatten(0, -2).to(rows.dtype), rows.dtype
        needed = dict(zip(("inputs", "weight", "bias", "first", "second"), ctx.needs_input_grad, strict=False))
        found: dict[str, Tensor] = {}
        with torch.autocast("cpu", enabled=False):
            of_narrow = (gradient @ second.to(dtype)).mul_(ctx.scaling)
            if needed["inputs"]:
                of_inputs = (gradient @ weight.to(dtype)).addmm_(of_narrow, first.to(dtype))
                found["inputs"] = of_inputs.view(*gradients[0].shape[:-1], -1).to(ctx.dtype)
            if needed["weight"]:
                found["weight"] = (gradient.t() @ rows).to(weight.dtype)
            if needed["bias"]:
                found["bias"] = gradient.sum(0)
            if needed["first"]:
                found["first"] = (of_narrow.t() @ rows).to(first.dtype)
            if needed["second"]:
                found["second"] = (gradient.t() @ narrow).to(second.dtype).mul_(ctx.scaling)
        return *(found.get(name) for name in needed), None


class _GeluLinear(torch.autograd.Function):
    """GELU and the linear layer behind it, whose input is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Float[Tensor, "*rows F"], weight: Float[Tensor, "D F"]) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        with torch.autocast("cpu", enabled=False):
            return F.gelu(inputs) @ weight.to(inputs.dtype).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        rows, gradient, of_weight = inputs.flatten(0, -2), gradients[0].flatten(0, -2).to(inputs.dtype), None
        with torch.autocast("cpu", enabled=False):
            if ctx.needs_input_grad[1]:
                of_weight = (gradient.t() @ F.gelu(rows)).to(weight.dtype)
            arriving = gradient @ weight.to(inputs.dtype)
        return torch.ops.aten.gelu_backward(arriving, rows).view(inputs.shape), of_weight


def _halves(gate: Tensor, up: Tensor | None) -> Sequence[Float[Tensor, "L F"]]:
    return gate.flatten(0, -2).chunk(2, dim=-1) if up is None else (gate.flatten(0, -2), up.flatten(0, -2))


def _gated_gradients(
    gate: Tensor, up: Tensor | None, gradient: Float[Tensor, "L F"], *, leave_product: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Gradients of both. The product, computed again, may be left in the memory of its gradient."""
    found = torch.empty_like(gate), None if up is None else torch.empty_like(up)
    gates, ups, of_gates, of_ups = (*_halves(gate, up), *_halves(*found))
    for some in _portions(gradient):
        arriving, opened = gradient[some], F.silu(gates[some])
        torch.mul(arriving, opened, out=of_ups[some])
        of_gates[some] = torch.ops.aten.silu_backward(arriving * ups[some], gates[some])
        if leave_product:
            torch.mul(opened, ups[some], out=arriving)
    return found


def _product(gate: Float[Tensor, "L F"], up: Float[Tensor, "L F"]) -> Float[Tensor, "L F"]:
    result = torch.empty(gate.shape, dtype=gate.dtype)
    for some in _portions(result):
        torch.mul(F.silu(gate[some]), up[some], out=result[some])
    return result

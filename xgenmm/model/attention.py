"""Attention over packed rows: a token sees its own document up to itself, and nothing of its neighbours.

`attend` is the only place that computes it. Language models of transformers reach it through transformers' attention
interface: `packed_attention` is registered there under a name of its own, which a model is given once and keeps; a
forward pass says with a keyword argument how its row is laid out. Without that argument, the same function does what
the model did before (padded rows, a cache), so that nothing has to be switched back and forth, and nothing computed
later (activations that are computed again in the backward pass) can fall back to attention across documents.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from xgenmm.model.blocks import block_attention
from xgenmm.model.gpu_attention import flash_takes, flex_attention_of, flex_takes, varlen_attention
from xgenmm.model.head import head_of
from xgenmm.model.layout import Keys, Layout, Mixed, Queries, Scores, Segment, Values, layout_between, row_in_work
from xgenmm.model.lean import use_lean_layers
from xgenmm.model.rotary import turn_by_document

PREFIX = "packed_"
"""`packed_sdpa` is `sdpa` where no layout is given."""
UNKNOWN = ("s_aux", "position_bias", "head_mask")
"""What some families add to attention and `attend` does not know: refused, not left out in silence."""
KINDS = ("full_attention", "sliding_attention")
"""What transformers may call a language model's layers (`layer_types`) if `attend` is to stand for all of them."""


@torch.compiler.disable  # it asks how a row is laid out, which is another question for every row
def attend(
    query: Queries,
    key: Keys,
    value: Values,
    cu_seqlens: Layout | Int[Tensor, " ends"],
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Mixed:
    """Causal attention within each document of a packed row.

    Args:
        query: One for each head; `H / KV` heads share keys and values.
        key: Positions as of the queries.
        value: Of keys.
        cu_seqlens: Where documents begin, and where the last one ends: [0, 4, 10] for two of 4 and 6 tokens. Or the
            row's layout, which knows of branches as well, and is worked out once for all layers.
        scale: Of scores, by default one over the root of the width.
        window: How far back a token sees, itself included; None: to the beginning of its document.
        softcap: Bound that scores approach, instead of growing without end (Gemma 2).
        dropout: Share of a token's attention that is dropped.

    Raises:
        ValueError: No documents of this row end there; or dropout is wanted together with a soft cap.
    """
    layout = cu_seqlens if isinstance(cu_seqlens, Layout) else layout_between(cu_seqlens, len(query))
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = (x.to(torch.get_autocast_dtype(query.device.type)) for x in (query, key, value))
    value = _by_themselves(value, key)
    if window is not None and window >= max((segment.length for segment in layout.segments), default=0):
        window = None
    scores = Scores(scale=query.shape[-1] ** -0.5 if scale is None else scale, window=window, softcap=softcap)
    plain = softcap is None and not layout.branched
    if dropout:
        if softcap is not None:
            raise ValueError("attention in packed rows has no dropout together with a soft cap")
        return segment_attention(query, key, value, layout, scores, dropout=dropout)
    if query.device.type == "cpu":
        # In float32 torch's own attention is faster, but not over oneDNN, which is what lower precisions ask for.
        if plain and query.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest":
            return segment_attention(query, key, value, layout, scores)
        return block_attention(query, key, value, layout, scores)
    if plain and flash_takes(query, value):
        return varlen_attention(query, key, value, layout, scores)
    if softcap is None and not flex_takes(query, value):
        return segment_attention(query, key, value, layout, scores)
    return flex_attention_of(query, key, value, layout, scores)


def _by_themselves(value: Values, key: Keys) -> Values:
    """Values that are a part of what one matrix gave (Phi-3) would keep all of it for the backward pass, while queries
    and keys were turned into others: a copy lets it go.
    """
    whole = value.untyped_storage()
    if (
        not value.requires_grad
        or whole.nbytes() == value.nbytes
        or whole.data_ptr() == key.untyped_storage().data_ptr()
    ):
        return value
    return value.clone()


def segment_attention(
    query: Queries, key: Keys, value: Values, layout: Layout, scores: Scores, *, dropout: float = 0.0
) -> Mixed:
    """Document by document with torch's own attention: the plainest way, the one that knows dropout and any width."""
    outputs = []
    lengths = [segment.length for segment in layout.segments]
    rest = layout.length - layout.tokens
    pieces = zip(*(x.transpose(0, 1).split([*lengths, rest], dim=1) for x in (query, key, value)), strict=True)
    for segment, (q, k, v) in zip(layout.segments, pieces, strict=False):
        plain = not segment.branches and scores.window is None
        outputs.append(
            F.scaled_dot_product_attention(
                q[None],
                k[None],
                v[None],
                attn_mask=None if plain else _visible(layout, segment, scores.window, query.device),
                is_causal=plain,
                dropout_p=dropout,
                scale=scores.scale,
                enable_gqa=len(q) != len(k),
            )[0].transpose(0, 1)  # back to the order in which it lies in memory
        )
    outputs.append(value.new_zeros(rest, query.shape[1], value.shape[-1]))
    return torch.cat(outputs)


def _visible(layout: Layout, segment: Segment, window: int | None, device: torch.device) -> Bool[Tensor, "L L"]:
    key = ("visible", segment.start, window, device)
    return layout.once(key, lambda: segment.visible(window).to(device, non_blocking=True))


def _of_one_token(query: Float[Tensor, "B H L D"]) -> bool:
    """Whether this is a single new token on a CPU, in less than float32."""
    lower = query.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
    return query.shape[2] == 1 and query.device.type == "cpu" and lower


def attend_from_one(
    query: Float[Tensor, "B H 1 D"],
    key: Float[Tensor, "B KV C D"],
    value: Float[Tensor, "B KV C V"],
    mask: Shaped[Tensor, "_ 1 1 C"] | None,
    *,
    scale: float | None = None,
) -> Float[Tensor, "B 1 H V"]:
    """Attention of one new token of each row to all that stand before it, in float32.

    For a single query in bfloat16 torch's own attention takes much longer: it is made for many.

    Args:
        query: One for each head; `H / KV` heads share keys and values.
        key: Of all tokens, the new one included.
        value: Of keys.
        mask: Added to scores, or whether a key is seen; None: all are.
        scale: Of scores, by default one over the root of the width.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else value.dtype
    with torch.autocast("cpu", enabled=False):
        grouped = query.float().reshape(len(query), key.shape[1], -1, query.shape[-1])
        scores = (grouped * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.float().mT
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        mixed = scores.softmax(dim=-1) @ value.float()
    return mixed.to(dtype).reshape(len(query), 1, query.shape[1], -1)


def check_packable(language_model: PreTrainedModel) -> None:
    """Make sure that documents of a packed row can be kept apart in a language model.

    Where tokens meet in anything but attention (a recurrence, a short convolution), each document would begin with what
    the one before it left behind, and nothing but the loss would tell.

    Raises:
        ValueError: They cannot.
    """
    others = sorted(set(getattr(language_model.config, "layer_types", None) or ()) - set(KINDS))
    convolutions = sorted(name for name, module in language_model.named_modules() if isinstance(module, nn.Conv1d))
    forward = inspect.signature(type(language_model.base_model).forward).parameters.values()
    reason = None
    if others:
        reason = f"has layers of the kind {' and '.join(others)}, and packed rows know only {' and '.join(KINDS)}"
    elif convolutions:
        reason = f"mixes neighbouring tokens in a convolution ({convolutions[0]})"
    elif language_model._is_stateful:
        reason = "carries a state from token to token, as state-space and linear-attention models do"
    elif not language_model._can_set_attn_implementation():
        reason = "does not use transformers' attention interface"
    elif not any(parameter.kind is parameter.VAR_KEYWORD for parameter in forward):
        reason = "does not hand keyword arguments on to its attention"
    elif not any(parameter.name == "position_ids" for parameter in forward):
        reason = "does not let itself be told positions, which begin anew in every document"
    elif between := _behind_base(language_model):
        reason = f"has more than a matrix between its last hidden state and its logits ({between[0]})"
    if reason is not None:
        raise ValueError(
            f"{type(language_model).__name__} {reason}, so documents of a packed row cannot be kept apart in it: "
            "choose a language model whose layers all have plain attention"
        )


def _behind_base(language_model: PreTrainedModel) -> list[str]:
    """Weights that are neither the base model's nor the head's: what `head.py` would leave out."""
    parts = (language_model.base_model, head_of(language_model))
    known = {id(parameter) for part in parts for parameter in part.parameters()}
    return [name for name, parameter in language_model.named_parameters() if id(parameter) not in known]


def use_packed_attention(language_model: PreTrainedModel) -> None:
    """Let the attention of a model that `check_packable` lets pass take layouts, once and for all."""
    before = language_model.config._attn_implementation
    assert before is not None  # transformers settles it when a model is made
    if before.startswith(PREFIX):
        return
    name = PREFIX + before
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        ALL_ATTENTION_FUNCTIONS.register(name, _attention_over(before))
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, _mask_over(before))
    language_model.config._attn_implementation = name
    use_lean_layers(language_model)
    turn_by_document(language_model)


def attention_name(language_model: PreTrainedModel) -> str | None:
    """What a model attends with, by the name under which it was chosen, whether or not it takes layouts by now."""
    name = language_model.config._attn_implementation
    return None if name is None else name.removeprefix(PREFIX)


@contextmanager
def working_on(layout: Layout) -> Iterator[None]:
    """While this lasts, a language model builds no mask: the layout, which it is given as well, stands in its place."""
    token = row_in_work.set(layout)
    try:
        yield
    finally:
        row_in_work.reset(token)


def _attention_over(before: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def packed_attention(
        module: nn.Module,
        query: Float[Tensor, "B H L D"],
        key: Float[Tensor, "B KV total D"],
        value: Float[Tensor, "B KV total V"],
        attention_mask: Tensor | None,
        layout: Layout | None = None,
        **options: Any,
    ) -> tuple[Float[Tensor, "B L H V"], Tensor | None]:
        if layout is None:
            if row_in_work.get() is not None:
                raise ValueError(
                    f"{type(module).__name__} lost the layout of a packed row on its way to attention: choose a "
                    "language model that hands keyword arguments on"
                )
            if before == "sdpa" and _of_one_token(query) and not options.get("dropout"):
                return attend_from_one(query, key, value, attention_mask, scale=options.get("scaling")), None
            # a model's own eager attention has no entry in transformers' table: it stands beside the model
            function = (
                vars(sys.modules[type(module).__module__])["eager_attention_forward"]
                if before == "eager"
                else ALL_ATTENTION_FUNCTIONS[before]
            )
            return function(module, query, key, value, attention_mask, **options)
        for name in UNKNOWN:
            if options.get(name) is not None:
                raise ValueError(f"{type(module).__name__} asks for {name} in attention, which packed rows do not have")
        query, key, value = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        mixed = attend(
            query,
            key,
            value,
            layout,
            scale=options.get("scaling"),
            window=options.get("sliding_window"),
            softcap=options.get("softcap"),
            dropout=options.get("dropout", 0.0),
        )
        return mixed[None].contiguous(), None  # as transformers' own: some families view it in another shape

    return packed_attention


def _mask_over(before: str) -> Callable[..., Any]:
    def mask(*args: Any, **kwargs: Any) -> Any:
        return None if row_in_work.get() is not None else ALL_MASK_ATTENTION_FUNCTIONS[before](*args, **kwargs)

    return mask

"""Attention within the documents of a packed row, on a GPU: one kernel for the whole row.

Plain documents go through flash attention for sequences of any lengths; branches, soft caps, float32 and whatever else
its kernel does not take through FlexAttention, which skips what its mask leaves out block by block. What neither
takes is left to `attention.segment_attention`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, and_masks, create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn

from xgenmm.model.layout import Keys, Layout, Mixed, Queries, Scores, Values

FLASH_DTYPES = (torch.bfloat16, torch.float16)
FLASH_WIDTHS = range(8, 257, 8)
"""Of heads."""
FLASH_CAPABILITY = (8, 0)
"""Ampere: the oldest GPUs that flash attention is written for."""
LEAST_FLEX_WIDTH = 16
"""Of heads; what makes FlexAttention's kernels multiplies no narrower matrices."""
FLEX_FLOAT32_BYTES = 160_000
"""Memory of a GPU's multiprocessor that a block of FlexAttention takes in float32: what those of data centres have."""
FLEX_VARIANTS = 64
"""How often FlexAttention may be compiled, for other windows, soft caps, types: after that it would keep all scores."""


def flash_takes(query: Queries, value: Values) -> bool:
    """Whether flash attention has a kernel for vectors of this type and width, on this GPU."""
    return (
        query.dtype in FLASH_DTYPES
        and query.shape[-1] == value.shape[-1]
        and query.shape[-1] in FLASH_WIDTHS
        and torch.cuda.get_device_capability(query.device) >= FLASH_CAPABILITY
    )


def flex_takes(query: Queries, value: Values) -> bool:
    """Whether FlexAttention has a kernel for vectors of this type and width, on this GPU."""
    if min(query.shape[-1], value.shape[-1]) < LEAST_FLEX_WIDTH:
        return False
    if torch.cuda.get_device_capability(query.device) < FLASH_CAPABILITY:
        return False  # torch compiles nothing in bfloat16 for these, and little in float32 fits them
    gpu: Any = torch.cuda.get_device_properties(query.device)
    return query.dtype in FLASH_DTYPES or gpu.shared_memory_per_block_optin >= FLEX_FLOAT32_BYTES


def varlen_attention(query: Queries, key: Keys, value: Values, layout: Layout, scores: Scores) -> Mixed:
    """For documents without branches, if `flash_takes` them. Padding is a document of its own."""
    begins, longest = layout.once(("varlen", query.device), lambda: document_begins(layout, query.device))
    mixed = varlen_attn(
        query,
        key,
        value,
        begins,
        begins,
        longest,
        longest,
        scale=scores.scale,
        window_size=(-1 if scores.window is None else scores.window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(mixed, Tensor)
    return mixed


def document_begins(layout: Layout, device: torch.device) -> tuple[Int[Tensor, " borders"], int]:
    """Where each document begins, and the row's end; and the longest one's length."""
    begins = [segment.start for segment in layout.segments]
    ends = [*begins[1:], layout.tokens, *([layout.length] if layout.length > layout.tokens else [])]
    every = torch.tensor([0, *ends], dtype=torch.int32)
    return every.to(device, non_blocking=True), int(every.diff().max())


def flex_attention_of(query: Queries, key: Keys, value: Values, layout: Layout, scores: Scores) -> Mixed:
    """For anything that `flex_takes`."""
    mask = layout.once(("flex", query.device, scores.window), lambda: block_mask(layout, scores.window, query.device))
    mixed = _flex(query.device.type)(
        *(x.transpose(0, 1)[None] for x in (query, key, value)),
        block_mask=mask,
        scale=scores.scale,
        score_mod=None if scores.softcap is None else _capped(scores.softcap),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed[0].transpose(0, 1)


def block_mask(layout: Layout, window: int | None, device: torch.device) -> BlockMask:
    """Which block of a row sees which; padding sees itself."""
    sizes = [segment.length for segment in layout.segments] + [layout.length - layout.tokens]
    documents = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    numbers = [segment.branch_numbers() for segment in layout.segments]
    branches = torch.cat([*numbers, torch.zeros(sizes[-1], dtype=torch.int64)])
    positions = torch.cat([*(segment.positions() for segment in layout.segments), torch.arange(sizes[-1])])
    documents, branches, positions = (x.to(device, non_blocking=True) for x in (documents, branches, positions))

    # Lambdas, because a function whose shapes are checked (in tests) is not what FlexAttention counts the arguments of.
    same: Any = lambda _b, _h, q, k: (documents[q] == documents[k]) & (q >= k)  # noqa: E731
    related: Any = lambda _b, _h, q, k: (branches[k] == 0) | (branches[k] == branches[q])  # noqa: E731
    visible = [same, related]
    if window is not None:
        near: Any = lambda _b, _h, q, k: positions[q] - positions[k] < window  # noqa: E731
        visible.append(near)
    return create_block_mask(and_masks(*visible), None, None, layout.length, layout.length, device=device)


@cache
def _flex(device: str) -> Callable[..., Any]:
    # Not compiled, it computes all scores: only to check the mask on a CPU.
    if device != "cuda":
        return flex_attention
    compiled: Any = torch.compile  # its types do not know of the limit
    return compiled(flex_attention, recompile_limit=FLEX_VARIANTS)


@cache
def _capped(softcap: float) -> Any:
    return lambda score, _b, _h, _q, _k: softcap * torch.tanh(score / softcap)

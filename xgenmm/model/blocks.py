"""Causal attention within the documents of a packed row, on a CPU, with nothing computed that is masked.

Queries are taken in blocks. A document that fits into one block is computed whole, side by side with others of like
length; a longer one block by block, each against the keys in front of it. Scores exist for one block at a time, and
are computed again in the backward pass. In bfloat16 they are rounded, as in transformers' eager attention.

torch's own fused attention needs 2 to 5 times as long for documents of a hundred tokens in bfloat16, most of it in its
backward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from xgenmm.model.layout import Keys, Layout, Mixed, Queries, Scores, Segment, Values
from xgenmm.model.products import chances_of, gradients_of, times

BLOCK = 128
"""Queries of a block: fewer make small products, more compute more that is masked."""
LIKE_LENGTH = 0.8
"""Documents share a product if the shortest has at least this share of the longest's length."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the vectors of a group stand among the row's, of which there is one for each position and head."""

    gather: Int[Tensor, " n"]
    """In the order [documents, heads of keys, heads that share them, places]. Padding reads any."""
    scatter: Int[Tensor, " n"]
    """The same, but padding writes behind the row's end."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Short documents side by side, padded at their ends, where causal attention never looks."""

    count: int
    queries: Places
    keys: Places
    padding: Float[Tensor, "count 1 1 places 1"] | None
    """0 at padding, 1 elsewhere; None without padding."""
    bias: Float[Tensor, "places places"] | Float[Tensor, "count 1 1 places places"]
    """Added to scores: 0 where a token sees another, -inf where it does not."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A block of queries of a longer document. Places count from the document's beginning."""

    queries: slice
    keys: tuple[slice, ...]
    """What it sees, in order: up to itself; for a branch the trunk, and then the branch up to itself."""
    bias: Float[Tensor, "rows last"]
    """Added to the scores of the last keys; those in front are seen by all queries."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of a row's work: what is computed in one block, and what in several."""

    groups: tuple[Group, ...]
    long: tuple[tuple[Segment, tuple[Tile, ...]], ...]


def block_attention(query: Queries, key: Keys, value: Values, layout: Layout, scores: Scores) -> Mixed:
    """Each token's mixture of the values that it sees; zeros at padding. See `attend`; all three are of one type."""
    heads = query.shape[1], key.shape[1]
    window, dtype = scores.window, query.dtype
    plan = layout.once(("blocks", window, dtype, heads), lambda: plan_blocks(layout, window, dtype, *heads))
    return _BlockAttention.apply(query, key, value, plan, scores.scale, scores.softcap)


def plan_blocks(layout: Layout, window: int | None, dtype: torch.dtype, heads: int, key_heads: int) -> Plan:
    """Who is computed with whom."""
    short = sorted((s for s in layout.segments if s.length <= BLOCK), key=lambda s: -s.length)
    groups: list[list[Segment]] = []
    for segment in short:
        if groups and segment.length >= LIKE_LENGTH * groups[-1][0].length:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return Plan(
        groups=tuple(_group(members, layout.length, window, dtype, heads, key_heads) for members in groups),
        long=tuple((s, tuple(_tiles(s, window, dtype))) for s in layout.segments if s.length > BLOCK),
    )


def _group(
    members: Sequence[Segment], length: int, window: int | None, dtype: torch.dtype, heads: int, key_heads: int
) -> Group:
    places = members[0].length
    lengths = torch.tensor([segment.length for segment in members])[:, None]
    starts = torch.tensor([segment.start for segment in members])[:, None]
    index = torch.arange(places)
    real = index < lengths
    if any(segment.branches for segment in members) or (window is not None and window < places):
        # Padding sees itself, so that no row of scores is empty.
        seen = torch.eye(places, dtype=torch.bool).repeat(len(members), 1, 1)
        for own, segment in zip(seen, members, strict=True):
            own[: segment.length, : segment.length] = segment.visible(window)
        seen = seen[:, None, None]
    else:
        seen = index[:, None] >= index
    gather, scatter = (torch.where(real, starts + index, other) for other in (starts, length))

    def places(heads: int) -> Places:
        of_head = torch.arange(heads)[:, None]
        vectors = ((positions[:, None] * heads + of_head).flatten() for positions in (gather, scatter))
        return Places(gather=next(vectors), scatter=next(vectors))

    return Group(
        count=len(members),
        queries=places(heads),
        keys=places(key_heads),
        padding=None if bool(real.all()) else rearrange(real, "n p -> n 1 1 p 1").to(dtype),
        bias=_bias(seen, dtype),
    )


def _tiles(segment: Segment, window: int | None, dtype: torch.dtype) -> list[Tile]:
    numbers, visible = segment.branch_numbers(), segment.visible(window)
    tiles = []
    for start in range(0, segment.length, BLOCK):
        stop = min(start + BLOCK, segment.length)
        if start < segment.trunk:
            keys = (slice(0, stop),)
            shared = start
        else:
            # from the beginning of the branch in which the block begins
            begin = int((numbers == numbers[start]).nonzero()[0])
            keys = (slice(0, segment.trunk), slice(begin, stop)) if segment.trunk else (slice(begin, stop),)
            shared = segment.trunk
        seen = torch.cat([visible[start:stop, piece] for piece in keys], dim=1)
        if window is not None and not bool(seen[:, :shared].all()):
            shared = 0
        tiles.append(Tile(queries=slice(start, stop), keys=keys, bias=_bias(seen[:, shared:], dtype)))
    return tiles


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, float("-inf"))


class _BlockAttention(torch.autograd.Function):
    """Autocast would have softmax in float32: it is accurate as it is."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: Plan, scale: float, softcap: float | None
    ) -> Tensor:
        query, key, value = (tensor.contiguous() for tensor in (query, key, value))
        # One position more than there are: padding is written there.
        output = value.new_zeros(len(query) + 1, query.shape[1], value.shape[-1])
        kept = []
        with torch.autocast(query.device.type, enabled=False):
            for group in plan.groups:
                q, k, v = _side_by_side(group, query, key, value, scale)
                chances, _ = chances_of(q, k, group.bias, softcap)
                _write(output, times(chances, v), group.queries)
                # Scores of short documents are small; a slope beside them would be too many.
                kept.append(chances if softcap is None else None)
            for segment, tiles in plan.long:
                q, own = (_of_segment(tensor, segment) for tensor in (query, output))
                k, v = (_by_head(_of_segment(tensor, segment), key.shape[1]) for tensor in (key, value))
                for tile in tiles:
                    mine = _by_head(q[tile.queries], key.shape[1]).mul_(scale)
                    chances, _ = chances_of(mine, _pieces(k, tile.keys), tile.bias, softcap)
                    own[tile.queries] = _rows(times(chances, _pieces(v, tile.keys)))
        ctx.save_for_backward(query, key, value, *kept)
        ctx.plan, ctx.scale, ctx.softcap = plan, scale, softcap
        return output[:-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        found = [tensor.new_zeros(len(tensor) + 1, *tensor.shape[1:]) for tensor in (query, key, value)]
        with torch.autocast(query.device.type, enabled=False):
            for group, chances in zip(ctx.plan.groups, kept, strict=True):
                q, k, v = _side_by_side(group, query, key, value, ctx.scale)
                g = _read(gradient, group.queries).view(*q.shape[:-1], -1)
                if group.padding is not None:
                    g *= group.padding
                slope = None
                if chances is None:
                    chances, slope = chances_of(q, k, group.bias, ctx.softcap)
                parts = gradients_of(q, k, v, g, chances, slope)
                parts[0].mul_(ctx.scale)
                for whole, part, places in zip(found, parts, (group.queries, group.keys, group.keys), strict=True):
                    _write(whole, part, places)
            for segment, tiles in ctx.plan.long:
                _long_gradients(found, segment, tiles, (query, key, value, gradient), ctx.scale, ctx.softcap)
        of_query, of_key, of_value = (whole[:-1] for whole in found)
        return of_query, of_key, of_value, None, None, None


def _long_gradients(
    found: Sequence[Tensor],
    segment: Segment,
    tiles: Sequence[Tile],
    tensors: Sequence[Tensor],
    scale: float,
    softcap: float | None,
) -> None:
    """Those of a document of several blocks, written to where they belong in the row's."""
    q, k, v, g = (_of_segment(tensor, segment) for tensor in tensors)
    of_query, of_key, of_value = (_of_segment(whole, segment) for whole in found)
    heads = k.shape[1]
    k, v = _by_head(k, heads), _by_head(v, heads)
    # Many blocks add to the same keys.
    sums = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in (k, v)]
    for tile in tiles:
        mine, arriving = (_by_head(rows[tile.queries], heads) for rows in (q, g))
        mine.mul_(scale)
        keys, values = (_pieces(tensor, tile.keys) for tensor in (k, v))
        chances, slope = chances_of(mine, keys, tile.bias, softcap)
        part, *parts = gradients_of(mine, keys, values, arriving, chances, slope)
        of_query[tile.queries] = _rows(part.mul_(scale))
        lengths = [piece.stop - piece.start for piece in tile.keys]
        for whole, part in zip(sums, parts, strict=True):
            for piece, its in zip(tile.keys, part.split(lengths, dim=-2), strict=True):
                whole[..., piece, :] += its
    of_key.copy_(_rows(sums[0]))
    of_value.copy_(_rows(sums[1]))


# Below, tensors are those of `products`, whose first axis is that of documents side by side.


def _side_by_side(
    group: Group, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    count, heads = group.count, key.shape[1]
    q = rearrange(
        _read(query, group.queries).mul_(scale), "(n k s p) d -> n k s p d", n=count, k=heads, s=query.shape[1] // heads
    )
    k, v = (rearrange(_read(tensor, group.keys), "(n k p) d -> n k 1 p d", n=count, k=heads) for tensor in (key, value))
    return q, k, v


def _read(rows: Tensor, places: Places) -> Tensor:
    return rows.flatten(0, 1).index_select(0, places.gather)


def _write(rows: Tensor, documents: Tensor, places: Places) -> None:
    rows.flatten(0, 1).index_copy_(0, places.scatter, documents.flatten(0, 3))


def _of_segment(rows: Tensor, segment: Segment) -> Tensor:
    return rows[segment.start : segment.start + segment.length]


def _by_head(rows: Tensor, key_heads: int) -> Tensor:
    """A copy, also where the order is that of the rows already."""
    ordered = rearrange(rows, "p (k s) d -> 1 k s p d", k=key_heads)
    return ordered.clone(memory_format=torch.contiguous_format)


def _rows(documents: Tensor) -> Tensor:
    return rearrange(documents, "n k s p d -> (n p) (k s) d")


def _pieces(document: Tensor, pieces: Sequence[slice]) -> Tensor:
    """A copy: each product would make its own otherwise, and from a transpose, at a tenth of the speed."""
    return torch.cat([document[..., piece, :] for piece in pieces], dim=-2)

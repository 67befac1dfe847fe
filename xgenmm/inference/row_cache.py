"""Keys and values of several rows that are written at once: rows come and go, and every step adds a column.

A column is a step, the last one the same for all rows; what a row has no token in is hidden by its mask. transformers'
own cache copies everything at every step; this one has room ahead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Columns that are made ready when there are none left."""


@dataclass(frozen=True)
class KeysValues:
    """Of one layer."""

    keys: Float[Tensor, "B KV C D"]
    values: Float[Tensor, "B KV C V"]


class GrowingLayer(DynamicLayer):
    """A layer with room for the next columns."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """As transformers', but with empty tensors of the final shape."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.hold(KeysValues(key_states[:, :, :0], value_states[:, :, :0]))

    @property
    def content(self) -> KeysValues:
        """All keys and values there are."""
        assert self.keys is not None
        assert self.values is not None
        return KeysValues(self.keys, self.values)

    def hold(self, content: KeysValues) -> None:
        """Hold these keys and values, and nothing else."""
        self.keys, self.values = content.keys, content.values
        self.dtype, self.device = content.keys.dtype, content.keys.device
        self.is_initialized = True
        self._room: KeysValues | None = None

    def update(
        self,
        key_states: Float[Tensor, "B KV L D"],
        value_states: Float[Tensor, "B KV L V"],
        *_args: object,
        **_kwargs: object,
    ) -> tuple[Float[Tensor, "B KV C D"], Float[Tensor, "B KV C V"]]:
        """Add columns; gives all there are now."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        now, added = self.content, key_states.shape[2]
        begin, end = now.keys.shape[2], now.keys.shape[2] + added
        room = self._room
        if room is None or room.keys.shape[2] < end:
            room = KeysValues(_widened(now.keys, end + ROOM), _widened(now.values, end + ROOM))
        room.keys[:, :, begin:end] = key_states
        room.values[:, :, begin:end] = value_states
        self.keys, self.values, self._room = room.keys[:, :, :end], room.values[:, :, :end], room
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Int[Tensor, " beams"]) -> None:
        """Other rows, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Int[Tensor, " kept"]) -> None:
        """Keep these rows, in this order."""
        self._change(lambda tensor: tensor[indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times in a row."""
        self._change(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def crop(self, tokens_to_remove: int) -> None:
        """Drop the last `-tokens_to_remove` columns."""
        self._change(lambda tensor: tensor[:, :, :tokens_to_remove] if tokens_to_remove else tensor)

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.is_initialized:
            self.hold(KeysValues(change(self.content.keys), change(self.content.values)))


def _widened(tensor: Float[Tensor, "B KV C D"], columns: int) -> Float[Tensor, "B KV wider D"]:
    wide = tensor.new_empty(*tensor.shape[:2], columns, tensor.shape[3])
    wide[:, :, : tensor.shape[2]] = tensor
    return wide


def growing_cache() -> Cache:
    """An empty cache of growing layers."""
    return Cache(layer_class_to_replicate=GrowingLayer)


@dataclass(frozen=True)
class Rows:
    """What has been read of some rows."""

    layers: tuple[KeysValues, ...]
    mask: Bool[Tensor, "B C"]
    """Where a row has a token."""

    @staticmethod
    def of(cache: Cache, mask: Bool[Tensor, "B C"]) -> "Rows":
        """The content of a cache."""
        return Rows(tuple(cast(GrowingLayer, layer).content for layer in cache.layers), mask)

    def cache(self) -> Cache:
        """A cache that holds these rows."""
        cache = growing_cache()
        for content in self.layers:
            layer = GrowingLayer()
            layer.hold(content)
            cache.layers.append(layer)
        return cache

    def right_aligned(self, columns: int) -> "Rows":
        """With so many columns: empty ones are added in front, or dropped there."""
        extra = columns - self.mask.shape[1]
        layers = (
            KeysValues(F.pad(one.keys, (0, 0, extra, 0)), F.pad(one.values, (0, 0, extra, 0))) for one in self.layers
        )
        return Rows(tuple(layers), F.pad(self.mask, (extra, 0)))

    def without_empty_columns(self) -> "Rows":
        """Without the first columns in which no row has a token."""
        first = int(self.mask.any(dim=0).int().argmax())
        return self.right_aligned(self.mask.shape[1] - first) if first else self


def joined(parts: Sequence[Rows]) -> Rows:
    """All rows, one below the other."""
    columns = max(part.mask.shape[1] for part in parts)
    aligned = [part.right_aligned(columns) for part in parts]
    layers = (
        KeysValues(torch.cat([one.keys for one in same]), torch.cat([one.values for one in same]))
        for same in zip(*(part.layers for part in aligned), strict=True)
    )
    return Rows(tuple(layers), torch.cat([part.mask for part in aligned]))

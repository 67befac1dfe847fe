"""Rotary positions whose frequencies depend on how long a text is (`longrope` and `dynamic`), in packed rows.

transformers takes the largest position of a batch for that length. In a packed row the longest document would then
decide for its neighbours, and what is learnt from one would depend on which others it shares a row with.
"""

from types import MethodType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from xgenmm.model.layout import row_in_work

BY_LENGTH = ("longrope", "dynamic")


def turn_by_document(language_model: PreTrainedModel) -> None:
    """Let each document of a packed row have the frequencies that it has alone. Other kinds stay as they are."""
    for module in language_model.modules():
        kinds = getattr(module, "rope_type", None)
        kinds = kinds.values() if isinstance(kinds, dict) else (kinds,)
        if any(kind in BY_LENGTH for kind in kinds) and "forward" not in vars(module):
            module.forward = MethodType(_by_document, module)


def _by_document(
    module: Any, x: Tensor, position_ids: Int[Tensor, "_ L"], *options: Any, **named: Any
) -> tuple[Float[Tensor, "_ L R"], Float[Tensor, "_ L R"]]:
    layout, own = row_in_work.get(), type(module).forward
    if layout is None:
        return own(module, x, position_ids, *options, **named)
    lengths = [segment.length for segment in layout.segments]
    longest = [segment.trunk + max(segment.branches, default=0) for segment in layout.segments]
    *documents, padding = position_ids.split([*lengths, layout.length - layout.tokens], dim=1)
    parts = []
    for positions, length in zip(documents, longest, strict=True):
        # Where `dynamic` has met a longer text before, it would keep that one's frequencies.
        if length > module.original_max_seq_len:
            module.max_seq_len_cached = module.original_max_seq_len
        parts.append(own(module, x, positions, *options, **named))
    if padding.shape[1]:
        parts.append(own(module, x, torch.zeros_like(padding), *options, **named))
    cosines, sines = zip(*parts, strict=True)
    return torch.cat(cosines, dim=1), torch.cat(sines, dim=1)

"""Examples -> PaddedBatch: rows of one width, for generation and for the Hugging Face interface. Training packs."""

from collections.abc import Sequence
from typing import Literal

import torch

from xgenmm.types import Example, PaddedBatch


def collate(examples: Sequence[Example], pad_id: int, side: Literal["left", "right"] = "left") -> PaddedBatch:
    """Put examples into one batch, padded to the longest.

    Args:
        examples: At least one, without branches.
        pad_id: Token id of padding; the attention mask, not this id, says what is padding.
        side: Where padding goes: left for generation.
    """
    if not examples:
        raise ValueError("no examples to collate: a batch needs at least one")
    longest = max(len(example.input_ids) for example in examples)
    input_ids = torch.full((len(examples), longest), pad_id)
    attention_mask = torch.zeros((len(examples), longest), dtype=torch.int64)
    for row, example in enumerate(examples):
        tokens = len(example.input_ids)
        place = slice(0, tokens) if side == "right" else slice(longest - tokens, longest)
        input_ids[row, place] = example.input_ids
        attention_mask[row, place] = 1
    return PaddedBatch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        pixel_values=torch.cat([example.pixel_values for example in examples]),
        image_layouts=torch.cat([example.image_layouts for example in examples]),
    )

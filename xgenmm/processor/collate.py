"""Examples -> Batch. Pads; decides nothing."""

from collections.abc import Sequence
from typing import Literal

import torch

from xgenmm.types import IGNORE_INDEX, Batch, Example


def collate(
    examples: Sequence[Example], pad_id: int, side: Literal["left", "right"] = "right", pad_to_multiple: int = 1
) -> Batch:
    """Put examples into one batch, padded to the longest.

    Args:
        examples: At least one.
        pad_id: Token id of padding; the attention mask, not this id, says what is padding.
        side: Where padding goes: right for training, left for generation.
        pad_to_multiple: Length is rounded up to a multiple of this, so that few different shapes occur.
    """
    if not examples:
        raise ValueError("no examples to collate: a batch needs at least one")
    longest = max(len(example.input_ids) for example in examples)
    length = -(-longest // pad_to_multiple) * pad_to_multiple
    input_ids = torch.full((len(examples), length), pad_id)
    labels = torch.full((len(examples), length), IGNORE_INDEX)
    attention_mask = torch.zeros((len(examples), length), dtype=torch.int64)
    branched = any(example.branches is not None for example in examples)
    branches = torch.zeros_like(input_ids) if branched else None
    for row, example in enumerate(examples):
        tokens = len(example.input_ids)
        place = slice(0, tokens) if side == "right" else slice(length - tokens, length)
        input_ids[row, place] = example.input_ids
        labels[row, place] = example.labels
        attention_mask[row, place] = 1
        if branches is not None and example.branches is not None:
            branches[row, place] = example.branches
    return Batch(
        ids=tuple(example.id for example in examples),
        input_ids=input_ids,
        labels=labels,
        attention_mask=attention_mask,
        pixel_values=torch.cat([example.pixel_values for example in examples]),
        image_layouts=torch.cat([example.image_layouts for example in examples]),
        branches=branches,
    )

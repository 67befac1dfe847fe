"""Examples -> Batch: documents one behind the other in one row. Which ones share a row is decided elsewhere."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from xgenmm.types import IGNORE_INDEX, Batch, Example


def pack(
    examples: Sequence[Example],
    pad_id: int,
    length: int | None = None,
    pixel_values: Shaped[Tensor, "T 3 S S"] | None = None,
) -> Batch:
    """Put examples into one row, in the order given.

    Args:
        examples: At least one.
        pad_id: Token id of padding, if there is any; that it belongs to no document says what it is.
        length: Pad the row at its end to so many positions: for machines that are faster if all rows are equally long.
        pixel_values: The tiles of all examples, where they lie together already; otherwise they are copied.

    Raises:
        ValueError: There is no example, or the examples are longer than the row.
    """
    if not examples:
        raise ValueError("no examples to pack: a row needs at least one")
    lengths = [example.input_ids.shape[0] for example in examples]
    tokens = sum(lengths)
    padding = 0 if length is None else length - tokens
    if padding < 0:
        raise ValueError(f"{len(examples)} examples of {tokens} tokens do not fit into a row of {length}")
    branched = any(example.branches is not None for example in examples)
    rest = torch.full((padding,), pad_id)
    return Batch(
        ids=tuple(example.id for example in examples),
        input_ids=torch.cat([*(example.input_ids for example in examples), rest]),
        labels=torch.cat([*(example.labels for example in examples), torch.full_like(rest, IGNORE_INDEX)]),
        documents=torch.from_numpy(np.repeat([*range(len(examples)), -1], [*lengths, padding])),
        position_ids=torch.cat([*(positions(example) for example in examples), torch.arange(padding)]),
        pixel_values=torch.cat([one.pixel_values for one in examples]) if pixel_values is None else pixel_values,
        image_layouts=torch.cat([example.image_layouts for example in examples]),
        tile_counts=tuple(len(example.pixel_values) for example in examples),
        branches=torch.cat([*(_branches(example) for example in examples), torch.zeros_like(rest)])
        if branched
        else None,
    )


def positions(example: Example) -> Int[Tensor, " L"]:
    """Position of every token: each branch counts on from the end of the trunk, as if it alone stood behind it."""
    index = torch.from_numpy(np.arange(example.input_ids.shape[0]))  # torch takes several times as long for so few
    if example.branches is None:
        return index
    # branches are numbered upwards from the trunk's 0, so the first position of each is where its number is first met
    begin = torch.searchsorted(example.branches, example.branches)
    trunk = int((example.branches == 0).sum())
    return torch.where(example.branches == 0, index, index - begin + trunk)


def _branches(example: Example) -> Int[Tensor, " L"]:
    return torch.zeros_like(example.input_ids) if example.branches is None else example.branches

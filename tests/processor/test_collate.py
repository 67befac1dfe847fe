"""Padding on either side, and images in the order of their placeholders."""

import pytest
import torch

from xgenmm.processor.collate import collate
from xgenmm.types import IGNORE_INDEX, Example


def example(name: str, ids: list[int], tiles: list[float], layouts: list[list[int]]) -> Example:
    return Example(
        id=name,
        input_ids=torch.tensor(ids),
        labels=torch.tensor([*ids[1:], IGNORE_INDEX]),
        pixel_values=torch.stack([torch.full((3, 2, 2), value) for value in tiles])
        if tiles
        else torch.empty(0, 3, 2, 2),
        image_layouts=torch.tensor(layouts, dtype=torch.int64).reshape(-1, 4),
    )


ROWS = [
    example("a", [5, 6, 7], [0.1], [[0, 0, 8, 9]]),
    example("b", [8], [], []),
    example("c", [5, 5], [0.2, 0.3, 0.4], [[0, 0, 1, 1], [1, 1, 2, 2]]),
]


def test_right():
    batch = collate(ROWS, pad_id=0, side="right")
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0], [5, 5, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]


def test_left():
    batch = collate(ROWS, pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7], [0, 0, 8], [0, 5, 5]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]


def test_padding_is_told_by_the_mask_not_by_the_id():
    batch = collate(ROWS, pad_id=5)  # as where padding is the end of sequence
    assert batch.attention_mask.sum(dim=1).tolist() == [3, 1, 2]


def test_images_row_after_row():
    batch = collate(ROWS, pad_id=0)
    assert batch.pixel_values[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert batch.image_layouts.tolist() == [[0, 0, 8, 9], [0, 0, 1, 1], [1, 1, 2, 2]]


def test_text_alone():
    batch = collate(ROWS[1:2], pad_id=0)
    assert batch.pixel_values.shape == (0, 3, 2, 2)
    assert batch.image_layouts.shape == (0, 4)


def test_nothing():
    with pytest.raises(ValueError, match="at least one"):
        collate([], pad_id=0)

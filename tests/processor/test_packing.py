"""Rows of documents: their places, positions and pictures; and how documents that begin alike are joined."""

import pytest
import torch
from test_collate import ROWS

from xgenmm.processor.branching import branch
from xgenmm.processor.packing import pack
from xgenmm.types import IGNORE_INDEX, Example

PICTURE = 9
"""The placeholder of a vision token."""


def test_documents_stand_one_behind_the_other():
    batch = pack(ROWS, pad_id=0)
    assert batch.ids == ("a", "b", "c")
    assert batch.input_ids.tolist() == [5, 6, 7, 8, 5, 5]
    assert batch.labels.tolist() == [6, 7, -100, -100, 5, -100]
    assert batch.documents.tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.branches is None
    assert batch.pixel_values[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert batch.image_layouts.tolist() == [[0, 0, 8, 9], [0, 0, 1, 1], [1, 1, 2, 2]]


def test_padding_belongs_to_no_document():
    batch = pack(ROWS, pad_id=5, length=8)  # as where padding is the end of sequence
    assert batch.input_ids.tolist() == [5, 6, 7, 8, 5, 5, 5, 5]
    assert batch.documents.tolist() == [0, 0, 0, 1, 2, 2, -1, -1]
    assert batch.labels.tolist()[6:] == [-100, -100]
    assert len(batch.position_ids) == 8


def test_what_cannot_be_packed():
    with pytest.raises(ValueError, match="at least one"):
        pack([], pad_id=0)
    with pytest.raises(ValueError, match="3 examples of 6 tokens do not fit into a row of 5"):
        pack(ROWS, pad_id=0, length=5)


def test_a_branch_counts_on_from_the_end_of_its_trunk():
    def branched(branches: list[int]) -> Example:
        return Example(
            id="",
            input_ids=torch.zeros(len(branches), dtype=torch.long),
            labels=torch.full((len(branches),), IGNORE_INDEX),
            pixel_values=torch.empty(0, 3, 2, 2),
            image_layouts=torch.empty(0, 4, dtype=torch.long),
            branches=torch.tensor(branches),
        )

    batch = pack([branched([0, 0, 1, 1, 1, 2, 2]), ROWS[0], branched([1, 1, 3, 3, 3])], pad_id=0, length=16)
    assert batch.position_ids.tolist()[:15] == [0, 1, 2, 3, 4, 2, 3, 0, 1, 2, 0, 1, 0, 1, 2]
    assert batch.branches is not None
    assert batch.branches.tolist() == [0, 0, 1, 1, 1, 2, 2, 0, 0, 0, 1, 1, 3, 3, 3, 0]


def question(text: list[int], supervised_from: int, shade: float = 0.5) -> Example:
    """Two words, a picture of two vision tokens, then `text`, supervised from a word of it on."""
    ids = torch.tensor([3, 4, PICTURE, PICTURE, *text])
    labels = torch.full_like(ids, IGNORE_INDEX)
    first = 4 + supervised_from
    labels[first - 1 : -1] = ids[first:]
    pixels = torch.full((1, 3, 2, 2), shade)
    return Example(id="", input_ids=ids, labels=labels, pixel_values=pixels, image_layouts=torch.tensor([[0, 0, 5, 4]]))


def test_a_common_beginning_is_written_once():
    joined = branch([question([7, 8, 10], 1), question([7, 8, 20, 21, 22], 1), question([7, 30], 1)], PICTURE)
    assert joined is not None
    # the trunk ends before 7, which predicts the first supervised word: each branch has a 7 of its own; the last word
    # of each predicts nothing and is left out
    assert joined.branches is not None
    assert joined.branches.tolist() == [0] * 4 + [1] * 2 + [2] * 4 + [3]
    assert joined.input_ids.tolist() == [3, 4, PICTURE, PICTURE, 7, 8, 7, 8, 20, 21, 7]
    # both of the first two have the target 8 behind 7: shared, it would count once and not twice
    assert joined.labels.tolist() == [-100] * 4 + [8, 10, 8, 20, 21, 22, 30]
    assert len(joined.pixel_values) == 1


def test_examples_of_different_pictures_are_not_joined():
    assert branch([question([7], 0), question([7], 0, shade=0.6)], PICTURE) is None


def test_words_supervised_right_behind_a_picture_are_not_joined():
    # the last vision token would have two targets, and a vision token cannot be repeated in a branch
    assert branch([question([7, 8], 0), question([9, 8], 0)], PICTURE) is None

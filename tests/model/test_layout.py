"""Layouts of packed rows, by hand."""

import pytest
import torch

from xgenmm.model.layout import Segment, layout_between, layout_of


def test_documents_branches_and_padding():
    documents = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3, 3, -1])
    branches = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 1, 2, 0])
    assert layout_of(documents).segments == (
        Segment(start=0, trunk=3),
        Segment(start=3, trunk=1),
        Segment(start=4, trunk=4),
        Segment(start=8, trunk=2),
    )
    layout = layout_of(documents, branches)
    assert layout.segments == (
        Segment(start=0, trunk=3),
        Segment(start=3, trunk=1),
        Segment(start=4, trunk=1, branches=(2, 1)),
        Segment(start=8, trunk=0, branches=(1, 1)),
    )
    assert (layout.length, layout.tokens, layout.branched) == (11, 10, True)
    assert not layout_of(documents).branched


def test_who_sees_whom():
    segment = Segment(start=5, trunk=2, branches=(2, 2))
    assert segment.positions().tolist() == [0, 1, 2, 3, 2, 3]
    assert segment.visible().int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert segment.visible(window=2).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize(
    ("documents", "branches"),
    [
        ([0, 1, 0], [0, 0, 0]),
        ([-1, 0, 1], [0, 0, 0]),
        ([0, -1, 1], [0, 0, 0]),
        ([0, 0, 0], [0, 1, 0]),
        ([0, 0, 0], [0, 2, 1]),
    ],
)
def test_what_lies_in_pieces_is_refused(documents: list[int], branches: list[int]):
    with pytest.raises(ValueError, match="documents must stand one behind the other"):
        layout_of(torch.tensor(documents), torch.tensor(branches))


def test_a_layout_from_where_documents_end():
    """As `cu_seqlens` of torch's and flash-attn's functions for rows of several lengths."""
    layout = layout_between(torch.tensor([0, 3, 3, 7], dtype=torch.int32), 9)
    assert layout == layout_of(torch.tensor([0, 0, 0, 1, 1, 1, 1, -1, -1]))
    assert layout.positions().tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 0]


@pytest.mark.parametrize("ends", [[], [1, 3], [0, 3, 2], [0, 5]])
def test_ends_that_cannot_be_are_refused(ends: list[int]):
    with pytest.raises(ValueError, match="documents of a row of 4 positions cannot end at"):
        layout_between(torch.tensor(ends, dtype=torch.long), 4)

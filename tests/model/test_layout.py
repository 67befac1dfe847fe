"""Layouts of packed rows, by hand."""

import pytest
import torch

from xgenmm.model.layout import Layout, Segment, layout_of


def test_documents_branches_and_padding():
    documents = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3, 3, -1])
    branches = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 1, 2, 0])
    assert layout_of(documents) == Layout(
        segments=(Segment(trunk=3), Segment(trunk=1), Segment(trunk=4), Segment(trunk=2)), padding=1
    )
    layout = layout_of(documents, branches)
    assert layout.segments == (
        Segment(trunk=3),
        Segment(trunk=1),
        Segment(trunk=1, branches=(2, 1)),
        Segment(trunk=0, branches=(1, 1)),
    )
    assert layout.length == 11


@pytest.mark.parametrize(
    ("documents", "branches"),
    [([0, 1, 0], [0, 0, 0]), ([0, -1, 1], [0, 0, 0]), ([0, 0, 0], [0, 1, 0]), ([0, 0, 0], [0, 2, 1])],
)
def test_what_lies_in_pieces_is_refused(documents: list[int], branches: list[int]):
    with pytest.raises(ValueError, match="documents must stand one behind the other"):
        layout_of(torch.tensor(documents), torch.tensor(branches))

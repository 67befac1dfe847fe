"""Vision tokens go to the placeholders, in order, and to no other place."""

import pytest
import torch
from jaxtyping import TypeCheckError

from xgenmm.model.splice import splice


def test_vision_tokens_in_order_row_after_row():
    text = torch.zeros(2, 4, 3)
    vision = torch.arange(1.0, 10.0).reshape(3, 3)
    placeholders = torch.tensor([[False, True, False, True], [True, False, False, False]])
    spliced = splice(text, vision, placeholders)
    assert torch.equal(spliced[0, 1], vision[0])
    assert torch.equal(spliced[0, 3], vision[1])
    assert torch.equal(spliced[1, 0], vision[2])
    assert spliced[~placeholders].abs().sum() == 0
    assert text.abs().sum() == 0  # the embeddings themselves are not written to


def test_gradients_reach_text_and_vision_where_each_is_seen():
    text, vision = torch.randn(1, 3, 2, requires_grad=True), torch.randn(1, 2, requires_grad=True)
    splice(text, vision, torch.tensor([[False, True, False]])).sum().backward()
    assert text.grad is not None
    assert text.grad.tolist() == [[[1, 1], [0, 0], [1, 1]]]
    assert vision.grad is not None
    assert vision.grad.tolist() == [[1, 1]]


@pytest.mark.parametrize("count", [1, 3])
def test_mismatch_names_both_counts(count):
    with pytest.raises(ValueError, match=f"2 image placeholders for {count} vision tokens"):
        splice(torch.zeros(1, 3, 2), torch.zeros(count, 2), torch.tensor([[True, True, False]]))


def test_shapes_are_checked_in_this_run():
    """By what `tests/conftest.py` installs."""
    with pytest.raises(TypeCheckError, match="placeholders"):
        splice(torch.zeros(2, 3, 4), torch.ones(3, 4), torch.ones(1, 3, dtype=torch.bool))

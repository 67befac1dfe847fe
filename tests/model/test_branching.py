"""Rows with branches: every token gets what it would get in a row of its own."""

import pytest
import torch
from torch import Tensor
from toy import IMAGE_TOKEN, LATENTS, TILE, make_toy_model

from xgenmm.model.branching import branch_mask, branch_positions
from xgenmm.processor.branching import branch
from xgenmm.processor.collate import collate
from xgenmm.types import IGNORE_INDEX, Example

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randn(1, 3, TILE, TILE, generator=GENERATOR)
LAYOUT = torch.tensor([[0, 0, 50, 40]])


def example(text: list[int], supervised_from: int, name: str = "row") -> Example:
    """Two words, a picture, then `text`; supervised are the words of `text` from `supervised_from` on."""
    ids = torch.tensor([3, 4] + [IMAGE_TOKEN] * LATENTS + text)
    labels = torch.full_like(ids, IGNORE_INDEX)
    first = 2 + LATENTS + supervised_from
    labels[first - 1 : -1] = ids[first:]
    return Example(id=name, input_ids=ids, labels=labels, pixel_values=PIXELS, image_layouts=LAYOUT)


def losses(model: torch.nn.Module, rows: list[Example]) -> tuple[Tensor, Tensor]:
    """The sorted log-probabilities of all targets, and the gradient of their sum with respect to the resampler."""
    batch = collate(rows, pad_id=0, pad_to_multiple=8)
    model.zero_grad()
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=batch.pixel_values,
        image_layouts=batch.image_layouts,
        targets=batch.labels,
        branches=batch.branches,
    )
    output.logps.sum().backward()
    return output.logps.detach().sort().values, model.vision_tokenizer.projection.weight.grad.clone()


@pytest.mark.parametrize("family", ["phi3", "llama"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_branched_row_equals_its_rows_apart(family: str, attention: str):
    model = make_toy_model(family)
    model.set_attn_implementation(attention)
    apart = [example([7, 8, 9], 1), example([7, 8, 20, 21, 22], 1), example([7, 30], 1)]
    other = example([11, 12, 13, 14], 2)
    joined = branch(apart, IMAGE_TOKEN)
    assert joined is not None
    # the trunk ends before 7, which predicts the first supervised word: each branch has a 7 of its own; the last word
    # of each predicts nothing and is left out
    assert joined.branches.tolist() == [0] * (2 + LATENTS) + [1] * 2 + [2] * 4 + [3] * 1
    together, gradient = losses(model, [joined, other])
    one_by_one, expected = losses(model, [*apart, other, other][:4])
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-5)
    # four rows apart encode the picture four times, two together twice: the sums are the same
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_branches_do_not_see_each_other():
    branches = torch.tensor([[0, 0, 1, 1, 2, 2, 0]])
    visible = branch_mask(branches, torch.tensor([[1, 1, 1, 1, 1, 1, 0]]), torch.float32)[0, 0] == 0
    assert visible.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 0, 1],
    ]


def test_positions_without_a_trunk_and_with_several_rows():
    branches = torch.tensor([[1, 1, 2, 2, 2], [0, 1, 2, 3, 0]])
    assert branch_positions(branches)[0].tolist() == [0, 1, 0, 1, 2]
    assert branch_positions(branches)[1, :4].tolist() == [0, 1, 1, 1]


def test_examples_of_different_pictures_are_not_joined():
    one = example([7], 0)
    other = Example(**{**vars(one), "pixel_values": PIXELS + 1})
    assert branch([one, other], IMAGE_TOKEN) is None


def test_words_supervised_right_behind_a_picture_are_not_joined():
    # the last vision token would have two targets, and a vision token cannot be repeated in a branch
    assert branch([example([7, 8], 0), example([9, 8], 0)], IMAGE_TOKEN) is None


def test_words_that_are_supervised_alike_stay_each_example_s_own():
    # both have the target 8 behind 7: shared, it would count once and not twice
    joined = branch([example([7, 8, 9], 1), example([7, 8, 10], 1)], IMAGE_TOKEN)
    assert joined is not None
    assert joined.labels[joined.branches > 0].tolist() == [8, 9, 8, 10]

"""Cross-entropy as transformers computes it, summed."""

import pytest
import torch
from toy import make_batch, make_examples, make_toy_model

from xgenmm.objectives import OBJECTIVES
from xgenmm.processor.packing import pack
from xgenmm.types import IGNORE_INDEX, Example

MIXED = [[(2, 2, 48, 64)], [], [(0, 0, 30, 30), (1, 2, 30, 40)]]


@pytest.mark.parametrize("family", ["phi3", "llama"])
def test_sum_of_cross_entropy_and_its_gradient(family):
    model, batch = make_toy_model(family), make_batch(MIXED)
    output = OBJECTIVES["next_token"]().build(model)(model, batch)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    logits = model(**batch.inputs()).logits
    expected = torch.nn.functional.cross_entropy(logits[0], batch.labels, ignore_index=IGNORE_INDEX, reduction="sum")
    expected.backward()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert output.count == int((batch.labels != IGNORE_INDEX).sum())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=1e-3, atol=1e-4)


def test_labels_are_aligned_and_not_shifted_again(toy_model):
    """transformers shifts the labels that it is given; ours are shifted already."""
    ids = torch.randint(0, 256, (2, 9))
    theirs = toy_model.language_model(input_ids=ids, labels=ids).loss
    aligned = torch.cat([ids[:, 1:], torch.full((2, 1), IGNORE_INDEX)], dim=1)
    images = {"pixel_values": torch.empty(0, 3, 28, 28), "image_layouts": torch.empty(0, 4, dtype=torch.long)}
    rows = zip(ids, aligned, strict=True)
    batch = pack([Example(id="", input_ids=row, labels=labels, **images) for row, labels in rows], pad_id=256)
    output = OBJECTIVES["next_token"]().build(toy_model)(toy_model, batch)
    assert output.count == 16
    assert output.loss.item() / 16 == pytest.approx(theirs.item(), rel=1e-5)


def test_documents_add_up(toy_model):
    examples = make_examples(MIXED)
    output = OBJECTIVES["next_token"]().build(toy_model)(toy_model, pack(examples, pad_id=256))
    assert output.document_losses.sum().item() == pytest.approx(output.loss.item(), rel=1e-5)
    assert output.document_counts.tolist() == [int((one.labels != IGNORE_INDEX).sum()) for one in examples]
    assert not output.document_losses.requires_grad

"""Weights in oneDNN's order: the numbers of torch's own products, whatever happens to the weights in between."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xgenmm.model import onednn
from xgenmm.model.onednn import use_ordered_weights

pytestmark = pytest.mark.skipif(not onednn._is_fast_here(), reason="oneDNN has no bfloat16 products on this processor")


def layer(inputs=64, outputs=40, bias=True, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias).bfloat16()


def written(module, inputs):
    with torch.inference_mode():
        return module(inputs)


def own(module, inputs):
    """What the layer gives by torch alone."""
    with torch.inference_mode():
        return F.linear(inputs, module.weight, module.bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 40), (96, 100), (384, 1152), (704, 256), (256, 8192)])
def test_the_same_bit_for_bit(inputs, outputs, bias):
    module = layer(inputs, outputs, bias)
    use_ordered_weights(module)
    for rows in [(1,), (8,), (2, 3), (1, 160), (500,)]:
        some = torch.randn(*rows, inputs).bfloat16()
        found = written(module, some)
        assert found.shape == (*rows, outputs)
        assert torch.equal(found, own(module, some))
    assert module in onednn._ordered


def test_a_weight_that_changes_is_read_again():
    module, some = layer(), torch.randn(3, 64).bfloat16()
    use_ordered_weights(module)
    before = written(module, some)

    def changed():
        nonlocal before
        found = written(module, some)
        assert torch.equal(found, own(module, some))
        assert not torch.equal(found, before)
        before = found

    module(some).sum().backward()
    torch.optim.AdamW(module.parameters(), lr=0.1).step()
    changed()
    module.load_state_dict(layer(seed=1).state_dict())
    changed()
    module.weight.data = layer(seed=2).weight.data
    changed()
    module.weight = layer(seed=3).weight
    changed()


def test_training_and_other_formats_do_without():
    module, some = layer(), torch.randn(3, 64)
    use_ordered_weights(module)
    found = module(some.bfloat16())
    assert found.requires_grad
    with torch.no_grad():
        assert torch.equal(found, module(some.bfloat16()))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert module(some).dtype == torch.bfloat16
    module.float()
    assert torch.equal(written(module, some), own(module, some))
    assert module not in onednn._ordered


def test_copies_of_a_model_have_their_own():
    module, some = nn.Sequential(layer()), torch.randn(3, 64).bfloat16()
    use_ordered_weights(module)
    before = written(module, some)
    other = copy.deepcopy(module)
    with torch.no_grad():
        other[0].weight.mul_(2)
    assert torch.equal(written(other, some), own(other[0], some))
    assert torch.equal(written(module, some), before)


def test_a_model_too_large_for_two_copies_is_left_alone(monkeypatch):
    module = layer(bias=False)
    monkeypatch.setattr(onednn, "_memory", lambda: 4 * 64 * 40 * 2 - 1)
    use_ordered_weights(module)
    assert "forward" not in vars(module)
    monkeypatch.setattr(onednn, "_memory", lambda: 4 * 64 * 40 * 2)
    use_ordered_weights(module)
    assert "forward" in vars(module)


def test_copies_go_with_their_layers():
    module = layer()
    use_ordered_weights(module)
    written(module, torch.randn(3, 64).bfloat16())
    copied = weakref.ref(onednn._ordered[module].weight)
    del module
    gc.collect()
    assert copied() is None

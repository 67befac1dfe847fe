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

needs_bfloat16 = pytest.mark.skipif(
    not onednn._has_bfloat16(), reason="oneDNN has no bfloat16 products on this processor"
)


@pytest.fixture(params=[pytest.param(torch.bfloat16, marks=needs_bfloat16), torch.float32], ids=str)
def dtype(request, monkeypatch):
    """Formats in which weights are brought in order, also the small ones of these tests."""
    monkeypatch.setattr(onednn, "LARGE", 1)
    return request.param


def layer(inputs=64, outputs=40, bias=True, seed=0, dtype=torch.bfloat16):
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias, dtype=dtype)


def written(module, inputs):
    with torch.inference_mode():
        return module(inputs)


def own(module, inputs):
    """What the layer gives by torch alone."""
    with torch.inference_mode():
        return F.linear(inputs, module.weight, module.bias)


@needs_bfloat16
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


@pytest.mark.parametrize("bias", [True, False])
def test_in_float32_the_same_but_for_rounding(bias):
    module = layer(256, 4000, bias).float()
    use_ordered_weights(module)
    with torch.inference_mode():
        for rows in [(2,), (8,), (2, 3), (1, 32)]:
            some = torch.randn(*rows, 256)
            exact = F.linear(
                some.double(), module.weight.double(), None if module.bias is None else module.bias.double()
            )
            found = module(some)
            assert found.shape == (*rows, 4000)
            # 256 products are added up, each rounded to 2^-24 = 6e-8
            assert (found - exact).norm() < 5e-7 * exact.norm()
    assert onednn._ordered[module].weight.is_mkldnn


def test_in_float32_small_weights_and_for_one_row_or_many_are_read_as_they_are():
    large, small = layer(256, 4000).float(), layer(256, 3900).float()
    use_ordered_weights(nn.ModuleList([large, small]))
    assert "forward" not in vars(small)
    for some in (torch.randn(256), torch.randn(1, 1, 256), torch.randn(3, 11, 256)):
        assert torch.equal(written(large, some), own(large, some))
    assert large not in onednn._ordered


def test_a_weight_that_changes_is_read_again(dtype):
    module, some = layer(dtype=dtype), torch.randn(3, 64, dtype=dtype)
    use_ordered_weights(module)
    before = written(module, some)

    def changed():
        nonlocal before
        found = written(module, some)
        torch.testing.assert_close(found, own(module, some))
        assert (found - before).abs().max() > 0.01
        before = found

    module(some).sum().backward()
    torch.optim.AdamW(module.parameters(), lr=0.1).step()
    changed()
    module.load_state_dict(layer(seed=1, dtype=dtype).state_dict())
    changed()
    module.weight.data = layer(seed=2, dtype=dtype).weight.data
    changed()
    module.weight = layer(seed=3, dtype=dtype).weight
    changed()


@needs_bfloat16
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


def test_copies_of_a_model_have_their_own(dtype):
    module, some = nn.Sequential(layer(dtype=dtype)), torch.randn(3, 64, dtype=dtype)
    use_ordered_weights(module)
    before = written(module, some)
    other = copy.deepcopy(module)
    with torch.no_grad():
        other[0].weight.mul_(2)
    torch.testing.assert_close(written(other, some), own(other[0], some))
    assert torch.equal(written(module, some), before)


def test_a_model_too_large_for_two_copies_is_left_alone(dtype, monkeypatch):
    module = layer(bias=False, dtype=dtype)
    wanted = 4 * 64 * 40 * dtype.itemsize  # a quarter is taken at most
    monkeypatch.setattr(onednn, "_memory", lambda: wanted - 1)
    use_ordered_weights(module)
    assert "forward" not in vars(module)
    monkeypatch.setattr(onednn, "_memory", lambda: wanted)
    use_ordered_weights(module)
    assert "forward" in vars(module)


def test_copies_go_with_their_layers(dtype):
    module = layer(dtype=dtype)
    use_ordered_weights(module)
    written(module, torch.randn(3, 64, dtype=dtype))
    copied = weakref.ref(onednn._ordered[module].weight)
    del module
    gc.collect()
    assert copied() is None

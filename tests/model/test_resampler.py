"""The resampler against a plain re-writing of spec 1.2, and what its mask means."""

import copy

import pytest
import torch
from torch import Tensor

from xgenmm.config import ConfigError, decode
from xgenmm.model.lora import LoraConfig, add_lora
from xgenmm.model.resampler import PerceiverResampler, ResamplerConfig

CONFIG = ResamplerConfig(latents=5, depth=3, heads=2, head_dim=6, ff_mult=4)
WIDTH, WIDTH_OUT = 10, 14


@pytest.fixture
def resampler() -> PerceiverResampler:
    torch.manual_seed(0)
    module = PerceiverResampler(CONFIG, WIDTH, WIDTH_OUT)
    for parameter in module.parameters():  # norms that do something, weights that matter
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * weight + bias


def by_the_spec(state: dict[str, Tensor], features: Tensor, mask: Tensor | None) -> Tensor:
    """Spec 1.2, steps 1 to 4, one tile, one head and one query at a time, on the released weights' names."""
    outputs = []
    for tile, x in enumerate(features):
        latents = state["latents"]
        for i in range(CONFIG.depth):
            a, f = f"layers.{i}.0.", f"layers.{i}.1."
            xm = layer_norm(x, state[a + "norm_media.weight"], state[a + "norm_media.bias"])
            lm = layer_norm(latents, state[a + "norm_latents.weight"], state[a + "norm_latents.bias"])
            inner = CONFIG.heads * CONFIG.head_dim
            q = lm @ state[a + "to_q.weight"].T
            kv = torch.cat([xm, lm]) @ state[a + "to_kv.weight"].T
            k, v = kv[:, :inner], kv[:, inner:]
            rows = []
            for query in q:
                heads = []
                for h in range(CONFIG.heads):
                    part = slice(h * CONFIG.head_dim, (h + 1) * CONFIG.head_dim)
                    scores = k[:, part] @ (query[part] * CONFIG.head_dim**-0.5)
                    if mask is not None:
                        scores[: len(x)][~mask[tile]] = float("-inf")
                    weights = (scores - scores.max()).exp()
                    heads.append(weights / weights.sum() @ v[:, part])
                rows.append(torch.cat(heads))
            latents = torch.stack(rows) @ state[a + "to_out.weight"].T + latents
            hidden = layer_norm(latents, state[f + "0.weight"], state[f + "0.bias"]) @ state[f + "1.weight"].T
            hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
            latents = hidden @ state[f + "3.weight"].T + latents
        normed = layer_norm(latents, state["norm.weight"], state["norm.bias"])
        outputs.append(normed @ state["projection.weight"].T + state["projection.bias"])
    return torch.stack(outputs)


@pytest.mark.parametrize("masked", [False, True])
def test_equal_to_the_spec_written_plainly(resampler, masked):
    features = torch.randn(4, 7, WIDTH, dtype=torch.float64)
    mask = torch.rand(4, 7) < 0.5 if masked else None
    expected = by_the_spec(resampler.state_dict(), features, mask)
    torch.testing.assert_close(resampler(features, mask), expected, rtol=0, atol=1e-6)


def test_gradients_are_those_of_the_spec_written_plainly(resampler):
    features = torch.randn(2, 7, WIDTH, dtype=torch.float64, requires_grad=True)
    leaves = [features, *resampler.parameters()]
    outputs = by_the_spec(dict(resampler.named_parameters()), features, None)
    weights = torch.randn_like(outputs)
    wanted = torch.autograd.grad((outputs * weights).sum(), leaves)
    found = torch.autograd.grad((resampler(features) * weights).sum(), leaves)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_adapters_read_the_same_features(resampler):
    adapted = copy.deepcopy(resampler).requires_grad_(False)
    add_lora(adapted, LoraConfig(rank=2))  # begins with nothing added
    features = torch.randn(2, 7, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(adapted(features), resampler(features), rtol=0, atol=1e-12)


def test_parameter_names_are_the_released_weights():
    names = {f"layers.0.0.{n}" for n in ("to_q.weight", "to_kv.weight", "to_out.weight")}
    names |= {f"layers.0.0.{norm}.{n}" for norm in ("norm_media", "norm_latents") for n in ("weight", "bias")}
    names |= {f"layers.0.1.{n}" for n in ("0.weight", "0.bias", "1.weight", "3.weight")}
    names |= {"latents", "norm.weight", "norm.bias", "projection.weight", "projection.bias"}
    resampler = PerceiverResampler(ResamplerConfig(latents=5, depth=1, heads=2, head_dim=6), WIDTH, WIDTH_OUT)
    assert set(resampler.state_dict()) == names


def test_masked_patches_might_as_well_be_absent(resampler):
    features = torch.randn(1, 7, WIDTH, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True, False, False, True]])
    torch.testing.assert_close(resampler(features, mask), resampler(features[:, mask[0]]), rtol=0, atol=1e-12)


def test_a_tile_of_padding_is_a_number(resampler):
    features = torch.randn(1, 7, WIDTH, dtype=torch.float64)
    assert resampler(features, torch.zeros(1, 7, dtype=torch.bool)).isfinite().all()


def test_tiles_do_not_see_each_other(resampler):
    features = torch.randn(3, 7, WIDTH, dtype=torch.float64)
    alone = torch.cat([resampler(features[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(resampler(features), alone, rtol=0, atol=1e-12)


def test_matched_scale():
    torch.manual_seed(0)
    resampler = PerceiverResampler(ResamplerConfig(latents=64, depth=1, heads=2, head_dim=8), 128, 256)
    resampler.match_scale(0.1356)  # SmolLM2's
    assert resampler(torch.randn(16, 9, 128)).std().item() == pytest.approx(0.1356, rel=0.05)


@pytest.mark.parametrize("name", ["latents", "depth", "heads", "head_dim", "ff_mult"])
def test_sizes_of_no_resampler_are_refused(name):
    for number in (0, -1):
        with pytest.raises(ConfigError, match=rf"resampler.{name}: must be at least 1.* but is {number}"):
            decode(ResamplerConfig, {name: number}, "resampler")

"""Every vision encoder of the registry at toy size: its features are those that transformers computes, patches only."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    PretrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    ViTConfig,
)

from xgenmm.model import vision
from xgenmm.model.efficientnet import EfficientNetLiteConfig
from xgenmm.model.products import small_attention
from xgenmm.model.vision import VISION_ENCODERS, encode, encoder_entry, patches_per_side

VIT = {"image_size": 42, "patch_size": 14, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS: dict[str, PretrainedConfig] = {
    "siglip": SiglipVisionConfig(**VIT, intermediate_size=40),
    "clip": CLIPVisionConfig(**VIT, intermediate_size=40),
    "dinov2": Dinov2Config(**VIT),
    "dinov2_with_registers": Dinov2WithRegistersConfig(**VIT, num_register_tokens=4),
    "efficientnet_lite": EfficientNetLiteConfig(image_size=96),
}


def build(name: str) -> tuple[PreTrainedModel, Tensor]:
    torch.manual_seed(0)
    config = CONFIGS[name]
    return AutoModel.from_config(config).eval(), torch.randn(3, 3, config.image_size, config.image_size)


def test_a_toy_configuration_for_every_encoder():
    assert CONFIGS.keys() == VISION_ENCODERS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_patches_only_and_no_graph_when_frozen(name):
    encoder, tiles = build(name)
    encoder.requires_grad_(False)
    features = encode(encoder, tiles.requires_grad_())
    assert features.shape == (3, 9, encoder.config.hidden_size)  # 42 / 14 = 96 / 32 = 3 patches along a side
    assert patches_per_side(encoder.config) == 3
    assert not features.requires_grad


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_all_that_the_features_use(name):
    encoder, tiles = build(name)
    encode(encoder, tiles).square().sum().backward()
    unused = VISION_ENCODERS[name].unused
    without = {n for n, p in encoder.named_parameters() if p.grad is None and not n.startswith(unused or "-")}
    # The mask token is for DINOv2's own pre-training.
    assert without <= {"embeddings.mask_token"}


def test_features_are_transformers_own():
    encoder, tiles = build("siglip")
    wanted = encoder(pixel_values=tiles).last_hidden_state
    assert torch.equal(encode(encoder, tiles), wanted)
    encoder, tiles = build("clip")
    # transformers applies the last norm to the class token only: what it gives for that one must be what the same
    # norm gives where we apply it, and the class token itself is not among the features.
    output = encoder(pixel_values=tiles)
    assert torch.equal(encoder.post_layernorm(output.last_hidden_state)[:, 0], output.pooler_output)
    assert torch.equal(encode(encoder, tiles), encoder.post_layernorm(output.last_hidden_state)[:, 1:])
    encoder, tiles = build("dinov2_with_registers")
    wanted = encoder(pixel_values=tiles).last_hidden_state[:, 5:]
    assert torch.equal(encode(encoder, tiles), wanted)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["siglip", "clip", "dinov2", "dinov2_with_registers"])
def test_in_bfloat16_attention_is_as_exact_as_torch_s_own(name: str, autocast: bool, monkeypatch):
    """How far features and gradients are from those of float64, by our attention and by torch's."""
    calls, errors = [], {}
    wanted = features_and_gradients(name, torch.float64, autocast=False)

    def counted(*inputs: Tensor, **options: Any) -> Tensor:
        calls.append(options)
        return small_attention(*inputs, **options)

    for kind, attention in (("ours", counted), ("torch's", F.scaled_dot_product_attention)):
        monkeypatch.setattr(vision, "small_attention", attention)
        found = features_and_gradients(name, torch.float32 if autocast else torch.bfloat16, autocast=autocast)
        errors[kind] = torch.stack([(a - b).norm() / b.norm() for a, b in zip(found, wanted, strict=True)])
    assert len(calls) == 2  # layers
    assert errors["torch's"].max() > 1e-3  # it is rounded
    assert (errors["ours"] < 1.5 * errors["torch's"]).all()


def features_and_gradients(name: str, dtype: torch.dtype, *, autocast: bool) -> list[Tensor]:
    """Features, the gradient of the tiles, and that of all weights as one vector."""
    encoder, tiles = build(name)
    tiles = tiles.to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        features = encode(encoder.to(dtype), tiles)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).to(features.dtype)
    of_tiles, *of_weights = torch.autograd.grad(features, [tiles, *encoder.encoder.parameters()], weights)
    return [features.detach().double(), of_tiles.double(), torch.cat([x.double().flatten() for x in of_weights])]


def test_siglip_s_patches_lie_one_behind_the_other():
    encoder, tiles = build("siglip")
    lying = []
    for layer in encoder.encoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: lying.append(inputs[0].is_contiguous()))
    encode(encoder, tiles)
    assert lying == [True, True]


@pytest.mark.parametrize("name", CONFIGS)
def test_patches_stand_row_by_row(name):
    """Changing the picture's last patch changes the last feature more than that of the patch above it on the left."""
    encoder, tiles = build(name)
    if name == "efficientnet_lite":  # its own test looks at colours, the receptive field covers the picture
        return
    with torch.no_grad():
        for layer in encoder.encoder.layer if name.startswith("dinov2") else encoder.encoder.layers:
            for parameter in layer.parameters():  # only the residual path is left: a patch knows itself alone
                parameter.zero_()
    changed = tiles.clone()
    changed[:, :, 14:28, 28:] += 1  # second row, third column
    moved = (encode(encoder, changed) - encode(encoder, tiles)).abs().amax(dim=(0, 2))
    assert moved.nonzero().flatten().tolist() == [5]


def test_chunks_do_not_change_features(monkeypatch):
    encoder, tiles = build("siglip")
    whole, calls = encode(encoder, tiles), []
    monkeypatch.setattr(vision, "TILES_PER_CALL_ON_A_CPU", 2)
    encoder.register_forward_pre_hook(lambda *_, **__: calls.append(1))
    encoder.requires_grad_(False)
    torch.testing.assert_close(encode(encoder, tiles), whole, rtol=0, atol=1e-6)
    assert len(calls) == (len(tiles) + 1) // 2


def test_unknown_encoder_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'vit'; there are siglip \(siglip_vision_model\), clip"):
        encoder_entry(ViTConfig())

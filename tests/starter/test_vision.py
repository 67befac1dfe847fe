"""The starter's vision encoder: folded batch norms, padding, the grid of features and colours."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xgenmm.model.efficientnet import (
    STAGES,
    ConvAct,
    EfficientNetLiteConfig,
    EfficientNetLiteGrid,
    colour_statistics,
)
from xgenmm.starter.vision import fold


def published_names() -> dict[str, torch.Size]:
    """Shapes of the convolutions of the published file, by its names (`_blocks.0._depthwise_conv` ...)."""
    model = EfficientNetLiteGrid(EfficientNetLiteConfig())
    shapes = {"_conv_stem": model.stem.weight.shape, "_conv_head": model.head.weight.shape}
    for number, block in enumerate(model.blocks):
        if isinstance(block.expand, ConvAct):
            shapes[f"_blocks.{number}._expand_conv"] = block.expand.weight.shape
        shapes[f"_blocks.{number}._depthwise_conv"] = block.depthwise.weight.shape
        shapes[f"_blocks.{number}._project_conv"] = block.project.weight.shape
    return shapes


NORMS = {"_conv_stem": "_bn0", "_conv_head": "_bn1", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1"}


def norm_of(conv: str) -> str:
    stem, _, last = conv.rpartition(".")
    norm = "_bn2" if last == "_project_conv" else NORMS[last]
    return f"{stem}.{norm}" if stem else norm


def test_folding_equals_convolution_then_batch_norm():
    generator = torch.Generator().manual_seed(0)
    published = {}
    for conv, shape in published_names().items():
        published[f"{conv}.weight"] = torch.randn(shape, generator=generator)
        for part in ("weight", "bias", "running_mean", "running_var"):
            published[f"{norm_of(conv)}.{part}"] = torch.rand(shape[0], generator=generator) + 0.5
    model = EfficientNetLiteGrid(EfficientNetLiteConfig())
    missing, unexpected = model.load_state_dict(fold(published), strict=False)
    assert (missing, unexpected) == (["mean", "deviation", "text.weight", "text.bias"], [])  # `align` sets these

    norm = nn.BatchNorm2d(32, eps=1e-3).eval()
    norm.load_state_dict(
        {k: published[f"_bn0.{k}"] for k in ("weight", "bias", "running_mean", "running_var")}, strict=False
    )
    pixels = torch.randn(1, 3, 16, 16, generator=generator)
    # 16 px, kernel 3, stride 2: TensorFlow pads 0 before and 1 after
    expected = F.relu6(norm(F.conv2d(F.pad(pixels, (0, 1, 0, 1)), published["_conv_stem.weight"], stride=2)))
    torch.testing.assert_close(model.stem(pixels), expected, rtol=1e-4, atol=1e-4)


def test_the_grid_has_one_vector_a_cell_row_by_row():
    model = EfficientNetLiteGrid(EfficientNetLiteConfig(image_size=64)).eval()
    pixels = torch.zeros(1, 3, 64, 64)
    pixels[:, 0, 0:32, 32:64] = 1.0  # the upper right cell is red
    with torch.no_grad():
        features = model(pixels)
    assert features.shape == (1, 4, 1280 + 112 + 24 + 64)
    assert torch.equal(features[..., -64:], torch.zeros(1, 4, 64))  # not aligned with any captions yet
    red_mean = features[0, :, 1280 + 112 : 1280 + 112 + 4]
    assert torch.equal(red_mean, torch.tensor([[0.0] * 4, [1.0] * 4, [0.0] * 4, [0.0] * 4]))


def test_colour_statistics_by_hand():
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[0, 2, :16, :16] = torch.tensor([1.0, -1.0]).repeat(8)  # blue stripes: mean 0, deviation 1
    statistics = colour_statistics(pixels)[0, :, 0, 0]
    expected = torch.zeros(24)
    expected[12 + 2 * 4 + 0] = 1.0
    torch.testing.assert_close(statistics, expected)


def test_sizes():
    model = EfficientNetLiteGrid(EfficientNetLiteConfig())
    # 4.65 M published parameters less the 1,281,000 of the classifier and the batch norms that are folded away
    assert sum(stage.repeats for stage in STAGES) == len(model.blocks) == 16
    with pytest.raises(ValueError, match="multiple of 32 pixels, not 225"):
        EfficientNetLiteConfig(image_size=225)

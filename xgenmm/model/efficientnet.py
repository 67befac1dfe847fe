"""EfficientNet-Lite0 as a vision encoder, the starter's: a grid of features, the colours beneath, and what words fit.

Source of the architecture: Tan and Le, arXiv 1905.11946, in its "Lite" form (no squeeze-and-excitation, ReLU6, fixed
stem and head). Batch norms are folded into the convolutions when the weights are converted (`starter.vision`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Stage:
    """Some inverted-residual blocks of one width; only the first of them strides."""

    expand: int
    width: int
    repeats: int
    kernel: int
    stride: int


STAGES = (
    Stage(1, 16, 1, 3, 1),
    Stage(6, 24, 2, 3, 2),
    Stage(6, 40, 2, 5, 2),
    Stage(6, 80, 3, 3, 2),
    Stage(6, 112, 3, 5, 1),
    Stage(6, 192, 4, 5, 2),
    Stage(6, 320, 1, 3, 1),
)
STEM_WIDTH, HEAD_WIDTH = 32, 1280
MIDDLE_STAGE = 4
"""The last stage at stride 16: its map is pooled and put beside the head's, for shapes that the head throws away."""
CELL = 32
"""Pixels that one cell of the grid covers, in each direction."""
COLOUR_WIDTH = 24
"""Mean and standard deviation of red, green and blue in the four quarters of a cell."""
GRID_WIDTH = HEAD_WIDTH + STAGES[MIDDLE_STAGE].width + COLOUR_WIDTH
OUTLIER = 6.0
"""Standardised features are cut off at so many standard deviations."""
TEXT_SCALE, TEXT_OUTLIER = 2.0, 4.0
"""Text features are clipped likewise, then made twice as large as the grid's, since they are few."""


class EfficientNetLiteConfig(PretrainedConfig):
    """Configuration of the encoder; `image_size` in pixels must be a multiple of 32."""

    model_type = "efficientnet_lite_grid"

    def __init__(self, image_size: int = 224, text_width: int = 64, **kwargs: Any) -> None:
        if image_size % CELL:
            raise ValueError(f"image_size must be a multiple of {CELL} pixels, not {image_size}")
        self.image_size = image_size
        self.patch_size = CELL
        self.text_width = text_width
        self.hidden_size = GRID_WIDTH + text_width
        super().__init__(**kwargs)


class ConvAct(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding (the odd pixel goes right and down), then ReLU6 or nothing."""

    def __init__(self, width_in: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__(width_in, width, kernel, stride=stride, groups=groups)
        self.act = act

    def forward(self, input: Float[Tensor, "B c_in h w"]) -> Float[Tensor, "B c_out h2 w2"]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel == 1:  # a matrix product, if a pixel's channels lie together; torch's CPU convolution is slower
            out = F.linear(rearrange(input, "b c h w -> b h w c"), self.weight.flatten(1), self.bias)
            out = rearrange(out, "b h w c -> b c h w")
        else:
            height, width = input.shape[-2:]
            rows = max((-(-height // stride) - 1) * stride + kernel - height, 0)
            cols = max((-(-width // stride) - 1) * stride + kernel - width, 0)
            out = super().forward(F.pad(input, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2)))
        return F.relu6(out, inplace=True) if self.act else out


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; add the input where the shapes agree."""

    def __init__(self, width_in: int, stage: Stage, stride: int):
        super().__init__()
        middle = width_in * stage.expand
        self.expand = ConvAct(width_in, middle, 1) if stage.expand > 1 else nn.Identity()
        self.depthwise = ConvAct(middle, middle, stage.kernel, stride=stride, groups=middle)
        self.project = ConvAct(middle, stage.width, 1, act=False)
        self.residual = stride == 1 and width_in == stage.width

    def forward(self, x: Float[Tensor, "B c_in h w"]) -> Float[Tensor, "B c_out h2 w2"]:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLiteGrid(PreTrainedModel):
    """Pixels -> one feature vector per 32x32 cell: head map, pooled stride-16 map, colour statistics, text features.

    The colour statistics are no learnt features. They are there because ImageNet training teaches an encoder to ignore
    colour, which a caption of a drawing needs. The text features are one linear map of the picture's mean features, the
    same in every cell: SigLIP has learnt from captions and this encoder has not, so `starter.vision.align` fits them to
    the training captions in closed form. Until it has, they are zero.
    """

    config_class = EfficientNetLiteConfig
    main_input_name = "pixel_values"
    _no_split_modules = ["InvertedResidual"]  # noqa: RUF012  (transformers declares it so)

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__(config)
        self.stem = ConvAct(3, STEM_WIDTH, 3, stride=2)
        blocks: list[InvertedResidual] = []
        width = STEM_WIDTH
        for number, stage in enumerate(STAGES):
            for number_in_stage in range(stage.repeats):
                blocks.append(InvertedResidual(width, stage, stage.stride if number_in_stage == 0 else 1))
                width = stage.width
            if number == MIDDLE_STAGE:
                self.middle = len(blocks) - 1
        self.blocks = nn.ModuleList(blocks)
        self.head = ConvAct(width, HEAD_WIDTH, 1)
        self.mean = nn.Parameter(torch.zeros(GRID_WIDTH))
        self.deviation = nn.Parameter(torch.ones(GRID_WIDTH))
        self.text = nn.Linear(GRID_WIDTH, config.text_width)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ConvAct):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T P D"]:
        """Features of a batch of tiles, cells row by row. Pixels are scaled as (byte - 127) / 128."""
        grid = self.standardise(self.grid(pixel_values))
        text = self.text(grid.mean(dim=1)).clamp(-TEXT_OUTLIER, TEXT_OUTLIER) * TEXT_SCALE
        return torch.cat([grid, repeat(text, "t d -> t p d", p=grid.shape[1])], dim=-1)

    def standardise(self, grid: Float[Tensor, "T P grid"]) -> Float[Tensor, "T P grid"]:
        """Every feature with mean 0 and deviation 1 over the training pictures, without outliers."""
        return ((grid - self.mean) / self.deviation).clamp(-OUTLIER, OUTLIER)

    def grid(self, pixel_values: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T P grid"]:
        """Head map, middle map and colours of every cell, as they come."""
        x = self.stem(pixel_values.contiguous(memory_format=torch.channels_last))
        middle = x
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number == self.middle:
                middle = F.avg_pool2d(x, 2)
        maps = torch.cat([self.head(x), middle, colour_statistics(pixel_values)], dim=1)
        return rearrange(maps, "t d rows cols -> t (rows cols) d")


def colour_statistics(pixels: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T 24 rows cols"]:
    """Mean and standard deviation of each channel in the four quarters of every cell."""
    mean = F.avg_pool2d(pixels, CELL // 2)
    deviation = (F.avg_pool2d(pixels.square(), CELL // 2) - mean.square()).clamp_min(0).sqrt()
    quarters = "t c (rows r) (cols k) -> t (c r k) rows cols"
    return torch.cat([rearrange(part, quarters, r=2, k=2) for part in (mean, deviation)], dim=1)

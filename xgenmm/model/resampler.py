"""The Perceiver resampler: the features of one tile in, a fixed number of vision tokens out. Knows nothing of grids or
text.

Source: Flamingo (arXiv 2204.14198, section 3.1.1 and appendix A.1.1) as xGen-MM uses it: no positional, frame or media
embeddings, and a biased projection to the language model's width at the end. Parameter names are those of the released
weights.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from xgenmm.config import Count, SmallCount
from xgenmm.model.lean import gelu_linear
from xgenmm.model.products import small_attention


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig:
    """Size of the resampler; the defaults are xGen-MM v1.5's."""

    latents: Count = 128
    """Vision tokens that a tile becomes."""
    depth: SmallCount = 6
    heads: Count = 16
    head_dim: Count = 96
    ff_mult: Count = 4
    """Width of the feed-forward layers, in widths of the vision encoder."""


class PerceiverAttention(nn.Module):
    """Latents look at the tile's features and at themselves."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, width, bias=False)

    def forward(
        self,
        media: Float[Tensor, "T P D"],
        latents: Float[Tensor, "T K D"],
        attend: Bool[Tensor, "T 1 1 P+K"] | None,
    ) -> Float[Tensor, "T K D"]:
        """What attention adds to the latents. `attend` is False at keys that nobody may look at."""
        latents = self.norm_latents(latents)
        query = self.to_q(latents)
        key, value = self.to_kv(torch.cat([self.norm_media(media), latents], dim=1)).chunk(2, dim=-1)
        query, key, value = (rearrange(x, "t n (h d) -> t h n d", h=self.heads) for x in (query, key, value))
        mixed = small_attention(query, key, value, attend)
        return self.to_out(rearrange(mixed, "t h n d -> t n (h d)"))


class PerceiverLayer(nn.ModuleList):
    """Attention and feed-forward, each added to the latents; a list, as the released weights call them 0 and 1."""

    def __init__(self, config: ResamplerConfig, width: int) -> None:
        attention = PerceiverAttention(width, config.heads, config.head_dim)
        super().__init__([attention, FeedForward(width, config.ff_mult)])

    def forward(
        self,
        media: Float[Tensor, "T P D"],
        latents: Float[Tensor, "T K D"],
        attend: Bool[Tensor, "T 1 1 P+K"] | None,
    ) -> Float[Tensor, "T K D"]:
        """The latents after this layer."""
        latents = latents + self[0](media, latents, attend)
        return latents + self[1](latents)


class FeedForward(nn.Sequential):
    """Norm, widen, exact GELU, narrow; no biases in the linear layers. Numbered, as in the released weights."""

    def __init__(self, width: int, mult: int) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, mult * width, bias=False),
            nn.GELU(),
            nn.Linear(mult * width, width, bias=False),
        )

    def forward(self, input: Float[Tensor, "T K D"]) -> Float[Tensor, "T K D"]:
        """What is added to the latents."""
        norm, widen, _, narrow = self
        return gelu_linear(widen(norm(input)), narrow)


class PerceiverResampler(nn.Module):
    """Learned latents that read a tile's features, layer by layer; the features themselves are never updated."""

    def __init__(self, config: ResamplerConfig, width: int, width_out: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(config.latents, width))
        self.layers = nn.ModuleList(PerceiverLayer(config, width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, width_out)

    def forward(
        self, features: Float[Tensor, "T P D"], mask: Bool[Tensor, "T P"] | None = None
    ) -> Float[Tensor, "T K D_out"]:
        """Vision tokens of each tile, tile by tile.

        Args:
            features: What the vision encoder says of the patches of each tile.
            mask: False at patches that are padding. Latents may always look at latents, so a tile of padding alone is
                no NaN.
        """
        media = features.to(self.latents.dtype)
        latents = repeat(self.latents, "k d -> t k d", t=len(media))
        attend = None
        if mask is not None:
            attend = rearrange(F.pad(mask, (0, latents.shape[1]), value=True), "t n -> t 1 1 n")
        for layer in self.layers:
            latents = layer(media, latents, attend)
        return self.projection(self.norm(latents))

    @torch.no_grad()
    def match_scale(self, std: float) -> None:
        """Draw the projection anew so that vision tokens start with the standard deviation of the text embeddings.

        Our choice: what the language model reads is then of the size that it knows from its first step on. (A layer
        norm has just made every coordinate of variance 1, so a sum of D of them, weighted with variance std²/D, has
        std².)
        """
        nn.init.normal_(self.projection.weight, std=std / self.projection.in_features**0.5)
        nn.init.zeros_(self.projection.bias)

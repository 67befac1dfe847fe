"""Sizes of a model's parts, and the parameters that follow from them. Knows no architecture by name and no torch."""

from dataclasses import dataclass

Amount = int | float
"""A count, or the mean of one."""


@dataclass(frozen=True)
class Linear:
    """A matrix product that a token (or a patch) passes through in every block."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        """Numbers in the matrix: half the operations of one position."""
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Matrix and bias."""
        return self.weights + self.outputs * self.bias

    def lora_parameters(self, rank: int) -> int:
        """Of an adapter of this rank."""
        return rank * (self.inputs + self.outputs)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A stack of equal transformer blocks."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    linears: tuple[Linear, ...]
    """In the order of the forward pass: the first ones make queries, keys and values, the last one ends the block."""
    others: int
    """Parameters of a block beside its linear layers: norms, scales."""
    norms: int
    """Norms of the block's width in each block."""
    head_norms: bool = False
    """Queries and keys are normed, too."""
    centred: bool = False
    """Norms are layer norms, which subtract the mean."""
    gated: bool
    """The feed-forward layer multiplies two halves."""

    @property
    def weights(self) -> int:
        """Numbers in the matrices of one block."""
        return sum(linear.weights for linear in self.linears)

    @property
    def block_parameters(self) -> int:
        """Of one block."""
        return sum(linear.parameters for linear in self.linears) + self.others

    @property
    def parameters(self) -> int:
        """Of all blocks."""
        return self.layers * self.block_parameters

    @property
    def attention_width(self) -> int:
        """Of the queries of all heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Of the keys of all heads together."""
        return self.kv_heads * self.head_dim

    @property
    def first(self) -> tuple[Linear, ...]:
        """What reads the block's input: the projections to queries, keys and values."""
        reads = self.attention_width + 2 * self.kv_width
        taken, outputs = [], 0
        for linear in self.linears:
            if outputs == reads:
                break
            taken.append(linear)
            outputs += linear.outputs
        return tuple(taken)

    def lora_parameters(self, rank: int) -> int:
        """Adapters of this rank on every linear layer of every block."""
        return self.layers * sum(linear.lora_parameters(rank) for linear in self.linears)

    @property
    def ffn(self) -> int:
        """Width inside the feed-forward layer."""
        return self.linears[-1].inputs


@dataclass(frozen=True, kw_only=True)
class LanguageShape:
    """A causal language model."""

    blocks: Blocks
    vocabulary: int
    """Rows of the embedding table."""
    tied: bool
    """The head is the embedding table."""
    others: int
    """Parameters outside blocks and tables: the last norm, learnt positions, a bias of the head."""

    @property
    def table(self) -> int:
        """Parameters of the embedding table."""
        return self.vocabulary * self.blocks.width

    @property
    def parameters(self) -> int:
        """All of it; a tied table counts once."""
        return self.blocks.parameters + self.table * (1 if self.tied else 2) + self.others

    def lora_parameters(self, rank: int) -> int:
        """Adapters of this rank on every linear layer but the head."""
        return self.blocks.lora_parameters(rank)


@dataclass(frozen=True, kw_only=True)
class VisionShape:
    """A vision encoder: of patches and blocks, or of convolutions (then `blocks` is None)."""

    tile: int
    """Side of a tile in pixels."""
    patches: int
    """Feature vectors that a tile gives."""
    width: int
    parameters: int
    unused: int = 0
    """Parameters that come with the weights and give no features: a pooling head."""
    blocks: Blocks | None = None
    tokens: int = 0
    """Positions that the blocks see: patches, class token, registers."""
    stem_macs: int = 0
    """Multiplications per tile outside the blocks: the patch embedding, or all convolutions."""
    stem_first: int = 0
    """Those of them whose input is pixels, which need no gradient."""
    pooled: tuple[Linear, ...] = ()
    """Linear layers outside the blocks, which see each tile once; counted in `stem_macs`."""

    def lora_parameters(self, rank: int) -> int:
        """Adapters of this rank on every linear layer."""
        in_blocks = self.blocks.lora_parameters(rank) if self.blocks is not None else 0
        return in_blocks + sum(linear.lora_parameters(rank) for linear in self.pooled)


@dataclass(frozen=True, kw_only=True)
class ResamplerShape:
    """The Perceiver resampler between two widths."""

    latents: int
    depth: int
    heads: int
    head_dim: int
    ff_mult: int
    width: int
    width_out: int

    @property
    def inner(self) -> int:
        """Width of the heads together."""
        return self.heads * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Of one layer: queries, keys with values, output, widening, narrowing."""
        wide = self.ff_mult * self.width
        return (
            Linear("q", self.width, self.inner),
            Linear("kv", self.width, 2 * self.inner),
            Linear("out", self.inner, self.width),
            Linear("up", self.width, wide),
            Linear("down", wide, self.width),
        )

    @property
    def projection(self) -> Linear:
        """To the language model's width."""
        return Linear("projection", self.width, self.width_out, bias=True)

    @property
    def layer_parameters(self) -> int:
        """Of one layer: its matrices and three norms."""
        return sum(linear.parameters for linear in self.linears) + 6 * self.width

    @property
    def parameters(self) -> int:
        """All of it: layers, latents, the last norm, the projection."""
        return self.depth * self.layer_parameters + (self.latents + 2) * self.width + self.projection.parameters

    def lora_parameters(self, rank: int) -> int:
        """Adapters of this rank on every linear layer."""
        layer = sum(linear.lora_parameters(rank) for linear in self.linears)
        return self.depth * layer + self.projection.lora_parameters(rank)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The three parts."""

    vision: VisionShape
    resampler: ResamplerShape
    language: LanguageShape

    @property
    def parameters(self) -> dict[str, int]:
        """By part, under the recipes' names."""
        return {
            "vision": self.vision.parameters,
            "resampler": self.resampler.parameters,
            "language": self.language.parameters,
        }

"""Floating-point operations of a training step, by part. A multiplication with its addition counts as two.

Attention counts what is useful: pairs of positions that see each other, so half of a causal square. What a kernel does
beyond that (masked blocks, scores computed again in the backward pass) is its own affair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from xgenmm.costs.shapes import Amount, Blocks, LanguageShape, Linear, ModelShape, ResamplerShape, VisionShape
from xgenmm.costs.sharding import Recompute


@dataclass(frozen=True, kw_only=True)
class Work:
    """What goes through the model: of one forward pass, a step, or a whole run."""

    tiles: Amount
    tokens: Amount
    """Positions of the language model, vision tokens included."""
    pairs: Amount
    """Pairs of positions that attention joins: S (S + 1) / 2 for a document of S tokens."""
    targets: Amount
    """Positions with logits."""

    def times(self, factor: Amount) -> "Work":
        """So often, or a share of it."""
        return Work(**{name: value * factor for name, value in vars(self).items()})

    def __add__(self, other: "Work") -> "Work":
        return Work(**{name: value + vars(other)[name] for name, value in vars(self).items()})


def causal_pairs(lengths: Sequence[int]) -> int:
    """Pairs of positions in documents of these lengths, each by itself.

    >>> causal_pairs([3, 1])
    7
    """
    return sum(length * (length + 1) // 2 for length in lengths)


Mode = bool | Literal["lora"]
"""All of a part trains, nothing of it, or LoRA adapters on its linear layers."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What of the model learns, and how the backward pass is made."""

    vision: Mode = False
    resampler: Mode = True
    language: Mode = True
    rank: int = 0
    """Of LoRA."""
    recompute: Mapping[str, Recompute] = field(default_factory=dict)
    """By part; see `ParallelConfig`."""
    by_position: bool = False
    """The loss asks for every target's log-probability and not for their sum: the head then makes its logits twice."""
    fused: bool = False
    """A feed-forward layer's last matrix is one operation with what is before it, as on a CPU (`model.lean`): who
    computes the layer again computes that matrix, too."""

    def again(self, part: str) -> bool:
        """Whether a part's matrix products are made twice."""
        return self.recompute.get(part) == "full"

    @property
    def embeddings_learn(self) -> bool:
        """Whether gradients go on below the language model."""
        return bool(self.vision or self.resampler) or self.language is True

    @property
    def anything(self) -> bool:
        """Whether gradients go through the language model at all."""
        return self.embeddings_learn or self.language == "lora"


@dataclass(frozen=True)
class Passes:
    """Operations of a part in the forward pass, in the backward pass, and what is computed again in the latter."""

    forward: Amount = 0
    backward: Amount = 0
    again: Amount = 0

    @property
    def useful(self) -> Amount:
        """What the step is about: without what is computed twice."""
        return self.forward + self.backward

    @property
    def total(self) -> Amount:
        """What the machine does."""
        return self.useful + self.again

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(self.forward + other.forward, self.backward + other.backward, self.again + other.again)

    def __mul__(self, times: Amount) -> "Passes":
        return Passes(self.forward * times, self.backward * times, self.again * times)


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations by part."""

    parts: dict[str, Passes]
    """`vision`, `resampler`, `linear` (the language model's matrices), `attention` (its), `head`, and `lora` (all
    adapters).
    """

    @property
    def sum(self) -> Passes:
        """All parts together."""
        return sum(self.parts.values(), start=Passes())


def step_flops(shape: ModelShape, work: Work, trained: Trained) -> Flops:
    """Operations of a training step that moves `work` through a model."""
    blocks = shape.language.blocks
    vision, vision_lora = _vision(shape.vision, trained)
    resampler, resampler_lora = _resampler(shape.resampler, shape.vision.patches, trained)
    linear, linear_lora = _linear(blocks, trained)
    parts = {
        "vision": vision * work.tiles,
        "resampler": resampler * work.tiles,
        "linear": linear * work.tokens,
        "attention": _mixing(blocks, trained) * work.pairs,
        "head": _head(shape.language, trained) * work.targets,
        "lora": (vision_lora + resampler_lora) * work.tiles + linear_lora * work.tokens,
    }
    return Flops(parts={name: passes for name, passes in parts.items() if passes.total})


def _vision(shape: VisionShape, trained: Trained) -> tuple[Passes, Passes]:
    """Of one tile: the encoder's own operations, and those of its adapters."""
    mode, again = trained.vision, trained.again("vision")
    stem = 2 * shape.stem_macs
    own, lora = Passes(stem, 2 * stem - 2 * shape.stem_first if mode is True else 0), Passes()
    if mode == "lora":
        lora = sum((_matrix(linear, mode, trained.rank, below=False)[1] for linear in shape.pooled), start=lora)
    if (blocks := shape.blocks) is not None:
        learns = bool(mode)
        matrices, adapters = _stack(blocks, mode, trained.rank, learns=learns, below=mode is True, again=again)
        mixing = 4 * blocks.layers * shape.tokens**2 * blocks.attention_width
        own += matrices * shape.tokens + _attention(mixing, learns=learns, again=again)
        lora += adapters * shape.tokens
    return own, lora


def _resampler(shape: ResamplerShape, patches: int, trained: Trained) -> tuple[Passes, Passes]:
    """Of one tile. The first layer's queries come from the latents alone, its keys from features too."""
    mode, learns = trained.resampler, bool(trained.resampler or trained.vision)
    again = learns and trained.again("resampler")
    positions = {"kv": patches + shape.latents}
    mixing = 4 * shape.depth * shape.latents * (patches + shape.latents) * shape.inner
    own, lora = _matrix(shape.projection, mode, trained.rank, below=learns)
    own, lora = own * shape.latents + _attention(mixing, learns=learns, again=again), lora * shape.latents
    for number in range(shape.depth):
        for linear in shape.linears:
            below = learns
            if number == 0 and linear.name in ("q", "kv"):
                below = mode is True or (bool(trained.vision) and linear.name == "kv")
            matrix, adapter = _matrix(linear, mode, trained.rank, below=below)
            if again:
                fused = trained.fused and mode != "lora"
                last = linear == shape.linears[-1] and not fused
                matrix, adapter = _twice(linear, matrix, adapter, last=last, rank=trained.rank)
            own += matrix * positions.get(linear.name, shape.latents)
            lora += adapter * positions.get(linear.name, shape.latents)
    return own, lora


def _linear(blocks: Blocks, trained: Trained) -> tuple[Passes, Passes]:
    """Of one token: the language model's matrices, and their adapters."""
    mode, again = trained.language, trained.again("language")
    fused = trained.fused and blocks.gated and mode != "lora"
    learns, below = trained.anything, trained.embeddings_learn
    return _stack(blocks, mode, trained.rank, learns=learns, below=below, again=again, fused=fused)


def _mixing(blocks: Blocks, trained: Trained) -> Passes:
    """Scores and weighted sums of one pair of positions, in all blocks."""
    forward = 4 * blocks.layers * blocks.attention_width
    return _attention(forward, learns=trained.anything, again=trained.again("language"))


def _attention(forward: Amount, *, learns: bool, again: bool) -> Passes:
    return Passes(forward, 2 * forward, forward if again else 0) if learns else Passes(forward)


def _head(language: LanguageShape, trained: Trained) -> Passes:
    """Of one position with logits."""
    forward = 2 * language.table
    again = forward if trained.by_position and trained.anything else 0
    return Passes(forward, forward * (int(trained.anything) + int(trained.language is True)), again)


def _stack(
    blocks: Blocks, mode: Mode, rank: int, *, learns: bool, below: bool, again: bool, fused: bool = False
) -> tuple[Passes, Passes]:
    """Of one position in all blocks: matrices and adapters.

    Args:
        blocks: The stack.
        mode: What of it trains.
        rank: Of its adapters.
        learns: Whether gradients go through it.
        below: Whether they leave it at the bottom; otherwise the first block's input needs none.
        again: Whether blocks are computed again in the backward pass.
        fused: Whether their last matrix is part of an operation that is computed again as a whole.
    """
    own, lora = Passes(), Passes()
    for linear in blocks.linears:
        for layers, needed in ((blocks.layers - 1, learns), (1, below if linear in blocks.first else learns)):
            matrix, adapter = _matrix(linear, mode, rank, below=needed)
            if again and learns:
                last = linear == blocks.linears[-1] and not fused
                matrix, adapter = _twice(linear, matrix, adapter, last=last, rank=rank)
            own += matrix * layers
            lora += adapter * layers
    return own, lora


def _matrix(linear: Linear, mode: Mode, rank: int, *, below: bool) -> tuple[Passes, Passes]:
    """Of one position: a linear layer and its adapter. Its input needs a gradient if something `below` it learns."""
    forward = 2 * linear.weights
    own = Passes(forward, forward * (int(below) + int(mode is True)))
    if mode != "lora":
        return own, Passes()
    narrow, wide = 2 * rank * linear.inputs, 2 * rank * linear.outputs
    return own, Passes(narrow + wide, narrow * (1 + int(below)) + 2 * wide)


def _twice(linear: Linear, matrix: Passes, adapter: Passes, *, last: bool, rank: int) -> tuple[Passes, Passes]:
    """A matrix and its adapter in a block that is computed again.

    That stops at the last value that the backward pass asks for: what goes into the block's last matrix or, as adapters
    are computed after their matrix, into the second half of that matrix' adapter.
    """
    if not last:
        return matrix + Passes(again=matrix.forward), adapter + Passes(again=adapter.forward)
    if not adapter.forward:
        return matrix, adapter
    return matrix + Passes(again=matrix.forward), adapter + Passes(again=2 * rank * linear.inputs)

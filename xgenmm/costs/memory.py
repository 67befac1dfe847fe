"""Bytes of a training step on one device, by kind.

What a block keeps for its backward pass is counted tensor by tensor, as transformers' blocks, our resampler and torch's
kernels keep it; tests compare with what torch really keeps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xgenmm.costs.flops import Mode, Trained, Work
from xgenmm.costs.shapes import Amount, Blocks, Linear, ModelShape, ResamplerShape, VisionShape
from xgenmm.costs.sharding import Mesh, ParallelConfig

ON_A_CPU, ON_A_GPU = (8_000_000, 500_000, 1_000_000), (2**27, 2**24, 2**27)
"""`model.head`'s portions: logits, logits in float32, weights whose gradient is added up. A test compares."""


@dataclass(frozen=True, kw_only=True)
class Formats:
    """Bytes of a number where it matters."""

    stream: int
    """What blocks add to, and norms."""
    product: int
    """What matrices and attention give."""
    trained: int = 4
    """A weight that trains, at rest."""
    frozen: int
    copies: bool
    """Autocast: every matrix makes its own rounded copies of its input and of its weights."""
    attention: Literal["segments", "blocks", "flash"]
    """What `model.attention` computes packed rows with: document by document, whose results are kept and copied into
    one; blocks that keep nothing but queries, keys and values; or kernels that keep their result, too.
    """
    lean: bool
    """Norms of language models and the product of a gated layer are those of `model.lean`, which keep their input."""
    portions: tuple[int, int, int]
    """Those of the loss's head."""


def formats(precision: Literal["float32", "bfloat16"], *, splits: bool, cpu: bool) -> Formats:
    """Formats of a run: weights that are split arrive in bfloat16, others are rounded by autocast."""
    kernel: Literal["segments", "blocks", "flash"] = "blocks" if cpu else "flash"
    stream, product, copies = 2 if splits else 4, 2, not splits
    if precision == "float32":
        kernel = "segments" if cpu else "flash"
        stream, product, copies = 4, 4, False
    return Formats(
        stream=stream,
        product=product,
        frozen=product,
        copies=copies,
        attention=kernel,
        lean=cpu,
        portions=ON_A_CPU if cpu else ON_A_GPU,
    )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one device when it holds most."""

    weights: Amount
    """At rest, with a moving average of them if there is one."""
    copies: Amount
    """Of weights, in the format that is computed with: put together from all shards, or rounded by autocast."""
    optimizer: Amount
    gradients: Amount
    vision: Amount
    """Features and, if the encoder trains, what it keeps."""
    resampler: Amount
    language: Amount
    head: Amount
    """Logits of a chunk and what belongs to them."""

    @property
    def activations(self) -> Amount:
        """What the forward pass leaves for the backward pass."""
        return self.vision + self.resampler + self.language + self.head

    @property
    def sum(self) -> Amount:
        """All of it."""
        return sum(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class Count:
    """Parameters of a part."""

    trained: int
    frozen: int


def counts(shape: ModelShape, trained: Trained) -> dict[str, Count]:
    """Parameters by part: those that train, and the others."""
    found = {}
    for part, mode in (("vision", trained.vision), ("resampler", trained.resampler), ("language", trained.language)):
        sizes = shape.vision if part == "vision" else shape.resampler if part == "resampler" else shape.language
        unused = shape.vision.unused if part == "vision" else 0
        if mode == "lora":
            found[part] = Count(trained=sizes.lora_parameters(trained.rank), frozen=sizes.parameters)
        else:
            learns = sizes.parameters - unused if mode else 0
            found[part] = Count(trained=learns, frozen=sizes.parameters - learns)
    return found


def split_parameters(shape: ModelShape, trained: Trained) -> int:
    """Parameters that a mesh splits: all but those of which every device has its own."""
    parts = counts(shape, trained)
    return sum(count.trained + count.frozen for count in parts.values()) - _everywhere(trained, parts)


def _everywhere(trained: Trained, parts: Mapping[str, Count]) -> int:
    """Parameters of encoder and resampler, where they do not train: whole on every device (`training.parallel`)."""
    modes = {"vision": trained.vision, "resampler": trained.resampler}
    return sum(parts[part].frozen for part, mode in modes.items() if not mode)


def step_memory(
    shape: ModelShape,
    trained: Trained,
    work: Work,
    *,
    parallel: ParallelConfig,
    mesh: Mesh,
    precision: Literal["float32", "bfloat16"],
    several: bool,
    average: bool = False,
    copied: bool = False,
    cpu: bool = False,
) -> Memory:
    """What one device holds at its fullest.

    Args:
        shape: The model.
        trained: What of it learns.
        work: Of the largest forward pass.
        parallel: How states are kept.
        mesh: The processes.
        precision: Of computation.
        several: A step has several forward passes, so that gradients are there while the next pass runs.
        average: A moving average of the weights is kept.
        copied: What trains is there a second time, as it was: what a preference objective compares with.
        cpu: It is no GPU.
    """
    # torch's `fully_shard` keeps the weights of several processes, and of one whose states are elsewhere.
    sharded = mesh.world > 1 or parallel.offload
    format = formats(precision, splits=sharded, cpu=cpu)
    parts = counts(shape, trained)
    learns = sum(count.trained for count in parts.values())
    whole = _everywhere(trained, parts)
    frozen = sum(count.frozen for count in parts.values()) - whole
    share = 0.0 if parallel.offload else 1 / mesh.shards
    # Gradients are put together and split after the last pass only: until then, every device adds up all of them, as
    # they will be sent.
    gradients = 4.0 * learns * share
    if several and sharded:
        gradients = (4.0 if parallel.reduce == "float32" else 2.0) * learns
    vision = _vision(shape.vision, trained, work.tiles, format)
    resampler = _resampler(shape.resampler, shape.vision.patches, trained, work.tiles, format)
    language, block = _language(shape, trained, work.tokens, format)
    head, head_gradient = _head(shape, trained, work.targets, format)
    activations = vision + resampler + language + head
    if several:
        gradients += head_gradient  # beside those of the passes before
    elif activations + head_gradient * share > gradients + block:
        # While the backward pass frees what blocks kept, gradients grow: the fullest moment is its begin or its end.
        gradients = head_gradient * share
    else:
        vision = resampler = head = 0.0
        language = block
    return Memory(
        weights=share * (format.trained * learns * (1 + average + copied) + format.frozen * frozen)
        + format.frozen * whole,
        copies=_copies(shape, trained, format, sharded=sharded),
        optimizer=share * 8 * learns,
        gradients=gradients,
        vision=vision,
        resampler=resampler,
        language=language,
        head=head,
    )


def block_bytes(blocks: Blocks, mode: Mode, rank: int, format: Formats, *, causal: bool) -> Amount:
    """What a block keeps of one position for its backward pass.

    Args:
        blocks: Whose block.
        mode: What of it trains.
        rank: Of its adapters.
        format: Bytes of numbers.
        causal: It is a language model's block: of packed documents, with norms that do not subtract the mean.
    """
    p, width, queries, keys = format.product, blocks.width, blocks.attention_width, blocks.kv_width
    lean = causal and format.lean
    kept = blocks.norms * (_norm(width, mode, format, centred=blocks.centred))
    if blocks.head_norms:
        figures = 4 * blocks.heads * (1 + keys / queries)
        kept += p * (queries + keys) + figures if lean else _norm(queries + keys, mode, format, centred=False)
    kept += p * (queries + 2 * keys)
    result, mixes = p * queries, format.attention if causal else "flash"
    if mixes != "blocks":
        kept += result + 4 * blocks.heads
    ffn = blocks.ffn
    kept += p * ffn * ((2 if lean else 3) if blocks.gated else 1)
    for number, group in enumerate(_readers(blocks)):
        if lean and blocks.gated and mode is True and number == 3:
            continue  # the inside of the feed-forward layer is computed again
        # Linear layers that read the same keep it once, or each its own rounded copy.
        if mode is not False:
            shared = not format.copies or (lean and mode is True)
            kept += p * group[0].inputs * (1 if shared else len(group))
        # Attention's result goes into a matrix, too: as it is, or where documents are put together, as a copy.
        if number == 1 and mode is not False and mixes == "flash":
            kept -= result
    if mode == "lora":
        kept += p * rank * len(blocks.linears)
    return float(kept)


def _readers(blocks: Blocks) -> Sequence[Sequence[Linear]]:
    """Linear layers by what they read: block's input, attention's result, feed-forward's input, its inside."""
    first = blocks.first
    rest = [linear for linear in blocks.linears if linear not in first]
    return first, rest[:1], rest[1:-1], rest[-1:]


def _norm(width: int, mode: Mode, format: Formats, *, centred: bool) -> Amount:
    """Of one position. A layer norm keeps its input and two figures; the others compute in float32, keep that and one
    figure, and for their own weights the result. Lean ones keep their input and one figure.
    """
    if centred:
        return format.stream * (width + 2)
    if format.lean:
        return format.stream * width + 4
    return 4 * (width + 1) + (format.stream * width if mode is True else 0)


def _stack(
    blocks: Blocks, mode: Mode, recompute: str, rank: int, positions: Amount, format: Formats, *, causal: bool
) -> tuple[Amount, Amount]:
    """What all blocks keep, and what one block holds while it is computed backwards."""
    each = positions * block_bytes(blocks, mode, rank, format, causal=causal)
    passing = positions * format.product * (3 * blocks.ffn + 2 * blocks.width)
    entry = positions * format.stream * blocks.width
    if recompute == "full":
        return blocks.layers * entry + each, passing
    if recompute == "selective":
        # What matrices and attention give: queries, keys, values, the mixture, both sides of the feed-forward layer.
        results = sum(linear.outputs for linear in blocks.linears) + blocks.attention_width
        kept = entry + positions * (format.product * results + 4 * blocks.heads)
        return blocks.layers * kept + each - kept, passing
    return blocks.layers * each, passing


def _language(shape: ModelShape, trained: Trained, tokens: Amount, format: Formats) -> tuple[Amount, Amount]:
    """What the language model keeps, and what is alive in the middle of its backward pass beside gradients."""
    if not trained.anything:
        return 0.0, 0.0
    blocks = shape.language.blocks
    recompute = trained.recompute.get("language", "none")
    kept, block = _stack(blocks, trained.language, recompute, trained.rank, tokens, format, causal=True)
    # Embeddings before and after the vision tokens take their places, the last norm, the positions' sines.
    edges = tokens * (3 * format.stream * blocks.width + _norm(blocks.width, trained.language, format, centred=False))
    return kept + edges, block + edges


def _resampler(shape: ResamplerShape, patches: int, trained: Trained, tiles: Amount, format: Formats) -> Amount:
    mode = trained.resampler
    if not (mode or trained.vision):
        return 0.0
    s, p, width, inner, latents = format.stream, format.product, shape.width, shape.inner, shape.latents
    keys, wide = patches + latents, shape.ff_mult * shape.width
    layer = latents * 2 * s * (width + 2) + (patches * 2 * s if mode is True else 0)
    layer += p * (keys * 2 * inner + latents * (2 * inner + wide)) + 4 * shape.heads * latents
    if mode:
        kept_inside = 0 if format.lean and mode is True else wide  # otherwise GELU is computed again
        layer += p * (keys * width + latents * (2 * width + kept_inside))
    if mode == "lora":
        layer += p * trained.rank * (keys + 4 * latents)
    layers = shape.depth * layer
    if trained.recompute.get("resampler") == "full":
        layers = shape.depth * s * latents * width + layer
    elif trained.recompute.get("resampler") == "selective":
        results = p * (keys * 2 * inner + latents * (2 * inner + 2 * width + wide))
        layers = shape.depth * (results + s * latents * width) + layer - results
    media = patches * width * s if mode is True or trained.vision else 0
    return float(tiles * (layers + media + latents * (width * (s + p) + shape.width_out * s)))


def _vision(shape: VisionShape, trained: Trained, tiles: Amount, format: Formats) -> Amount:
    """The features, and what an encoder that trains keeps; a frozen one works in small portions and keeps nothing."""
    features = tiles * shape.patches * shape.width * format.product
    if not trained.vision or shape.blocks is None:
        return float(features)
    recompute = trained.recompute.get("vision", "none")
    positions = tiles * shape.tokens
    kept, _ = _stack(shape.blocks, trained.vision, recompute, trained.rank, positions, format, causal=False)
    return float(features + kept)


def _head(shape: ModelShape, trained: Trained, targets: Amount, format: Formats) -> tuple[Amount, Amount]:
    """Hidden states of targets with their gradients, a chunk of logits, and what it adds to some weights' gradient; and
    the gradient of the head's weights, which is known before the backward pass begins.
    """
    language = shape.language
    at_once, in_float32, weights = format.portions
    chunk = min(targets * language.vocabulary, at_once)
    logits = chunk * format.product + min(chunk, in_float32) * 8
    if trained.language is True and format.product < 4:  # in float32 it is added at once
        logits += min(language.table, weights) * format.product
    hidden = targets * language.blocks.width * 2 * format.stream
    rounded = format.product * language.table if format.copies else 0
    table = 4.0 * language.table if trained.language is True else 0.0
    return float(logits + hidden + rounded), table


def _copies(shape: ModelShape, trained: Trained, format: Formats, *, sharded: bool) -> Amount:
    """Of weights that train, as they are computed with."""
    language, blocks = shape.language, shape.language.blocks
    if sharded:
        # Two blocks (one is used, the next one arrives), and what stands outside of blocks.
        outside = language.parameters - blocks.parameters
        return float(format.product * (2 * blocks.block_parameters + outside))
    if not format.copies:
        return 0.0
    own = [
        (trained.language, blocks.layers * blocks.weights + language.table),
        (trained.resampler, shape.resampler.parameters),
        (trained.vision, shape.vision.parameters),
    ]
    return float(sum(2 * number for mode, number in own if mode is True))

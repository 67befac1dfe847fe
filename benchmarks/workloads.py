"""What a training step is measured on, and two ways to make one: ours, and the usual one with padding.

The usual way is our own model with everything that packing does away with: rows padded to the longest, a boolean mask,
logits of all positions, and none of our operations. It stands for implementations that pad, with the same weights, so
that losses can be compared.

xGen-MM's own code does three more things that cost. It pads text before it puts pictures in, so that every row is as
long as the longest text and its own pictures, and then pads again. Where it does not tile it pads pictures as well:
every row gets as many as the one with most, and blank ones are encoded and resampled like the rest. And its resampler's
attention is written out, with all scores and a pass that takes the largest from each row of them. It cannot be
installed beside today's packages, so `like_xgenmm` stands for it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from measure import computing
from models import SIDE, build_model
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from xgenmm.model import resampler, vision
from xgenmm.model.splice import splice
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.objectives.next_token import next_token
from xgenmm.processor.collate import collate
from xgenmm.processor.packing import pack
from xgenmm.training.precision import Precision
from xgenmm.types import IGNORE_INDEX, Example, PaddedBatch

PADDED = {False: "rows padded", True: "padded as xGen-MM's own code does"}
"""What the usual step is called, by `like_xgenmm`."""
LENGTHS = (64, 1024, 256, 384, 96, 768, 512, 160)
"""Tokens of text."""
PICTURES = (1, 3, 2, 5, 4, 5, 2, 1)
GRIDS = ((0, 0), (1, 3), (1, 2), (1, 3), (1, 3), (2, 2), (2, 2), (0, 0))
"""1, 4, 3, 4, 4, 5, 5 and 1 tiles."""
LATENTS = 128


def interleaved(image_token: int) -> list[Example]:
    """Pages: pictures of one tile each among text that is all supervised."""
    return [
        page(image_token, text, [(0, 0)] * pictures, supervised=1.0, seed=number)
        for number, (text, pictures) in enumerate(zip(LENGTHS, PICTURES, strict=True))
    ]


def any_resolution(image_token: int) -> list[Example]:
    """Questions about one picture of several tiles: the last third of the text is the answer."""
    return [
        page(image_token, text, [grid], supervised=0.3, seed=number)
        for number, (text, grid) in enumerate(zip(LENGTHS, GRIDS, strict=True))
    ]


def page(
    image_token: int, text: int, grids: Sequence[tuple[int, int]], *, supervised: float = 1.0, seed: int = 0
) -> Example:
    """Text with pictures spread over its first half; its last part is supervised."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, image_token, (text,), generator=generator)
    cuts = torch.linspace(0, text / 2, len(grids) + 1).long().tolist()[1:]
    pieces: list[Tensor] = []
    for start, stop, (rows, cols) in zip([0, *cuts][:-1], cuts, grids, strict=True):
        pieces += [words[start:stop], torch.full((LATENTS * (1 + rows * cols),), image_token)]
    ids = torch.cat([*pieces, words[cuts[-1] if cuts else 0 :]])
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[:-1] = torch.where(ids[1:] == image_token, IGNORE_INDEX, ids[1:])
    answer_from = (ids != image_token).cumsum(0) > (1 - supervised) * text
    labels[~answer_from] = IGNORE_INDEX
    tiles = sum(1 + rows * cols for rows, cols in grids)
    return Example(
        id=str(seed),
        input_ids=ids,
        labels=labels,
        pixel_values=torch.rand(tiles, 3, SIDE, SIDE, generator=generator) * 2 - 1,
        image_layouts=torch.tensor([(rows, cols, 480, 640) for rows, cols in grids], dtype=torch.long).reshape(-1, 4),
    )


def trainable(size: str) -> XGenMMForConditionalGeneration:
    """Resampler and language model train, the encoder is frozen: most stages."""
    model = build_model(size)
    model.set_trainable(vision=False, resampler=True, language=True)
    return model


def our_step(
    model: XGenMMForConditionalGeneration, examples: Sequence[Example], precision: Precision | None = None
) -> Callable[[], float]:
    """A function that makes gradients, and gives the mean loss."""
    batch = pack(examples, pad_id=0)

    def step() -> float:
        model.zero_grad()
        with computing(precision):
            output = next_token(model, batch)
        (output.loss / output.count).backward()
        return output.loss.item() / output.count

    return step


def padded_step(
    model: XGenMMForConditionalGeneration,
    examples: Sequence[Example],
    precision: Precision | None = None,
    *,
    like_xgenmm: bool = False,
) -> Callable[[], float]:
    """The same, the usual way: by a model that was never given a packed row, so that its layers are transformers', and
    with torch's own attention in the encoder, torch's own attention and GELU in the resampler.

    Args:
        model: Ours.
        examples: One for each row.
        precision: Of products.
        like_xgenmm: With text padded before pictures are put in, pictures padded where none is tiled, and the
            resampler's attention written out.
    """
    rows = collate(examples, pad_id=0, side="right")
    if like_xgenmm:
        rows = padded_twice(rows, examples, model.config.image_token_id)
    labels = pad_sequence([one.labels for one in examples], batch_first=True, padding_value=IGNORE_INDEX)
    labels = F.pad(labels, (0, rows.input_ids.shape[1] - labels.shape[1]), value=IGNORE_INDEX)
    tiles = pad_sequence([one.pixel_values for one in examples], batch_first=True).flatten(0, 1)
    attention = written_out if like_xgenmm else F.scaled_dot_product_attention
    there = pad_sequence([torch.ones(len(one.pixel_values)) for one in examples], batch_first=True).flatten().bool()
    tiled = bool(rows.image_layouts[:, :2].any())

    def forward() -> Tensor:
        if not like_xgenmm or tiled:
            return model(**vars(rows)).logits
        tokens = model.vision_tokens(tiles)[there].flatten(0, 1)
        text = model.get_input_embeddings()(rows.input_ids)
        embedded = splice(text, tokens, rows.input_ids == model.config.image_token_id)
        return model(inputs_embeds=embedded, attention_mask=rows.attention_mask).logits

    def step() -> float:
        model.zero_grad()
        with computing(precision), usual_layers(attention):
            loss = F.cross_entropy(forward().float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)
        loss.backward()
        return loss.item()

    return step


def padded_twice(rows: PaddedBatch, examples: Sequence[Example], image_token: int) -> PaddedBatch:
    """The same rows, as long as they get where text is padded first, one token for each picture in it."""
    texts = [int((one.input_ids != image_token).sum()) + len(one.image_layouts) for one in examples]
    longest = max(len(one.input_ids) + max(texts) - text for one, text in zip(examples, texts, strict=True))
    more = (0, longest - rows.input_ids.shape[1])
    return dataclasses.replace(
        rows, input_ids=F.pad(rows.input_ids, more), attention_mask=F.pad(rows.attention_mask, more)
    )


@contextmanager
def usual_layers(attention: Callable[..., Tensor]) -> Iterator[None]:
    """A forward pass in which encoder and resampler have none of our operations.

    Args:
        attention: The resampler's.
    """
    with (
        patch.object(vision, "small_attention", F.scaled_dot_product_attention),
        patch.object(resampler, "small_attention", attention),
        patch.object(resampler, "gelu_linear", lambda inputs, linear: linear(F.gelu(inputs))),
    ):
        yield


def written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by matrix products of all scores, with the largest of a row taken from it first."""
    scores = query * query.shape[-1] ** -0.5 @ key.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores - scores.amax(-1, keepdim=True).detach()).softmax(-1) @ value


def check_equal(size: str, examples: Callable[[int], list[Example]], *, like_xgenmm: bool = False) -> None:
    """Both ways give one loss and the same gradient for every weight, in float32."""
    model = trainable(size)
    chosen = examples(model.config.image_token_id)
    losses, gradients = [], []
    padded = padded_step(model, chosen, "float32", like_xgenmm=like_xgenmm)
    for step in (padded, our_step(model, chosen, "float32")):
        losses.append(step())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    relative = abs(losses[0] - losses[1]) / losses[0]
    worst = max(((a - b).norm() / a.norm()).item() for a, b in zip(*gradients, strict=True))
    assert relative < 1e-6, f"the losses are {losses}"
    assert worst < 1e-3, f"a gradient differs by {worst}"
    print(f"equal: loss {losses[1]:.7f} to {relative:.0e}, {len(gradients[0])} gradients to {worst:.0e}")

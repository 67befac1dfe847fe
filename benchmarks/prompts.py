"""Made-up prompts with pictures, and transformers' own generation as the peer. Import `measure` before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from measure import number_format
from models import SIDE, build_model
from torch import Tensor

from xgenmm.inference.sampling import GenerationConfig
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.collate import collate
from xgenmm.types import IGNORE_INDEX, Example


class Numbers:
    """Stands for a processor: texts are token numbers, and no answer ends early."""

    pad_token_id = 0

    def __init__(self, model: XGenMMForConditionalGeneration) -> None:
        self.image_token_id = model.config.image_token_id
        self.stop_token_ids = (self.image_token_id,)  # never written
        self.vocabulary = model.config.text_config.vocab_size
        self.tokenizer = self

    def __len__(self) -> int:
        return self.vocabulary

    def decode(self, ids: Sequence[int], **_: bool) -> str:
        return " ".join(map(str, ids))


class Models:
    """The same weights twice: one never sees a packed row, so that its layers and its attention stay transformers'."""

    def __init__(self, size: str) -> None:
        self.ours, self.peer = build_model(size), build_model(size)

    def convert(self) -> None:
        """Weights into the machine's number format."""
        for model in (self.ours, self.peer):
            model.to(getattr(torch, number_format()))


@dataclass(frozen=True)
class Chunk:
    """A picture with words."""

    tiles: Tensor
    words: Tensor


def chunk(model: XGenMMForConditionalGeneration, words: int, seed: int, tiles: int = 1) -> Chunk:
    """Noise for a picture, and so many tokens."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(1, model.config.text_config.vocab_size - 1, (words,), generator=generator)
    return Chunk(torch.rand(tiles, 3, SIDE, SIDE, generator=generator), text)


def prompt(model: XGenMMForConditionalGeneration, parts: Sequence[Chunk]) -> Example:
    """Pictures with their words, one behind the other."""
    latents, image = model.config.resampler_config.latents, model.config.image_token_id
    ids = torch.cat([piece for one in parts for piece in (torch.full((len(one.tiles) * latents,), image), one.words)])
    side = SIDE
    grids = {1: (0, 0), 3: (1, 2), 4: (1, 3), 5: (2, 2)}
    layouts = [(*grids[len(one.tiles)], side, side) for one in parts]
    return Example(
        id="x",
        input_ids=ids,
        labels=torch.full_like(ids, IGNORE_INDEX),
        pixel_values=torch.cat([one.tiles for one in parts]),
        image_layouts=torch.tensor(layouts),
    )


@torch.inference_mode()
def by_transformers(
    model: XGenMMForConditionalGeneration, prompts: Sequence[Example], config: GenerationConfig, batch_size: int = 8
) -> list[list[int]]:
    """Whole prompts, padded on the left, a batch at a time."""
    answers, image = [], model.config.image_token_id
    for start in range(0, len(prompts), batch_size):
        batch = collate(prompts[start : start + batch_size], 0)
        beams = {"num_beams": config.num_beams, "length_penalty": config.length_penalty} if config.num_beams > 1 else {}
        ids = model.generate(
            **vars(batch),
            max_new_tokens=config.max_new_tokens,
            do_sample=False,
            eos_token_id=image,
            pad_token_id=0,
            suppress_tokens=[image],
            **beams,
        )
        answers += ids[:, batch.input_ids.shape[1] :].tolist()
    return answers

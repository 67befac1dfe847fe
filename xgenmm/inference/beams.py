"""Beam search, by transformers: prompts are read once, and not once for each beam."""

from collections.abc import Sequence
from typing import Any, cast

import torch

from xgenmm.inference.reading import Reader
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.model.weights import generation_settings
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import Example


@torch.inference_mode()
def search(
    reader: Reader, processor: XGenMMProcessor, prompts: Sequence[Example], config: GenerationConfig
) -> list[list[int]]:
    """The best beam behind each prompt."""
    settings = generation_settings(reader.model, processor)
    settings.update(
        max_new_tokens=config.max_new_tokens,
        do_sample=False,
        num_beams=config.num_beams,
        length_penalty=config.length_penalty,
    )
    read = reader.read(prompts)
    cache = read.rows.cache()
    cache.batch_repeat_interleave(config.num_beams)
    # transformers begins with a token that is in no cache yet; of the embeddings it takes only that one
    cache.crop(-1)
    ids = cast(Any, reader.model.language_model).generate(
        inputs_embeds=read.last.expand(-1, read.rows.mask.shape[1], -1),
        attention_mask=read.rows.mask.long(),
        past_key_values=cache,
        generation_config=settings,
    )
    return ids.tolist()

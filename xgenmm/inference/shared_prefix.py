"""Many prompts that begin alike: the beginning is read once, and its keys and values serve all of them."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from xgenmm.inference.generate import GenerationConfig, generate_from
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.collate import collate
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import Example


class SharedPrefix:
    """A beginning, such as a fixed set of demonstrations with their pictures, that the model has read already."""

    @torch.inference_mode()
    def __init__(self, model: XGenMMForConditionalGeneration, processor: XGenMMProcessor, prefix: Example) -> None:
        """Read the beginning.

        Args:
            model: Put into evaluation mode.
            processor: The model's.
            prefix: What all prompts begin with; ends where no token of a whole prompt would cross the border.
        """
        self.model, self.processor, self.prefix = model.eval(), processor, prefix
        self.cache = DynamicCache(config=model.language_model.config)
        model(
            input_ids=prefix.input_ids[None].to(model.device),
            pixel_values=prefix.pixel_values.to(model.device),
            image_layouts=prefix.image_layouts,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )

    def starts(self, prompt: Example) -> bool:
        """Whether a whole prompt begins with these tokens."""
        return torch.equal(prompt.input_ids[: len(self.prefix.input_ids)], self.prefix.input_ids)

    def continue_prompts(self, rests: Sequence[Example], config: GenerationConfig) -> list[str]:
        """What the model writes behind the beginning and each of these; as `generate.continue_prompts` for the whole.

        Args:
            rests: What follows the beginning, with the pictures in it.
            config: How to choose tokens.
        """
        batch = collate(rests, self.processor.pad_token_id, side="left")
        rows = len(rests)
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows * config.num_beams)
        # Padding stands between the beginning and the rest, so that the beginning is at the same place in all rows.
        # Only its length matters there: it has been read. Placeholders in it would ask for its pictures again.
        begin = torch.full((rows, len(self.prefix.input_ids)), self.processor.pad_token_id)
        ids = torch.cat([begin, batch.input_ids], dim=1)
        mask = torch.cat([torch.ones_like(begin), batch.attention_mask], dim=1)
        new: Tensor = generate_from(
            self.model, self.processor, batch, config, input_ids=ids, attention_mask=mask, past_key_values=cache
        )
        return self.processor.tokenizer.batch_decode(new[:, ids.shape[1] :], skip_special_tokens=True)

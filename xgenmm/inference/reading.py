"""Prompts -> what a model knows behind them: keys and values, and the logits of the first new token. Writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from xgenmm.inference.pictures import PictureTokens
from xgenmm.inference.row_cache import KeysValues, Rows, growing_cache, joined
from xgenmm.model.onednn import use_ordered_weights
from xgenmm.model.splice import splice
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.collate import collate
from xgenmm.processor.packing import pack
from xgenmm.types import Example


@dataclass(frozen=True)
class Read:
    """Some prompts, read."""

    rows: Rows
    logits: Float[Tensor, "B vocabulary"]
    """Of the token behind each."""
    last: Float[Tensor, "B 1 D"]
    """Embedding of each prompt's last token."""


class Reader:
    """Reads prompts. The pictures that they share, and a beginning that they share, are read once."""

    def __init__(
        self,
        model: XGenMMForConditionalGeneration,
        pictures: PictureTokens | None = None,
        beginning: Example | None = None,
    ) -> None:
        """Read the beginning.

        Args:
            model: Put into evaluation mode.
            pictures: Those known already; otherwise none are.
            beginning: What all prompts begin with, such as a fixed set of demonstrations. Prompts are then only what
                follows it; no token of a whole prompt may cross the border.
        """
        self.model = model.eval()
        use_ordered_weights(model)
        self.pictures = pictures or PictureTokens(model)
        self.beginning: Rows | None = None
        if beginning is not None:
            self.beginning = self.read([beginning]).rows

    @torch.inference_mode()
    def read(self, prompts: Sequence[Example]) -> Read:
        """Read some prompts, together if that is possible."""
        if self.beginning is not None:
            return self._behind(self.beginning, prompts)
        window = getattr(self.model.config.text_config, "sliding_window", None)
        if window is None or max(len(prompt.input_ids) for prompt in prompts) <= window:
            return self._packed(prompts)
        # A packed row knows no window; a prompt by itself gets it from transformers.
        parts = [self._alone(prompt) for prompt in prompts]
        logits, last = torch.cat([part.logits for part in parts]), torch.cat([part.last for part in parts])
        return Read(joined([part.rows for part in parts]), logits, last)

    def _packed(self, prompts: Sequence[Example]) -> Read:
        batch = pack(prompts, pad_id=0)
        lengths = [len(prompt.input_ids) for prompt in prompts]
        ends = torch.tensor(lengths).cumsum(0) - 1
        embeds = self._embeds(batch.input_ids[None], prompts)
        cache = growing_cache()
        output = self.model(
            inputs_embeds=embeds,
            position_ids=batch.position_ids[None].to(embeds.device),
            documents=batch.documents,
            past_key_values=cache,
            logits_to_keep=ends.to(embeds.device),
        )
        whole = Rows.of(cache, torch.ones(1, int(ends[-1]) + 1, dtype=torch.bool, device=embeds.device))
        begins = [end - length + 1 for end, length in zip(ends.tolist(), lengths, strict=True)]
        rows = joined([_columns(whole, begin, length) for begin, length in zip(begins, lengths, strict=True)])
        return Read(rows, output.logits[0], embeds[0, ends][:, None])

    def _alone(self, prompt: Example) -> Read:
        embeds, cache = self._embeds(prompt.input_ids[None], [prompt]), growing_cache()
        output = self.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True, logits_to_keep=1)
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        return Read(Rows.of(cache, mask), output.logits[:, -1], embeds[:, -1:])

    def _behind(self, beginning: Rows, rests: Sequence[Example]) -> Read:
        """Padding stands between the beginning and the rest, so that the beginning is at the same place in all rows."""
        batch = collate(rests, pad_id=0, side="left")
        embeds = self._embeds(batch.input_ids, rests)
        count, begin = len(rests), beginning.mask.shape[1]
        cache = replace(beginning, layers=tuple(_repeated(one, count) for one in beginning.layers)).cache()
        own = batch.attention_mask.to(embeds.device)
        mask = torch.cat([beginning.mask.expand(count, -1), own.bool()], dim=1)
        output = self.model(
            inputs_embeds=embeds,
            attention_mask=mask.long(),
            position_ids=(own.cumsum(dim=1) - 1).clamp(min=0) + begin,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return Read(Rows.of(cache, mask), output.logits[:, -1], embeds[:, -1:])

    def _embeds(self, input_ids: Tensor, examples: Sequence[Example]) -> Float[Tensor, "B L D"]:
        ids = input_ids.to(self.model.device)
        text = self.model.get_input_embeddings()(ids)
        return splice(text, self.pictures.of(examples), ids == self.model.config.image_token_id)


def _columns(rows: Rows, begin: int, count: int) -> Rows:
    end = begin + count
    layers = (KeysValues(one.keys[:, :, begin:end], one.values[:, :, begin:end]) for one in rows.layers)
    return Rows(tuple(layers), rows.mask[:, begin:end])


def _repeated(one: KeysValues, count: int) -> KeysValues:
    return KeysValues(one.keys.expand(count, -1, -1, -1), one.values.expand(count, -1, -1, -1))

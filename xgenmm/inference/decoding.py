"""Tokens one after the other for several answers at once. An answer that ends leaves, and another one can join."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import Cache

from xgenmm.inference.reading import Reader
from xgenmm.inference.row_cache import ROOM, Rows, joined
from xgenmm.inference.sampling import Chooser, GenerationConfig, choose
from xgenmm.model.weights import generation_settings
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import Example


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be answered."""

    prompt: Example
    config: GenerationConfig
    number: int = 0
    """Among the requests of one call; draws of equal requests differ by it."""


@dataclass(kw_only=True)
class Answer:
    """What has been written so far."""

    request: Request
    ids: list[int] = field(default_factory=list)
    """Without the token that ended it."""
    done: bool = False


class Decoder:
    """Some answers that are being written."""

    def __init__(self, reader: Reader, processor: XGenMMProcessor) -> None:
        """Nobody has asked yet.

        Args:
            reader: Reads prompts; its model writes.
            processor: The model's.
        """
        self.reader, self.model = reader, reader.model
        settings = generation_settings(self.model, processor)
        self.stops = frozenset(processor.stop_token_ids)
        self.suppressed = torch.tensor(settings.suppress_tokens, dtype=torch.long, device=self.model.device)
        self.writing: list[Answer] = []
        self._choosers: list[Chooser] = []
        self._cache: Cache | None = None
        self._mask = torch.empty(0, 0, dtype=torch.bool)
        self._padded = False

    @torch.inference_mode()
    def admit(self, requests: Sequence[Request]) -> list[Answer]:
        """Read prompts and write the first token of each; the answers fill themselves from now on."""
        read = self.reader.read([request.prompt for request in requests])
        answers = [Answer(request=request) for request in requests]
        choosers = [Chooser(request.config, request.number) for request in requests]
        self._hold(read.rows if self._cache is None else joined([Rows.of(self._cache, self._mask), read.rows]))
        self.writing += answers
        self._choosers += choosers
        self._write(answers, choosers, read.logits)
        return answers

    @torch.inference_mode()
    def step(self) -> None:
        """Write the next token of every answer."""
        assert self._cache is not None, "nobody has asked"
        last = torch.tensor([[answer.ids[-1]] for answer in self.writing], device=self._mask.device)
        position = self._mask.sum(dim=1, keepdim=True)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(last), 1)], dim=1)
        output = self.model.language_model(
            input_ids=last,
            attention_mask=self._attention_mask(),
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._write(self.writing, self._choosers, output.logits[:, -1])

    def _attention_mask(self) -> Tensor | None:
        """What the new tokens see, in the form that costs transformers least."""
        if not self._padded:
            return None
        if getattr(self.model.config.text_config, "sliding_window", None) is not None:
            return self._mask.long()  # transformers adds the window
        dtype = self.model.language_model.dtype
        hidden = torch.zeros(self._mask.shape, dtype=dtype, device=self._mask.device)
        return hidden.masked_fill_(~self._mask, torch.finfo(dtype).min)[:, None, None]

    def _write(self, answers: Sequence[Answer], choosers: Sequence[Chooser], logits: Tensor) -> None:
        logits = logits.index_fill(1, self.suppressed, float("-inf"))
        for answer, token in zip(answers, choose(logits, choosers).tolist(), strict=True):
            if token in self.stops:
                answer.done = True
                continue
            answer.ids.append(token)
            answer.done = len(answer.ids) >= answer.request.config.max_new_tokens
        self._let_go()

    def _let_go(self) -> None:
        """Forget the answers that are done."""
        kept = [row for row, answer in enumerate(self.writing) if not answer.done]
        if len(kept) == len(self.writing):
            return
        self.writing = [self.writing[row] for row in kept]
        self._choosers = [self._choosers[row] for row in kept]
        if not kept:
            self._cache = None
            return
        assert self._cache is not None
        self._cache.batch_select_indices(torch.tensor(kept, device=self._mask.device))
        self._mask = self._mask[kept]
        rows = Rows.of(self._cache, self._mask)
        self._hold(rows if self._mask[:, :ROOM].any() else rows.without_empty_columns())

    def _hold(self, rows: Rows) -> None:
        self._cache, self._mask = rows.cache(), rows.mask
        self._padded = not bool(rows.mask.all())

"""How likely a model finds given continuations of a prompt: for ranking, multiple choice and preferences."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from xgenmm.inference.pictures import PictureTokens
from xgenmm.model.head import portions_on
from xgenmm.model.splice import splice
from xgenmm.processor.packing import pack
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import IGNORE_INDEX, Example


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Of one continuation."""

    logp: float
    """Sum of its tokens' log-probabilities."""
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt with all its candidates: the prompt is the trunk, each candidate less its last token is a branch."""

    example: Example
    candidates: list[Tensor]
    """Token ids of each, of its own length."""
    judged: list[Tensor]
    """Which of them count: a document's end of chunk is read and not asked for."""

    @property
    def length(self) -> int:
        """Tokens that are read."""
        return len(self.example.input_ids)


def row(processor: XGenMMProcessor, prompt: Example, candidates: Sequence[str], *, end: bool = False) -> Row:
    """What is read to judge candidates. The prompt and its pictures are read once for all of them, and candidates of
    one token cost nothing more: they are all judged by what the model expects behind the prompt.

    Args:
        processor: The model's own.
        prompt: What is continued.
        candidates: How it may go on, each as the model would write it.
        end: Count the token that ends an answer too: a whole answer, and not how one begins.

    Raises:
        PromptTooLong: It is, with one of the candidates.
        ValueError: There is no candidate, or one has no token.
    """
    start = len(prompt.input_ids)
    wholes = [processor.continuation(prompt, text, end=end) for text in candidates]
    judged = [whole.labels[start - 1 : -1] != IGNORE_INDEX for whole in wholes]
    # what stands behind the last judged token (a line break behind an answer's end) is asked of nobody
    lengths = [int(flags.nonzero().max()) + 1 if flags.any() else 0 for flags in judged]
    tokens = [whole.input_ids[start : start + length] for whole, length in zip(wholes, lengths, strict=True)]
    if not tokens or not all(len(ids) for ids in tokens):
        raise ValueError(
            f"{prompt.id}: every prompt needs candidates, and every candidate a token; given are {list(candidates)}"
        )
    branches = [torch.full((len(ids) - 1,), number) for number, ids in enumerate(tokens, start=1)]
    input_ids = torch.cat([prompt.input_ids, *(ids[:-1] for ids in tokens)])
    example = Example(
        id=prompt.id,
        input_ids=input_ids,
        labels=torch.full_like(input_ids, IGNORE_INDEX),
        pixel_values=prompt.pixel_values,
        image_layouts=prompt.image_layouts,
        branches=torch.cat([torch.zeros(start, dtype=torch.int64), *branches]),
    )
    kept = [flags[:length] for flags, length in zip(judged, lengths, strict=True)]
    return Row(example=example, candidates=tokens, judged=kept)


class Scores:
    """Judges rows, several at a time, in any thread; the model's mode, dtype and autocast are the caller's choice."""

    def __init__(self, pictures: PictureTokens, pad_id: int) -> None:
        """Put the parts together.

        Args:
            pictures: Of the model; with what it knows already.
            pad_id: The processor's id of padding.
        """
        self.pictures, self.pad_id = pictures, pad_id
        self._looking = threading.Lock()  # pictures serve one reader at a time
        kind = pictures.model.device.type
        self._autocast = {"dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}

    def __call__(self, rows: Sequence[Row]) -> list[list[Likelihood]]:
        """Log-probability of each candidate of each row, in one forward pass."""
        # both hold for the thread that they were set in
        with torch.no_grad(), torch.autocast(self.pictures.model.device.type, **self._autocast):
            return self._judged(rows)

    def _judged(self, rows: Sequence[Row]) -> list[list[Likelihood]]:
        model = self.pictures.model
        batch = pack([row.example for row in rows], self.pad_id)
        ids = batch.input_ids[None].to(model.device)
        with self._looking:
            tokens = self.pictures.of([row.example for row in rows])
        embeds = splice(model.get_input_embeddings()(ids), tokens, ids == model.config.image_token_id)
        # For every token of every candidate: where it is predicted, and which it is.
        where, which = [], []
        start = 0
        for row in rows:
            end = start + row.length
            start = end - sum(len(ids) - 1 for ids in row.candidates)
            last = start - 1  # of the trunk
            for ids in row.candidates:
                where += [last, *range(start, start + len(ids) - 1)]
                which.append(ids)
                start += len(ids) - 1
        distinct, inverse = torch.tensor(where, device=model.device).unique(return_inverse=True)
        (logits,) = model(
            inputs_embeds=embeds,
            position_ids=batch.position_ids[None].to(model.device),
            documents=batch.documents,
            branches=batch.branches,
            logits_to_keep=distinct,
        ).logits
        targets = torch.cat(which).to(model.device)
        some = logits.split(max(portions_on(logits.device).in_float32 // logits.shape[-1], 1))
        normalisers = torch.cat([part.float().logsumexp(dim=-1) for part in some])
        logps = (logits[inverse, targets].float() - normalisers[inverse]).cpu()
        return _by_candidate(rows, logps)


def by_length(rows: Sequence[Row], size: int) -> list[list[int]]:
    """Places of rows in groups of like length."""
    order = sorted(range(len(rows)), key=lambda place: rows[place].length)
    return [order[first : first + size] for first in range(0, len(order), size)]


@contextmanager
def one_thread_each(model: PreTrainedModel) -> Iterator[ThreadPoolExecutor]:
    """Workers for independent forward passes.

    On a CPU as many as it has threads, of one thread each: short rows keep two cores busier as two batches than as one
    batch on both. On a GPU one, which is the only one that it needs; and one for a model that is split over processes
    (torch's `FSDPModule`), which have to ask for its blocks in the same order.
    """
    threads = torch.get_num_threads() if model.device.type == "cpu" and not hasattr(model, "unshard") else 1
    if threads == 1:
        with ThreadPoolExecutor(max_workers=1, initializer=_compute_on, initargs=(model.device,)) as workers:
            yield workers
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max_workers=threads, initializer=torch.set_num_threads, initargs=(1,)) as workers:
            yield workers
    finally:
        torch.set_num_threads(threads)


def _compute_on(device: torch.device) -> None:
    """Let a new thread begin on the GPU that the others compute on: it would on the first one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _by_candidate(rows: Sequence[Row], logps: Float[Tensor, " N"]) -> list[list[Likelihood]]:
    results, start = [], 0
    for row in rows:
        result = []
        for ids, judged in zip(row.candidates, row.judged, strict=True):
            counted = logps[start : start + len(ids)][judged]
            result.append(Likelihood(logp=counted.sum().item(), tokens=len(counted)))
            start += len(ids)
        results.append(result)
    return results

"""How likely a model finds given continuations of a prompt: for ranking, multiple choice and preferences."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.packing import pack
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import IGNORE_INDEX, Conversation, Document, Example


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Of one continuation."""

    logp: float
    """Sum of its tokens' log-probabilities."""
    tokens: int


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A prompt with all its candidates: the prompt is the trunk, each candidate less its last token is a branch."""

    example: Example
    candidates: list[Tensor]
    """Token ids of each, of its own length."""
    judged: list[Tensor]
    """Which of them count: a document's end of chunk is read and not asked for."""

    @property
    def length(self) -> int:
        return len(self.example.input_ids)


def score(
    model: XGenMMForConditionalGeneration,
    processor: XGenMMProcessor,
    prompts: Sequence[Document | Conversation],
    candidates: Sequence[Sequence[str]],
    *,
    end: bool = False,
    batch_size: int = 16,
) -> list[list[Likelihood]]:
    """Log-probability of each candidate behind its prompt.

    A prompt and its picture are read once for all candidates, and candidates of one token cost nothing more: they are
    all judged by what the model expects behind the prompt.

    Args:
        model: Its mode and dtype are the caller's choice.
        processor: The model's own.
        prompts: What is continued; conversations end with the user.
        candidates: One list for each prompt, each text as the model would write it.
        end: Count the token that ends an answer too: a whole answer, and not how one begins.
        batch_size: Prompts of one forward pass. Rows of like length go together; the result keeps the order given.

    Raises:
        ValueError: There is not one list of candidates for each prompt, or a candidate has no token.
    """
    if len(prompts) != len(candidates):
        raise ValueError(f"{len(candidates)} lists of candidates for {len(prompts)} prompts: give one list a prompt")
    rows = [_row(processor, prompt, texts, end=end) for prompt, texts in zip(prompts, candidates, strict=True)]
    order = sorted(range(len(rows)), key=lambda place: rows[place].length)
    groups = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    embedding = threading.Lock()  # a feature cache serves one reader at a time

    def score_group(places: Sequence[int]) -> list[list[Likelihood]]:
        with torch.no_grad():  # holds for the thread that it was set in
            return _score(model, processor, [rows[place] for place in places], embedding)

    results: list[list[Likelihood]] = [[] for _ in rows]
    with one_thread_each(model.device) as workers:
        for places, group in zip(groups, workers.map(score_group, groups), strict=True):
            for place, result in zip(places, group, strict=True):
                results[place] = result
    return results


@contextmanager
def one_thread_each(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Workers for independent forward passes.

    On a CPU as many as it has threads, of one thread each: short rows keep two cores busier as two batches than as one
    batch on both. On a GPU one, which is the only one that it needs.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        with ThreadPoolExecutor(max_workers=1) as workers:
            yield workers
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max_workers=threads, initializer=torch.set_num_threads, initargs=(1,)) as workers:
            yield workers
    finally:
        torch.set_num_threads(threads)


def _row(processor: XGenMMProcessor, prompt: Document | Conversation, texts: Sequence[str], *, end: bool) -> _Row:
    trunk = processor.prompt(prompt)
    start = len(trunk.input_ids)
    wholes = [processor.continuation(trunk, text, end=end) for text in texts]
    judged = [whole.labels[start - 1 : -1] != IGNORE_INDEX for whole in wholes]
    # what stands behind the last judged token (a line break behind an answer's end) is asked of nobody
    lengths = [int(flags.nonzero().max()) + 1 if flags.any() else 0 for flags in judged]
    tokens = [whole.input_ids[start : start + length] for whole, length in zip(wholes, lengths, strict=True)]
    if not tokens or not all(len(ids) for ids in tokens):
        raise ValueError(
            f"{prompt.id}: every prompt needs candidates, and every candidate a token; given are {list(texts)}"
        )
    branches = [torch.full((len(ids) - 1,), number) for number, ids in enumerate(tokens, start=1)]
    input_ids = torch.cat([trunk.input_ids, *(ids[:-1] for ids in tokens)])
    example = Example(
        id=prompt.id,
        input_ids=input_ids,
        labels=torch.full_like(input_ids, IGNORE_INDEX),
        pixel_values=trunk.pixel_values,
        image_layouts=trunk.image_layouts,
        branches=torch.cat([torch.zeros(start, dtype=torch.int64), *branches]),
    )
    kept = [flags[:length] for flags, length in zip(judged, lengths, strict=True)]
    return _Row(example=example, candidates=tokens, judged=kept)


def _score(
    model: XGenMMForConditionalGeneration, processor: XGenMMProcessor, rows: Sequence[_Row], embedding: threading.Lock
) -> list[list[Likelihood]]:
    batch = pack([row.example for row in rows], processor.pad_token_id)
    with embedding:
        embeds = model.embed(
            batch.input_ids[None].to(model.device), batch.pixel_values.to(model.device), batch.image_layouts
        )
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
    logits = logits.float()
    logps = (logits[inverse, targets] - logits.logsumexp(dim=-1)[inverse]).cpu()
    results, start = [], 0
    for row in rows:
        result = []
        for ids, judged in zip(row.candidates, row.judged, strict=True):
            counted = logps[start : start + len(ids)][judged]
            result.append(Likelihood(logp=counted.sum().item(), tokens=len(counted)))
            start += len(ids)
        results.append(result)
    return results

"""Conversations and documents -> what the model says: in batches, or piece by piece. No HTTP, no scoring."""

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.model.weights import generation_settings
from xgenmm.processor.collate import collate
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import Conversation, Document, Example, PaddedBatch


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How the next token is chosen, and how many there may be."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 takes the likeliest token; 1 draws from the model's own distribution."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of the draws; the surrounding program's random state is left alone."""
    num_beams: int = 1
    """Beam search over so many; needs temperature 0."""
    length_penalty: float = 1.0
    """Beams are compared by log-probability / length ** length_penalty: 0 prefers short answers."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: A setting is out of its range.
        """
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (the likeliest token) or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.num_beams < 1 or (self.num_beams > 1 and self.temperature > 0):
            raise ValueError(
                f"num_beams must be at least 1, and 1 when sampling: not {self.num_beams} with temperature "
                f"{self.temperature}"
            )


def generate(
    model: XGenMMForConditionalGeneration,
    processor: XGenMMProcessor,
    samples: Sequence[Conversation | Document],
    config: GenerationConfig,
    *,
    batch_size: int = 8,
) -> list[str]:
    """What the model answers to each conversation, or how it continues each document.

    Args:
        model: Put into evaluation mode for it, if it is not.
        processor: The model's.
        samples: Conversations that end with the user, or documents, in any mixture of lengths and numbers of images.
        config: How to choose tokens.
        batch_size: How many at a time. It changes no greedy text.

    Raises:
        ImageError, PromptTooLong, ValueError: A sample cannot be used; see `XGenMMProcessor.prompt`.
    """
    texts: list[str] = []
    for start in range(0, len(samples), batch_size):
        prompts = [processor.prompt(sample) for sample in samples[start : start + batch_size]]
        texts += continue_prompts(model, processor, prompts, config)
    return texts


def continue_prompts(
    model: XGenMMForConditionalGeneration,
    processor: XGenMMProcessor,
    prompts: Sequence[Example],
    config: GenerationConfig,
) -> list[str]:
    """What the model writes behind prompts that are tokens already; one batch, in any mixture of lengths."""
    # On the left, so that all rows end where their answers begin.
    batch = collate(prompts, processor.pad_token_id, side="left")
    ids = generate_from(model, processor, batch, config)
    return processor.tokenizer.batch_decode(ids[:, batch.input_ids.shape[1] :], skip_special_tokens=True)


def stream(
    model: XGenMMForConditionalGeneration,
    processor: XGenMMProcessor,
    sample: Conversation | Document,
    config: GenerationConfig,
) -> Generator[str]:
    """The same text as `generate`, in pieces as they come. Closing the generator stops the model.

    Raises:
        ImageError, PromptTooLong, ValueError: The sample cannot be used; raised by the first `next`.
    """
    batch = collate([processor.prompt(sample)], processor.pad_token_id, side="left")
    pieces = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    stopped = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            generate_from(model, processor, batch, config, streamer=pieces, stopping_criteria=_stop_when(stopped))
        except BaseException as failure:  # noqa: BLE001  (raised again below, in the thread that asked)
            failures.append(failure)
            pieces.end()

    worker = threading.Thread(target=work, name="generate")
    worker.start()
    try:
        yield from (piece for piece in pieces if piece)
    finally:
        stopped.set()
        worker.join()
    if failures:
        raise failures[0]


@torch.inference_mode()
def generate_from(
    model: XGenMMForConditionalGeneration,
    processor: XGenMMProcessor,
    batch: PaddedBatch,
    config: GenerationConfig,
    **options: Any,
) -> Int[Tensor, "B longer"]:
    """Prompts and new tokens; rows that end early go on with padding.

    Args:
        model: Put into evaluation mode.
        processor: The model's.
        batch: Padded on the left.
        config: How to choose tokens.
        options: Passed to transformers; may replace the batch's ids and mask.
    """
    sampling = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0} if config.temperature > 0 else {}
    settings = generation_settings(model, processor)
    settings.update(max_new_tokens=config.max_new_tokens, do_sample=config.temperature > 0, **sampling)
    if config.num_beams > 1:
        settings.update(num_beams=config.num_beams, length_penalty=config.length_penalty)
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **options}
        return cast(Any, model).generate(
            **{name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in inputs.items()},
            pixel_values=batch.pixel_values.to(model.device),
            image_layouts=batch.image_layouts,
            generation_config=settings,
        )


def _stop_when(stopped: threading.Event) -> StoppingCriteriaList:
    class Stopped(StoppingCriteria):
        def __call__(
            self,
            input_ids: Int[Tensor, "B L"],
            scores: Float[Tensor, "B vocabulary"] | None,  # noqa: ARG002  (transformers passes it)
            **_: Any,
        ) -> Bool[Tensor, " B"]:
            return torch.full((len(input_ids),), stopped.is_set(), device=input_ids.device)

    return StoppingCriteriaList([Stopped()])

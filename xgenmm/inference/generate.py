"""Conversations and documents -> what the model says: all at once, or piece by piece. No HTTP, no scoring."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice

from xgenmm.inference.beams import search
from xgenmm.inference.decoding import Decoder, Request
from xgenmm.inference.pictures import PictureTokens
from xgenmm.inference.reading import Reader
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import Conversation, Document, Example

UNFINISHED = "\ufffd"
"""What a character decodes to of which a token has only a part."""


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
        batch_size: How many at a time. It changes no text, drawn or not.

    Raises:
        ImageError, PromptTooLong, ValueError: A sample cannot be used; see `XGenMMProcessor.prompt`.
    """
    return continue_prompts(model, processor, map(processor.prompt, samples), config, batch_size=batch_size)


def continue_prompts(
    model: XGenMMForConditionalGeneration,
    processor: XGenMMProcessor,
    prompts: Iterable[Example],
    config: GenerationConfig,
    *,
    batch_size: int = 8,
) -> list[str]:
    """What the model writes behind prompts that are tokens and tiles already; otherwise as `generate`."""
    texts = dict(continuations(Reader(model), processor, prompts, config, batch_size=batch_size))
    return [texts[number] for number in range(len(texts))]


def continuations(
    reader: Reader,
    processor: XGenMMProcessor,
    prompts: Iterable[Example],
    config: GenerationConfig,
    *,
    batch_size: int,
) -> Iterator[tuple[int, str]]:
    """Number and text of every answer, in the order in which they are done.

    Args:
        reader: Of the model; with what it knows already of pictures and beginnings.
        processor: The model's.
        prompts: Taken as soon as there is room for one, and not before.
        config: How to choose tokens.
        batch_size: How many answers are written at a time. It changes no text.
    """
    waiting = enumerate(prompts)
    if config.num_beams > 1:
        while group := list(islice(waiting, batch_size)):
            found = search(reader, processor, [prompt for _, prompt in group], config)
            yield from ((number, _text(processor, ids)) for (number, _), ids in zip(group, found, strict=True))
        return
    decoder, answers = Decoder(reader, processor), []
    while True:
        if group := list(islice(waiting, batch_size - len(decoder.writing))):
            requests = [Request(number=number, prompt=prompt, config=config) for number, prompt in group]
            answers += decoder.admit(requests)
        elif decoder.writing:
            decoder.step()
        else:
            return
        yield from ((answer.request.number, _text(processor, answer.ids)) for answer in answers if answer.done)
        answers = [answer for answer in answers if not answer.done]


def stream(
    model: XGenMMForConditionalGeneration,
    processor: XGenMMProcessor,
    sample: Conversation | Document,
    config: GenerationConfig,
    pictures: PictureTokens | None = None,
) -> Generator[str]:
    """The same text as `generate`, in pieces as they come. Closing the generator stops the model.

    Args:
        model: As for `generate`.
        processor: As for `generate`.
        sample: As for `generate`.
        config: Without beams.
        pictures: Pictures that are known already, say from earlier turns of the same talk.

    Raises:
        ImageError, PromptTooLong, ValueError: The sample cannot be used; raised by the first `next`.
    """
    if config.num_beams > 1:
        raise ValueError("beams are known only at the end: nothing can be streamed; set num_beams to 1")
    decoder = Decoder(Reader(model, pictures), processor)
    (answer,) = decoder.admit([Request(prompt=processor.prompt(sample), config=config)])
    told = ""
    while True:
        text = _text(processor, answer.ids)
        if answer.done or not text.endswith(UNFINISHED):
            if piece := text[len(told) :]:
                yield piece
            told = text
        if answer.done:
            return
        decoder.step()


def _text(processor: XGenMMProcessor, ids: Sequence[int]) -> str:
    return processor.tokenizer.decode(ids, skip_special_tokens=True)

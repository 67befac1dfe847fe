"""What is read once gives the answers of what is read again and again: beginnings, pictures, rows that join."""

import dataclasses

import pytest
import torch
from toy import make_answering_model, make_picture, make_processor

from xgenmm.inference.decoding import Decoder, Request
from xgenmm.inference.generate import continuations, generate
from xgenmm.inference.pictures import PictureTokens
from xgenmm.inference.reading import Reader
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.types import Document, Example

RED, BLUE, WIDE = make_picture("red"), make_picture("blue"), make_picture("green", width=90, height=20)
PREFIX = "<image>Output:red<|endofchunk|>\n<image>Output:wide and green<|endofchunk|>\n"
RESTS = [("<image>Output:", [BLUE]), ("<image>Output: a longer beginning of", [RED]), ("<image>", [WIDE])]


def texts(reader, processor, prompts, config, batch_size=8):
    return [text for _, text in sorted(continuations(reader, processor, prompts, config, batch_size=batch_size))]


@pytest.mark.parametrize("family", ["phi3", "llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_beginning_that_is_read_once(family, beams):
    processor = make_processor("phi3")
    model = make_answering_model(processor, family)
    config = GenerationConfig(max_new_tokens=8, num_beams=beams, length_penalty=0.0)
    shown = [RED, WIDE]
    wholes = [processor.rendered("whole", PREFIX + text, [*shown, *pictures]) for text, pictures in RESTS]
    expected = texts(Reader(model), processor, wholes, config)
    reader = Reader(model, beginning=processor.rendered("prefix", PREFIX, shown))
    rests = [processor.rendered("rest", text, pictures) for text, pictures in RESTS]
    assert texts(reader, processor, rests, config) == expected
    assert texts(reader, processor, rests, config, batch_size=2) == expected
    assert texts(reader, processor, rests[1:2], config) == expected[1:2]  # what is kept did not change
    assert len(set(expected)) > 1


def test_answers_that_join_later_are_the_same():
    processor = make_processor("phi3")
    model = make_answering_model(processor)
    documents = [Document(id="d", parts=("once " * n, RED if n % 2 else WIDE, "is")) for n in range(1, 10)]
    lengths = [3, 20, 1, 8, 70, 2, 2, 30, 5]
    expected = [
        generate(model, processor, [document], GenerationConfig(max_new_tokens=length))[0]
        for document, length in zip(documents, lengths, strict=True)
    ]
    decoder, waiting, answers = Decoder(Reader(model), processor), [], []
    for document, length in zip(documents, lengths, strict=True):
        config = GenerationConfig(max_new_tokens=length)
        waiting.append(Request(prompt=processor.prompt(document), config=config))
    while waiting or decoder.writing:
        if waiting and len(decoder.writing) < 3:
            answers += decoder.admit([waiting.pop(0)])
        else:
            decoder.step()
    assert [processor.tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers] == expected
    assert [len(answer.ids) for answer in answers] == lengths


def test_each_draw_is_the_answers_own():
    processor = make_processor("phi3")
    model = make_answering_model(processor)
    config = GenerationConfig(max_new_tokens=10, temperature=1.0, top_p=0.9, seed=3)
    prompts = [Document(id="d", parts=("once " * n,)) for n in (1, 7, 3, 1, 20)]
    drawn = generate(model, processor, prompts, config, batch_size=1)
    assert generate(model, processor, prompts, config, batch_size=2) == drawn
    assert generate(model, processor, prompts, config, batch_size=5) == drawn
    assert drawn[0] != drawn[3]


def test_a_prompt_longer_than_the_window_is_seen_through_it():
    """transformers is the judge: its own generation, which knows the window."""
    processor = make_processor("phi3")
    model = make_answering_model(processor)
    document = Document(id="d", parts=("a longer text than the window is wide, and ", RED, "behind it"))
    free = generate(model, processor, [document], GenerationConfig(max_new_tokens=8))
    for config in (model.config.text_config, model.language_model.config):
        config.sliding_window = 12
    prompt = processor.prompt(document)
    with torch.no_grad():
        ids = model.generate(
            input_ids=prompt.input_ids[None],
            pixel_values=prompt.pixel_values,
            image_layouts=prompt.image_layouts,
            attention_mask=torch.ones_like(prompt.input_ids)[None],
            max_new_tokens=8,
        )
    expected = processor.tokenizer.decode(ids[0, len(prompt.input_ids) :], skip_special_tokens=True)
    windowed = generate(model, processor, [document, document], GenerationConfig(max_new_tokens=8))
    assert windowed == [expected] * 2 != free * 2


def test_a_picture_is_encoded_once():
    processor = make_processor("phi3")
    model = make_answering_model(processor)
    examples = [processor.rendered("x", "<image><image>", [RED, WIDE]), processor.rendered("y", "<image>", [RED])]
    tiles = []
    model.vision_encoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: tiles.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    known = PictureTokens(model)
    first = known.of(examples)
    assert sum(tiles) == len(examples[0].pixel_values)
    assert torch.equal(known.of(examples), first)
    assert sum(tiles) == len(examples[0].pixel_values)
    with torch.no_grad():
        whole = [model.vision_tokens(one.pixel_values, one.image_layouts).flatten(0, 1) for one in examples]
    torch.testing.assert_close(first, torch.cat(whole))


def test_memory_of_pictures_is_bounded():
    processor = make_processor("phi3")
    model = make_answering_model(processor)
    one = processor.rendered("x", "<image>", [RED])
    size = PictureTokens(model).of([one]).nbytes
    known = PictureTokens(model, memory=2 * size)
    for colour in ("red", "blue", "green", "red"):
        known.of([processor.rendered("x", "<image>", [make_picture(colour)])])
    assert known.bytes == 2 * size == sum(tokens.nbytes for tokens in known.kept.values())
    other = dataclasses.replace(one, pixel_values=one.pixel_values + 1)
    assert not torch.equal(known.of([other]), known.of([one]))


def test_no_picture_is_no_token():
    processor = make_processor("phi3")
    model = make_answering_model(processor)
    text: Example = processor.rendered("x", "no picture", [])
    assert PictureTokens(model).of([text]).shape == (0, model.config.text_config.hidden_size)

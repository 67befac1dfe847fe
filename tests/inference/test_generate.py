"""Answers do not depend on who else is in the batch, and come in pieces or at once as the same text."""

import dataclasses
import io
import threading

import pytest
import torch
from PIL import Image
from toy import make_answering_model, make_picture, make_processor

from xgenmm.inference.generate import generate, stream
from xgenmm.inference.sampling import Chooser, GenerationConfig, choose
from xgenmm.processor.images import ImageError
from xgenmm.processor.processor import PromptTooLong
from xgenmm.types import Conversation, Document, Picture, Turn

RED, BLUE, WIDE = make_picture("red"), make_picture("blue"), make_picture("green", width=90, height=20)


def ask(*parts: str | Picture) -> Conversation:
    return Conversation(id="question", turns=(Turn(role="user", parts=parts),))


MIXED = [
    ask(RED, "What is it?"),
    ask("No picture here, but rather a lot of text that makes the row long."),
    ask("Left: ", BLUE, " right: ", WIDE, " Which is wider?"),
    Document(id="page", parts=(RED, "red", BLUE, "blue", WIDE, "it is")),
    ask("?"),
    Conversation(
        id="talk",
        turns=(
            Turn(role="user", parts=(WIDE, "Colour?")),
            Turn(role="assistant", parts=("Green.",)),
            Turn(role="user", parts=("Sure?",)),
        ),
    ),
    ask(WIDE, BLUE, RED, "How many?"),
    Document(id="text", parts=("Once upon a time",)),
]
"""Rows with no image to three, of 5 to 90 tokens."""


@pytest.fixture(params=[("phi3", "phi3"), ("llama", "chatml"), ("gpt2", "chatml")], ids=["phi3", "llama", "gpt2"])
def answering(request):
    family, prompt = request.param
    processor = make_processor(prompt)
    return make_answering_model(processor, family), processor


GREEDY = GenerationConfig(max_new_tokens=12)


def test_greedy_text_at_batch_1_and_8(answering):
    model, processor = answering
    alone = generate(model, processor, MIXED, GREEDY, batch_size=1)
    assert generate(model, processor, MIXED, GREEDY, batch_size=8) == alone
    assert generate(model, processor, MIXED, GREEDY, batch_size=3) == alone
    assert len(set(alone)) > 4  # the prompts do matter
    assert generate(model, processor, MIXED[::-1], GREEDY, batch_size=8) == alone[::-1]


def test_greedy_text_is_the_likeliest_token_again_and_again(answering):
    model, processor = answering
    prompt = processor.prompt(MIXED[0])
    ids, new = prompt.input_ids[None], []
    for _ in range(12):
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=prompt.pixel_values, image_layouts=prompt.image_layouts).logits
        logits[..., processor.image_token_id] = float("-inf")
        logits[..., len(processor.tokenizer) :] = float("-inf")
        best = logits[0, -1].argmax()
        if int(best) in processor.stop_token_ids:
            break
        new.append(int(best))
        ids = torch.cat([ids, best[None, None]], dim=1)
    expected = processor.tokenizer.decode(new, skip_special_tokens=True)
    assert generate(model, processor, MIXED[:1], GREEDY) == [expected]


def test_beams_are_those_of_the_language_model_alone(answering):
    model, processor = answering
    config = GenerationConfig(max_new_tokens=6, num_beams=3, length_penalty=0.0)
    expected = []
    for sample in MIXED:
        prompt = processor.prompt(sample)
        with torch.no_grad():
            embeds = model.embed(prompt.input_ids[None], prompt.pixel_values, prompt.image_layouts)
            ids = model.language_model.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones_like(prompt.input_ids)[None],
                max_new_tokens=6,
                num_beams=3,
                length_penalty=0.0,
                do_sample=False,
                eos_token_id=list(processor.stop_token_ids),
                pad_token_id=processor.pad_token_id,
                suppress_tokens=model.generation_config.suppress_tokens,
            )
        expected += processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert generate(model, processor, MIXED, config, batch_size=1) == expected
    assert generate(model, processor, MIXED, config, batch_size=8) == expected
    assert expected != generate(model, processor, MIXED, dataclasses.replace(config, num_beams=1))


def test_beams_and_sampling_exclude_each_other():
    with pytest.raises(ValueError, match="num_beams must be at least 1, and 1 when sampling"):
        GenerationConfig(num_beams=2, temperature=1.0)


def test_the_picture_matters(answering):
    model, processor = answering
    red, blue = generate(model, processor, [ask(RED, "What is it?"), ask(BLUE, "What is it?")], GREEDY)
    assert red != blue


def favour(model, token: int, position: int) -> None:
    """Make `token` the likeliest one from the `position`-th new token on (and nothing special before)."""
    calls = []

    def hook(_module, _inputs, logits):
        calls.append(1)
        if len(calls) >= position:
            logits = logits.clone()
            logits[..., token] = 1e4
        return logits

    model.get_output_embeddings().register_forward_hook(hook)


@pytest.mark.parametrize("which", [0, 1])
def test_both_end_tokens_stop_and_are_not_shown(which):
    processor = make_processor("phi3")  # <|end|> and <|endoftext|>
    model = make_answering_model(processor)
    plain = generate(model, processor, MIXED[:1], GREEDY)[0]
    favour(model, processor.stop_token_ids[which], position=4)
    stopped = generate(model, processor, MIXED[:1], GREEDY)[0]
    assert len(stopped) < len(plain)
    assert plain.startswith(stopped)
    assert "<|" not in stopped


def test_the_placeholder_is_never_an_answer(answering):
    model, processor = answering
    favour(model, processor.image_token_id, position=2)
    assert "<image>" not in generate(model, processor, MIXED[:2], GREEDY)[0]


def test_sampling_repeats_with_its_seed_and_leaves_the_programs_draws_alone(answering):
    model, processor = answering
    drawn = [
        generate(model, processor, MIXED[:2], GenerationConfig(max_new_tokens=12, temperature=1.0, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    generate(model, processor, MIXED[:1], GenerationConfig(max_new_tokens=2, temperature=1.0, seed=5))
    assert torch.equal(torch.rand(1), expected)


def test_the_smallest_nucleus_is_greedy(answering):
    """Only the likeliest token lies within a probability of almost nothing, however hot the draw."""
    model, processor = answering
    nucleus = GenerationConfig(max_new_tokens=12, temperature=5.0, top_p=1e-6, seed=1)
    assert generate(model, processor, MIXED[:3], nucleus) == generate(model, processor, MIXED[:3], GREEDY)


def test_draws_by_hand():
    """Two tokens, the logit of "a" one above that of "b", at temperature 0.5: "a" has 1 / (1 + exp(-2)) = 0.881."""
    processor = make_processor("chatml")
    model = make_answering_model(processor, "llama")
    a, b = processor.tokenizer.convert_tokens_to_ids(["a", "b"])

    def two_tokens(_module, _inputs, logits):
        logits = torch.full_like(logits, float("-inf"))
        logits[..., a], logits[..., b] = 1.0, 0.0
        return logits

    model.get_output_embeddings().register_forward_hook(two_tokens)
    config = GenerationConfig(max_new_tokens=10, temperature=0.5)
    text = "".join(generate(model, processor, [ask("?")] * 50, config, batch_size=50))
    assert len(text) == 500
    assert text.count("a") / 500 == pytest.approx(0.881, abs=4 * (0.881 * 0.119 / 500) ** 0.5)  # without: 0.731


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equally_likely_tokens_the_first_is_written(dtype):
    """In bfloat16 many are equally likely."""
    logits = torch.zeros(2, 1000, dtype=dtype)
    logits[0, [700, 300, 999]] = 2.5
    greedy = [Chooser(GenerationConfig(max_new_tokens=1), row) for row in range(2)]
    assert choose(logits, greedy).tolist() == [300, 0]


@pytest.mark.parametrize("config", [GREEDY, GenerationConfig(max_new_tokens=12, temperature=1.0, seed=3)])
def test_streamed_text_is_the_generated_text(answering, config):
    model, processor = answering
    for sample in MIXED[:4]:
        assert "".join(stream(model, processor, sample, config)) == generate(model, processor, [sample], config)[0]


def test_streaming_comes_in_pieces():
    processor = make_processor("phi3")
    model = make_answering_model(processor)
    favour(model, processor.tokenizer.convert_tokens_to_ids("Ġ"), position=3)  # after a blank, a piece is complete
    assert len(list(stream(model, processor, MIXED[0], GREEDY))) > 5


def test_closing_a_stream_stops_the_model():
    processor = make_processor("phi3")
    model = make_answering_model(processor)
    favour(model, processor.tokenizer.convert_tokens_to_ids("Ġ"), position=1)
    steps = []
    model.get_output_embeddings().register_forward_hook(lambda *_: steps.append(1))
    pieces = stream(model, processor, MIXED[0], GenerationConfig(max_new_tokens=500))
    next(pieces)
    pieces.close()
    assert len(steps) < 400
    assert not any(thread.name == "generate" for thread in threading.enumerate())


def test_what_fails_while_streaming_is_raised_where_it_is_read(answering):
    model, processor = answering
    model.language_model.forward = lambda **_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(stream(model, processor, MIXED[0], GREEDY))


def test_unusable_samples_are_refused(answering):
    model, processor = answering
    broken = Picture(source=b"no picture", name="broken.png")
    with pytest.raises(ImageError, match=r"broken.png"):
        generate(model, processor, [ask(broken, "What?")], GREEDY)
    with pytest.raises(ImageError, match=r"broken.png"):
        next(stream(model, processor, ask(broken, "What?"), GREEDY))
    with pytest.raises(PromptTooLong):
        generate(model, processor, [ask("long " * 1000)], GREEDY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        GenerationConfig(**settings)


def test_generation_needs_no_training_mode(answering):
    model, processor = answering
    model.train()
    generate(model, processor, MIXED[:1], GREEDY)
    assert not model.training


def test_hugging_faces_way_gives_the_same_answers(answering):
    """Chat template, processor call and `generate` with the model's own settings, as users of transformers do it."""
    model, processor = answering
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    pictures = [Image.open(io.BytesIO(picture.source)) for picture in (RED, WIDE)]
    inputs = processor(images=[[picture] for picture in pictures], text=[text, text])
    ids = model.generate(**inputs, max_new_tokens=12)
    answers = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answers == generate(model, processor, [ask(RED, "What is it?"), ask(WIDE, "What is it?")], GREEDY)

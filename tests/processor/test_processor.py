"""Samples -> examples: tokens, labels, tiles; limits; prompts and continuations; saving and loading."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_tokenizers import KINDS, config, letters, phi3, smollm2

from xgenmm.config import ConfigError
from xgenmm.processor.images import ImageError
from xgenmm.processor.processor import ProcessorConfig, PromptTooLong, XGenMMProcessor
from xgenmm.types import IGNORE_INDEX, Conversation, Document, Example, Given, Part, Picture, Preference, Turn


def picture(width: int = 20, height: int = 10, colour: str | tuple[int, int, int] = "red") -> Picture:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return Picture(source=file.getvalue(), name=f"{colour}.png")


def talk(*contents: str | tuple[Part, ...]) -> Conversation:
    parts = [content if isinstance(content, tuple) else (content,) for content in contents]
    roles = ("user", "assistant")
    return Conversation(id="talk", turns=tuple(Turn(role=roles[i % 2], parts=part) for i, part in enumerate(parts)))


@pytest.fixture
def processor() -> XGenMMProcessor:
    return XGenMMProcessor(letters("chatml"), config("chatml", system="Be brief."))


def tokens(processor: XGenMMProcessor, ids: torch.Tensor) -> list[str]:
    return processor.tokenizer.convert_ids_to_tokens(ids.tolist())


def targets(processor: XGenMMProcessor, example: Example) -> str:
    """What is supervised, as one text."""
    return processor.tokenizer.decode(example.labels[example.labels != IGNORE_INDEX])


# By hand: special tokens and plain text in order, and whether the model has to predict it. One token a letter; Phi-3's
# chat tokens swallow the line break behind them.
GOLDEN = {
    "chatml": [
        ("<|im_start|>", 0), ("system\nBe brief.", 0), ("<|im_end|>", 0), ("\n", 0),
        ("<|im_start|>", 0), ("user\n", 0), ("<image>", 0), ("<image>", 0), ("<image>", 0), ("\nWhat?", 0),
        ("<|im_end|>", 0), ("\n", 0), ("<|im_start|>", 0), ("assistant\n", 0), ("A cat.", 1), ("<|im_end|>", 1),
        ("\n", 0), ("<|im_start|>", 0), ("user\nSure?", 0), ("<|im_end|>", 0), ("\n", 0),
        ("<|im_start|>", 0), ("assistant\n", 0), ("Yes", 1), ("<|im_end|>", 1), ("\n", 0),
        ("<|im_start|>", 0), ("user\nNo?", 0), ("<|im_end|>", 0), ("\n", 0),
        ("<|im_start|>", 0), ("assistant\n", 0), ("No.", 1), ("<|im_end|>", 1), ("\n", 0),
    ],
    "phi3": [
        ("<|system|>", 0), ("Be brief.", 0), ("<|end|>", 0),
        ("<|user|>", 0), ("<image>", 0), ("<image>", 0), ("<image>", 0), ("\nWhat?", 0), ("<|end|>", 0),
        ("<|assistant|>", 0), ("A cat.", 1), ("<|end|>", 1), ("<|user|>", 0), ("Sure?", 0), ("<|end|>", 0),
        ("<|assistant|>", 0), ("Yes", 1), ("<|end|>", 1), ("<|user|>", 0), ("No?", 0), ("<|end|>", 0),
        ("<|assistant|>", 0), ("No.", 1), ("<|end|>", 1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("prompt", GOLDEN)
def test_golden_talk_of_three_turns(prompt: str):
    processor = XGenMMProcessor(letters(prompt), config(prompt, system="Be brief."))
    example = processor.example(talk((picture(), "What?"), "A cat.", "Sure?", "Yes", "No?", "No."))
    expected: list[tuple[str, int]] = []
    for piece, flag in GOLDEN[prompt]:
        expected += [(piece, flag)] if piece.startswith("<") else [(letter, flag) for letter in piece]
    assert [processor.tokenizer.decode(i) for i in example.input_ids] == [token for token, _ in expected]
    ids = example.input_ids.tolist()
    following = zip(ids[1:], expected[1:], strict=True)
    assert example.labels.tolist() == [*(i if flag else IGNORE_INDEX for i, (_, flag) in following), IGNORE_INDEX]


def test_documents_supervise_text_and_the_end_of_sequence(processor: XGenMMProcessor):
    example = processor.example(Document(id="d", parts=(picture(), "cat", picture(), "dog")))
    image = ["<image>"] * 3
    assert tokens(processor, example.input_ids) == [
        *image, "c", "a", "t", "<|endofchunk|>", *image, "d", "o", "g", "<|endofchunk|>", "<|im_end|>"
    ]  # fmt: skip
    # spec 1.8: -100 at special tokens that were added, so <|endofchunk|> is no target, but the end of sequence is
    assert targets(processor, example) == "catdog<|im_end|>"
    # the first letter is predicted from the last vision token
    assert example.labels[2] == example.input_ids[3]


def test_text_only_and_several_pictures(processor: XGenMMProcessor):
    example = processor.example(talk("Hello", "Hi"))
    assert example.pixel_values.shape == (0, 3, 8, 8)
    assert example.image_layouts.shape == (0, 4)
    parts = ("First ", picture(30, 10, (255, 0, 0)), " then ", picture(10, 40, (0, 0, 255)), ". Which?")
    example = processor.example(talk(parts, "Red"))
    assert processor.tokenizer.decode(example.input_ids).count("First <image><image><image> then <image>") == 1
    assert example.image_layouts.tolist() == [[0, 0, 10, 30], [0, 0, 40, 10]]
    # 0 and 255 by mean and std 0.5: -1 and 1
    assert example.pixel_values[:, :, 0, 0].tolist() == [[1, -1, -1], [-1, -1, 1]]


def test_pixels_are_normalised_by_channel():
    settings = config("chatml", mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    example = XGenMMProcessor(smollm2(), settings).example(talk((picture(8, 8, (255, 51, 102)),), "x"))
    # red: 1 - 0.5, by 0.5; green: 0.2 - 0.25, by 0.25; blue: 0.4, by 2
    assert example.pixel_values[0, :, 3, 3].tolist() == pytest.approx([1.0, -0.2, 0.2], abs=1e-6)


def test_pixels_equal_transformers_own_preparation():
    from transformers import SiglipImageProcessorPil

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8))
    theirs = SiglipImageProcessorPil(size={"height": 16, "width": 16}, resample=Image.Resampling.BICUBIC)(noise)
    processor = XGenMMProcessor(smollm2(), config("chatml", tile=16))
    ours = processor(text="<image>", images=noise)["pixel_values"]
    assert np.abs(ours.numpy() - np.stack(theirs["pixel_values"])).max() < 1e-6


def test_any_resolution_counts_a_tile_by_tile():
    grids = ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))
    processor = XGenMMProcessor(phi3(), config("phi3", tile=384, tokens_per_tile=128, grids=grids))
    # spec 1.6: 640 x 480 -> 2 x 2 tiles, 640 tokens; 1000 x 300 -> 1 x 3 tiles, 512 tokens
    example = processor.example(talk((picture(640, 480), picture(1000, 300), "Which?"), "One"))
    assert (example.input_ids == processor.image_token_id).sum() == 640 + 512
    assert example.pixel_values.shape == (5 + 4, 3, 384, 384)
    assert example.image_layouts.tolist() == [[2, 2, 480, 640], [1, 3, 300, 1000]]
    assert example.pixel_values[1, :, 0, 0].tolist() == [-1, -1, -1]  # black padding above a 4:3 picture on a square


def test_layouts_speak_of_the_upright_picture(processor: XGenMMProcessor):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (30, 10)).save(file, "JPEG", exif=exif)
    example = processor.example(talk((Picture(source=file.getvalue(), name="p"),), "x"))
    assert example.image_layouts.tolist() == [[0, 0, 30, 10]]


def test_preferences_supervise_only_the_answers(processor: XGenMMProcessor):
    prompt = talk((picture(), "What?"), "A dog", "Sure?")
    chosen, rejected = processor.pair(Preference(id="p", prompt=prompt, chosen="No, a cat", rejected="Yes"))
    assert (chosen.id, rejected.id) == ("p", "p")
    assert targets(processor, chosen) == "No, a cat<|im_end|>"
    assert targets(processor, rejected) == "Yes<|im_end|>"
    length = len(processor.prompt(prompt).input_ids)
    assert torch.equal(chosen.input_ids[:length], rejected.input_ids[:length])
    assert chosen.pixel_values is rejected.pixel_values  # opened once
    assert chosen.pixel_values.shape == (1, 3, 8, 8)


def test_prompts_end_with_the_assistants_opening(processor: XGenMMProcessor):
    prompt = processor.prompt(talk((picture(), "What?")))
    assert processor.tokenizer.decode(prompt.input_ids).endswith("What?<|im_end|>\n<|im_start|>assistant\n")
    assert set(prompt.labels.tolist()) == {IGNORE_INDEX}
    with pytest.raises(ValueError, match=r"talk: a prompt must end with the user's turn.*assistant"):
        processor.prompt(talk("Hi", "Hello"))
    with pytest.raises(ValueError, match="nobody"):
        processor.prompt(Conversation(id="empty", turns=()))


def test_prompts_of_documents_have_no_end(processor: XGenMMProcessor):
    few_shot = Document(id="d", parts=(picture(), "Output:A cat.", picture(), "Output:"))
    ids = processor.prompt(few_shot).input_ids
    assert processor.tokenizer.decode(ids).endswith("A cat.<|endofchunk|><image><image><image>Output:")


def test_rendered_text_may_spell_special_tokens(processor: XGenMMProcessor):
    pictures = [picture(), picture(colour="blue")]
    text = "<image>Output:A cat.<|endofchunk|>\n<image>Output:"
    example = processor.rendered("d", text, pictures)
    assert processor.tokenizer.decode(example.input_ids) == text.replace("<image>", "<image>" * 3)
    assert len(example.pixel_values) == 2
    assert (example.labels == IGNORE_INDEX).all()
    with pytest.raises(ValueError, match="d: 2 <image> in the text for 1 pictures"):
        processor.rendered("d", text, pictures[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_continuation_make_the_example(kind: str):
    prompt_name, make = KINDS[kind]
    processor = XGenMMProcessor(make(), config(prompt_name))
    question = (picture(), "What is in this picture?")
    whole = processor.example(talk(question, "A cat, a dog."))
    joined = processor.continuation(processor.prompt(talk(question)), "A cat, a dog.", end=True)
    length = len(joined.input_ids)  # the example has the separator behind the last turn, if its tokenizer writes it
    assert torch.equal(joined.input_ids, whole.input_ids[:length])
    assert torch.equal(joined.labels, whole.labels[:length])
    assert len(whole.input_ids) - length == (1 if kind == "byte-level chatml" else 0)

    whole = processor.example(Document(id="d", parts=(picture(), "A cat.")))
    joined = processor.continuation(processor.prompt(Document(id="d", parts=(picture(),))), "A cat.", end=True)
    assert torch.equal(joined.input_ids, whole.input_ids)
    assert torch.equal(joined.labels, whole.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_and_its_continuation_make_the_example(kind: str):
    prompt_name, make = KINDS[kind]
    processor = XGenMMProcessor(make(), config(prompt_name))
    given = (picture(), Given(text="What is in this picture?"))
    whole = processor.example(Document(id="d", parts=(*given, " A cat.")))
    joined = processor.continuation(processor.prompt(Document(id="d", parts=given)), " A cat.", end=True)
    assert torch.equal(joined.input_ids, whole.input_ids)
    assert torch.equal(joined.labels, whole.labels)
    assert targets(processor, whole).lstrip().startswith("A cat.")


@pytest.mark.parametrize("kind", KINDS)
def test_continuations_of_text_go_on_within_the_text(kind: str):
    prompt_name, make = KINDS[kind]
    processor = XGenMMProcessor(make(), config(prompt_name))
    prompt = processor.prompt(Document(id="d", parts=(picture(), "Describe the picture:")))
    joined = processor.continuation(prompt, " a cat")
    assert targets(processor, joined).strip() == "a cat"
    text = processor.tokenizer.decode(joined.input_ids[3:], skip_special_tokens=True)
    assert text.strip() == "Describe the picture: a cat"
    assert joined.pixel_values is prompt.pixel_values


def test_a_continuation_without_a_prompt(processor: XGenMMProcessor):
    nothing = processor.prompt(Document(id="d", parts=()))
    assert nothing.input_ids.tolist() == []
    joined = processor.continuation(nothing, "cat")
    assert tokens(processor, joined.input_ids) == ["c", "a", "t"]
    assert targets(processor, joined) == "at"  # nobody predicts the first token


def test_the_prefix_of_documents(processor: XGenMMProcessor):
    other = XGenMMProcessor(smollm2(), dataclasses.replace(processor.config, document_prefix="Picture: "))
    document = Document(id="d", parts=(picture(), "a cat"))
    example = other.example(document)
    assert other.tokenizer.decode(example.input_ids).startswith("Picture: <image><image><image>a cat<|endofchunk|>")
    assert targets(other, example) == "a cat<|im_end|>"


def test_too_long_names_both_counts():
    processor = XGenMMProcessor(letters("phi3"), config("phi3", max_tokens=12, system=""))
    # <|user|>, 3 vision tokens, a line break, 3 letters, <|end|>, <|assistant|>, a letter, <|end|>
    assert len(processor.example(talk((picture(), "cat"), "x")).input_ids) == 12
    message = r"talk: 13 tokens \(3 of them vision tokens\), but max_tokens is 12: "
    with pytest.raises(PromptTooLong, match=message) as caught:
        processor.example(talk((picture(), "cats"), "x"))
    assert (caught.value.sample_id, caught.value.tokens, caught.value.max_tokens) == ("talk", 13, 12)
    with pytest.raises(PromptTooLong):
        processor.prompt(talk("a long question"))
    with pytest.raises(PromptTooLong):
        processor.continuation(processor.prompt(talk("short")), "a long answer")


def test_an_unusable_picture_is_named(processor: XGenMMProcessor):
    with pytest.raises(ImageError, match=r"no\.jpg: "):
        processor.example(talk((Picture(source=b"<html>", name="no.jpg"),), "x"))


def test_stop_and_padding(processor: XGenMMProcessor):
    assert processor.tokenizer.convert_ids_to_tokens(list(processor.stop_token_ids)) == ["<|im_end|>"]
    assert processor.tokenizer.pad_token == "<pad>"
    other = XGenMMProcessor(phi3(), config("phi3"))
    assert other.tokenizer.convert_ids_to_tokens(list(other.stop_token_ids)) == ["<|end|>", "<|endoftext|>"]


def test_saving_and_loading_gives_equal_examples(tmp_path: Path):
    for kind, (prompt_name, make) in KINDS.items():
        settings = config(prompt_name, grids=((2, 1), (1, 2)), system="It's\n{{ x }}", mean=(0.1, 0.2, 0.3))
        processor = XGenMMProcessor(make(), settings)
        folder = tmp_path / kind
        processor.save_pretrained(folder)
        loaded = XGenMMProcessor.from_pretrained(folder)
        assert loaded.config == settings
        assert loaded.chat_template == loaded.tokenizer.chat_template == processor.chat_template
        assert loaded.tokenizer.get_added_vocab() == processor.tokenizer.get_added_vocab()
        sample = talk((picture(30, 40), "What is <|end|> <|im_end|>?\n"), "  A cat.")
        ours, theirs = processor.example(sample), loaded.example(sample)
        for field in ("input_ids", "labels", "pixel_values", "image_layouts"):
            assert torch.equal(getattr(ours, field), getattr(theirs, field)), (kind, field)
        assert not list(folder.glob("*.py"))


def test_the_settings_file_is_plain_and_checked(tmp_path: Path):
    XGenMMProcessor(smollm2(), config("chatml")).save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    settings = json.loads(path.read_text())
    assert settings["processor_class"] == "XGenMMProcessor"
    assert settings["prompt"] == "chatml"
    path.write_text(json.dumps(settings | {"tiles": 3}))
    with pytest.raises(ConfigError, match=r'processor_config\.json: unknown setting "tiles".*"tile"'):
        XGenMMProcessor.from_pretrained(tmp_path)


def test_wrong_settings():
    with pytest.raises(ValueError, match='no prompt format "llama"; known are: phi3, chatml'):
        XGenMMProcessor(smollm2(), config("llama"))
    tokenizer = smollm2()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        XGenMMProcessor(tokenizer, config("chatml"))


def test_settings_have_the_papers_system_text():
    settings = ProcessorConfig(
        prompt="phi3", tile=384, mean=(0.5,) * 3, std=(0.5,) * 3, grids=(), tokens_per_tile=128, max_tokens=4096
    )
    text = XGenMMProcessor(phi3(), settings).apply_chat_template([{"role": "user", "content": "Hi"}])
    assert text.startswith("<|system|>\nA chat between a curious user and an artificial intelligence assistant. ")

"""The processor as Hugging Face users call it."""

import pytest
import torch
from PIL import Image
from test_processor import picture, talk
from toy_tokenizers import KINDS, config, smollm2

from xgenmm.processor.processor import PromptTooLong, XGenMMProcessor
from xgenmm.types import Part

RED = Image.new("RGB", (20, 10), "red")
BLUE = Image.new("RGB", (20, 10), "blue")


@pytest.fixture
def processor() -> XGenMMProcessor:
    return XGenMMProcessor(smollm2(), config("chatml"))


def test_what_calling_gives(processor: XGenMMProcessor):
    inputs = processor(text=["<image>What?", "Hi"], images=RED, return_tensors="pt")
    assert list(inputs) == ["input_ids", "attention_mask", "pixel_values", "image_layouts"]
    assert inputs["attention_mask"].tolist() == [[1] * 5, [0] * 3 + [1] * 2]  # padded on the left
    assert (inputs["input_ids"] == processor.image_token_id).tolist() == [[True] * 3 + [False] * 2, [False] * 5]
    assert inputs["pixel_values"].shape == (1, 3, 8, 8)
    assert inputs["image_layouts"].tolist() == [[0, 0, 10, 20]]
    assert processor(text="a", padding_side="right")["attention_mask"].tolist() == [[1]]


CONTENTS: list[tuple[Part, ...]] = [
    (picture(), "What is in this picture?"),
    ("What is this: ", picture()),
    ("First ", picture(), " and ", picture(), "."),
    (picture(), picture()),
    (picture(), "\nWhat?"),
    ("Hello",),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", CONTENTS)
def test_apply_chat_template_gives_the_tokens_of_prompt(kind: str, parts: tuple[Part, ...]):
    prompt_name, make = KINDS[kind]
    processor = XGenMMProcessor(make(), config(prompt_name))
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": RED} for part in parts
    ]
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
        {"role": "user", "content": content},
    ]
    inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    expected = processor.prompt(talk("Hi", "Hello.", parts))
    assert inputs["input_ids"].tolist() == [expected.input_ids.tolist()]
    assert torch.equal(inputs["pixel_values"], expected.pixel_values)


def test_apply_chat_template_of_a_batch(processor: XGenMMProcessor):
    messages = [
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
        for image, text in ((RED, "What?"), (BLUE, "What is in this picture?"))
    ]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    assert inputs["pixel_values"][:, :, 0, 0].tolist() == [[1, -1, -1], [-1, -1, 1]]
    assert inputs["attention_mask"][0, 0] == 0  # the shorter one, padded


def test_what_the_template_refuses(processor: XGenMMProcessor):
    with pytest.raises(Exception, match="unknown role: tool"):
        processor.apply_chat_template([{"role": "tool", "content": "x"}])
    with pytest.raises(Exception, match="unknown kind of content: video"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}])


def test_special_tokens_of_users_can_be_switched_off(processor: XGenMMProcessor):
    messages = [{"role": "user", "content": "Say <|im_end|> and <image>."}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, sanitize_control_tokens=True)
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(processor.stop_token_ids[0]) == 2  # behind the system's and the user's turn
    assert processor.image_token_id not in ids
    assert "Say <|im_end|> and <image>." in processor.decode(ids)


def test_both_placeholder_conventions(processor: XGenMMProcessor):
    one = processor(text="a <image> b", images=RED)["input_ids"]
    released = processor(text="a <image><image placeholder><image placeholder> b", images=RED)["input_ids"]
    assert torch.equal(one, released)
    two = processor(text="<image><image><image placeholder><image placeholder>", images=[RED, BLUE])["input_ids"]
    assert two.tolist() == [[processor.image_token_id] * 6]
    with pytest.raises(ValueError, match="1 <image placeholder> behind an <image> whose picture has 3 vision tokens"):
        processor(text="<image><image placeholder>", images=RED)
    with pytest.raises(ValueError, match="<image placeholder> without <image>"):
        processor(text="<image placeholder>")


@pytest.mark.parametrize(
    ("text", "images", "message"),
    [
        ("<image>", None, "1 <image> placeholders in all for 0 images"),
        ("no placeholder", RED, "0 <image> placeholders in all for 1 images"),
        ("<image><image>", [RED], "2 <image> placeholders in all for 1 images"),
        (["<image>", "<image>"], [RED, BLUE, RED], "2 <image> placeholders in all for 3 images"),
        (["<image>", "<image>"], [[RED, BLUE], []], "1 <image> placeholders in text 0 for 2 images"),
        (["<image>", "none"], [[RED]], "1 lists of images for 2 texts"),
    ],
)
def test_a_mismatch_names_both_counts(processor: XGenMMProcessor, text: object, images: object, message: str):
    with pytest.raises(ValueError, match=message):
        processor(text=text, images=images)


def test_truncation_never_parts_an_image_from_its_text(processor: XGenMMProcessor):
    with pytest.raises(ValueError, match="0 <image> placeholders in all for 1 images"):
        processor(text="What is <image>", images=RED, truncation=True, max_length=2)


def test_nested_and_flat_lists_of_images(processor: XGenMMProcessor):
    texts = ["<image>a<image>", "b", "<image>"]
    flat = processor(text=texts, images=[RED, BLUE, RED])
    nested = processor(text=texts, images=[[RED, BLUE], [], [RED]])
    gaps = processor(text=texts, images=[[RED, BLUE], None, [RED]])
    for other in (nested, gaps):
        assert all(torch.equal(flat[name], other[name]) for name in flat)
    assert flat["pixel_values"][:, 0, 0, 0].tolist() == [1, -1, 1]


def test_other_wrong_calls(processor: XGenMMProcessor):
    with pytest.raises(ValueError, match="needs text"):
        processor(images=RED)
    with pytest.raises(ValueError, match=r"of \[1, 4\] tokens"):
        processor(text=["a", "zqzq"], padding=False)
    with pytest.raises(ValueError, match='return_tensors="np"'):
        processor(text="a", return_tensors="np")
    small = XGenMMProcessor(smollm2(), config("chatml", max_tokens=5))
    with pytest.raises(PromptTooLong, match="text 1: 6 tokens"):
        small(text=["a", "<image>zqj"], images=RED)


def test_decoding(processor: XGenMMProcessor):
    ids = processor(text="<|im_start|>assistant\nA cat.<|im_end|>")["input_ids"]
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["assistant\nA cat."]
    assert processor.model_input_names == ["input_ids", "attention_mask", "pixel_values", "image_layouts"]

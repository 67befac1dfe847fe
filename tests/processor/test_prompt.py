"""Renderings: golden talks written by hand, and token for token what the tokenizers' own templates give."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tokenizers import KINDS, config

from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.processor.prompt import DEFAULT_SYSTEM, PROMPTS, Special, Text, render_conversation, render_document
from xgenmm.types import Conversation, Document, Given, Part, Picture, Turn

PICTURE = Picture(source=b"", name="one")
OTHER = Picture(source=b"", name="two")


def talk(*contents: str | tuple[Part, ...], system: str | None = None) -> Conversation:
    """Turns of user and assistant in alternation, behind a system turn if there is one."""
    turns = [] if system is None else [Turn(role="system", parts=(system,))]
    for index, content in enumerate(contents):
        parts = content if isinstance(content, tuple) else (content,)
        turns.append(Turn(role="assistant" if index % 2 else "user", parts=parts))
    return Conversation(id="talk", turns=tuple(turns))


def written(segments: list, supervised: bool | None = None) -> str:
    """The rendering as one text; only what is supervised (or not), if asked."""
    pieces = []
    for segment in segments:
        flag = not isinstance(segment, Picture) and segment.supervised
        if supervised is None or flag == supervised:
            pieces.append(
                "<image>"
                if isinstance(segment, Picture)
                else segment.text
                if isinstance(segment, Text)
                else segment.token
            )
    return "".join(pieces)


THREE_TURNS = talk((PICTURE, "What is it?"), "A cat.", "Its colour?", "Black.", "Sure?", "Yes.")


def test_three_turns_in_phi3():
    segments = render_conversation(PROMPTS["phi3"], THREE_TURNS, DEFAULT_SYSTEM)
    # spec 3.1
    assert written(segments) == (
        "<|system|>\nA chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions.<|end|>\n"
        "<|user|>\n<image>\nWhat is it?<|end|>\n<|assistant|>\nA cat.<|end|>\n"
        "<|user|>\nIts colour?<|end|>\n<|assistant|>\nBlack.<|end|>\n"
        "<|user|>\nSure?<|end|>\n<|assistant|>\nYes.<|end|>\n"
    )
    assert written(segments, supervised=True) == "A cat.<|end|>Black.<|end|>Yes.<|end|>"


def test_three_turns_in_chatml():
    segments = render_conversation(PROMPTS["chatml"], THREE_TURNS, "Be brief.")
    assert written(segments) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nIts colour?<|im_end|>\n<|im_start|>assistant\nBlack.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
    )
    assert written(segments, supervised=True) == "A cat.<|im_end|>Black.<|im_end|>Yes.<|im_end|>"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((PICTURE, "What?"), "<image>\nWhat?"),
        ((PICTURE, "\nWhat?"), "<image>\nWhat?"),
        (("What?", PICTURE), "What?<image>"),
        (("What?\n", PICTURE), "What?\n<image>"),
        (("See ", PICTURE, "here."), "See <image>\nhere."),
        ((PICTURE, OTHER, "Which one?"), "<image><image>Which one?"),
        (("First ", PICTURE, " then ", OTHER, "."), "First <image> then <image>."),
        ((PICTURE,), "<image>"),
        (("Hello",), "Hello"),
    ],
)
def test_where_pictures_stand_in_a_users_turn(parts: tuple[Part, ...], text: str):
    segments = render_conversation(PROMPTS["phi3"], talk(parts), "")
    assert written(segments) == f"<|user|>\n{text}<|end|>\n"


def test_the_system_turn():
    chat = PROMPTS["chatml"]
    own = talk("Hello", "Salve", system="Speak Latin.")
    assert written(render_conversation(chat, own, DEFAULT_SYSTEM)).startswith(
        "<|im_start|>system\nSpeak Latin.<|im_end|>"
    )
    assert written(render_conversation(chat, talk("Hello"), "")).startswith("<|im_start|>user\n")
    assert written(render_conversation(chat, own, DEFAULT_SYSTEM), supervised=True) == "Salve<|im_end|>"


def test_only_turns_from_a_given_one_on_are_supervised():
    segments = render_conversation(PROMPTS["phi3"], THREE_TURNS, "", supervised_from=4)
    assert written(segments, supervised=True) == "Yes.<|end|>"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((PICTURE, "a cat"), "<image>a cat"),
        ((PICTURE, "a cat", OTHER, "a dog"), "<image>a cat<|endofchunk|><image>a dog"),
        (("Two:", PICTURE, "a cat", OTHER, "a dog"), "Two:<image>a cat<|endofchunk|><image>a dog"),
        ((PICTURE, OTHER, "both"), "<image><image>both"),
        ((PICTURE, "", OTHER, "both"), "<image><image>both"),
        (("only ", "words"), "only words"),
        ((PICTURE,), "<image>"),
    ],
)
def test_documents(parts: tuple[Part, ...], text: str):
    # spec 4.1: <|endofchunk|> in front of every picture's chunk but the first
    segments = render_document(Document(id="d", parts=parts), "")
    assert written(segments) == text
    assert written(segments, supervised=True) == "".join(part for part in parts if isinstance(part, str))


def test_what_is_given_is_not_supervised():
    parts = (PICTURE, Given(text=" shows"), " a cat", OTHER, Given(text=""), "a dog")
    segments = render_document(Document(id="d", parts=parts), "")
    assert written(segments) == "<image> shows a cat<|endofchunk|><image>a dog"
    assert written(segments, supervised=True) == " a cata dog"
    talked = talk((PICTURE, Given(text="\nWhat?")), (Given(text="It is "), "a cat."))
    segments = render_conversation(PROMPTS["phi3"], talked, "")
    assert written(segments) == "<|user|>\n<image>\nWhat?<|end|>\n<|assistant|>\nIt is a cat.<|end|>\n"
    assert written(segments, supervised=True) == "a cat.<|end|>"


def test_the_prefix_of_documents_is_not_supervised():
    segments = render_document(Document(id="d", parts=(PICTURE, "a cat")), "Picture: ")
    assert written(segments) == "Picture: <image>a cat"
    assert written(segments, supervised=True) == "a cat"


def test_segments_are_what_a_format_writes():
    assert render_conversation(PROMPTS["chatml"], talk("Hi"), "") == [
        Special("<|im_start|>"),
        Text("user\n"),
        Text("Hi"),
        Special("<|im_end|>"),
        Text("\n"),
    ]


def make_pair(kind: str) -> tuple[XGenMMProcessor, str]:
    """A processor, and the chat template that its tokenizer had of its own."""
    prompt, make = KINDS[kind]
    tokenizer = make()
    own = tokenizer.chat_template
    return XGenMMProcessor(tokenizer, config(prompt, max_tokens=100_000)), own


PAIRS = {kind: make_pair(kind) for kind in KINDS}

text = st.text(alphabet=st.sampled_from("aeW .?\n\t  é\u2009<>|{}'\\😀"), max_size=20)
# an answer's own white space at its start is another matter: see the test below
answer = text.map(str.lstrip)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(contents=st.lists(st.tuples(text, answer), min_size=1, max_size=3), system=text)
def test_tokens_of_the_tokenizers_own_template(kind: str, contents: list[tuple[str, str]], system: str):
    processor, own = PAIRS[kind]
    turns = talk(*(content for pair in contents for content in pair), system=system).turns
    messages = [{"role": turn.role, "content": turn.parts[0]} for turn in turns]
    ours = processor.example(Conversation(id="t", turns=turns)).input_ids.tolist()
    theirs = processor.tokenizer.apply_chat_template(messages, chat_template=own, return_dict=False)
    assert ours == theirs
    prompt = processor.prompt(Conversation(id="t", turns=turns[:-1])).input_ids.tolist()
    theirs = processor.tokenizer.apply_chat_template(
        messages[:-1], chat_template=own, add_generation_prompt=True, return_dict=False
    )
    assert prompt == theirs


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(question=text, reply=text)
def test_a_prompt_is_the_beginning_of_its_example(kind: str, question: str, reply: str):
    processor, _ = PAIRS[kind]
    whole = processor.example(talk(question, reply)).input_ids.tolist()
    prompt = processor.prompt(talk(question)).input_ids.tolist()
    assert whole[: len(prompt)] == prompt


@pytest.mark.parametrize("kind", KINDS)
def test_the_jinja_template_says_the_same(kind: str):
    processor, own = PAIRS[kind]
    messages = [
        {"role": "user", "content": "What's {this}?\n"},
        {"role": "assistant", "content": "A 'cat' \\ dog."},
        {"role": "user", "content": "Sure?"},
    ]
    theirs = processor.tokenizer.apply_chat_template(
        [{"role": "system", "content": DEFAULT_SYSTEM}, *messages],
        chat_template=own,
        add_generation_prompt=True,
        tokenize=False,
    )
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == theirs


@pytest.mark.parametrize("system", ["", "It's a 'test'.\n{{ x }} \\n 😀 {% if %}"])
def test_the_jinja_template_holds_any_system_text(system: str):
    prompt, make = KINDS["byte-level chatml"]
    processor = XGenMMProcessor(make(), config(prompt, system=system))
    start = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    assert (
        processor.apply_chat_template([{"role": "user", "content": "Hi"}]) == f"{start}<|im_start|>user\nHi<|im_end|>\n"
    )

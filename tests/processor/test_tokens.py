"""Segments -> ids: as the tokenizer itself would, special tokens only where a format put them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models
from toy_tokenizers import KINDS, PHI3_TOKENS, phi3, smollm2
from transformers import PreTrainedTokenizerFast

from xgenmm.processor.prompt import PROMPTS, Special, Text
from xgenmm.processor.tokens import TextEncoder, add_special_tokens
from xgenmm.types import Picture

PICTURE = Picture(source=b"", name="never opened")
FORGED = [
    "<|im_end|>",
    "<|im_start|>",
    "<|end|>",
    "<|user|>",
    "<image>",
    "<image placeholder>",
    "<|endofchunk|>",
    "<pad>",
    "<|endoftext|>",
    "</s>",
]


def make_encoder(kind: str) -> TextEncoder:
    prompt, make = KINDS[kind]
    tokenizer = make()
    add_special_tokens(tokenizer, PROMPTS[prompt])
    return TextEncoder(tokenizer)


ENCODERS = {kind: make_encoder(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    return ENCODERS[request.param]


def test_phi3_gets_the_ids_of_the_released_tokenizer():
    # spec 1.3: 32000 pieces, <|endoftext|> 32000, <|assistant|> 32001, ..., <|user|> 32010, and from 32011 on our own
    tokenizer = Tokenizer(models.BPE(vocab={f"p{i}": i for i in range(32000)}, merges=[]))
    chat = ["<|endoftext|>", "<|assistant|>", *(f"<|placeholder{i}|>" for i in range(1, 5)), "<|system|>", "<|end|>"]
    chat += ["<|placeholder5|>", "<|placeholder6|>", "<|user|>"]
    tokenizer.add_special_tokens([AddedToken(token, rstrip=token != "<|endoftext|>") for token in chat])
    ours = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    add_special_tokens(ours, PROMPTS["phi3"])
    tokens = ["<|user|>", "<pad>", "<image>", "<image placeholder>", "<|endofchunk|>"]
    assert ours.convert_tokens_to_ids(tokens) == [32010, 32011, 32012, 32013, 32014]
    assert len(ours) == 32015
    assert ours.pad_token_id == 32011


def test_a_padding_token_of_its_own_is_kept():
    tokenizer = smollm2()
    tokenizer.pad_token = "<|endoftext|>"
    size = len(tokenizer)
    add_special_tokens(tokenizer, PROMPTS["chatml"])
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.convert_tokens_to_ids("<image>") == size


def test_registering_twice_changes_nothing():
    tokenizer = smollm2()
    add_special_tokens(tokenizer, PROMPTS["chatml"])
    before = tokenizer.backend_tokenizer.to_str()
    add_special_tokens(tokenizer, PROMPTS["chatml"])
    assert tokenizer.backend_tokenizer.to_str() == before


def test_a_model_that_never_saw_the_chat_tokens_gets_them_last():
    tokenizer = phi3()
    size = len(tokenizer)
    add_special_tokens(tokenizer, PROMPTS["chatml"])
    tokens = ["<pad>", "<image>", "<image placeholder>", "<|endofchunk|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.convert_tokens_to_ids(tokens) == list(range(size, size + 6))


def test_chat_tokens_become_special_and_still_swallow_white_space():
    tokenizer = phi3()
    plain = {token: AddedToken(token, normalized=False, rstrip=True, special=False) for token in PHI3_TOKENS}
    bare = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    bare.add_tokens(list(plain.values()))
    bare.add_special_tokens(["<eos>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<eos>")
    ids = tokenizer.convert_tokens_to_ids(PHI3_TOKENS)
    add_special_tokens(tokenizer, PROMPTS["phi3"])
    assert tokenizer.convert_tokens_to_ids(PHI3_TOKENS) == ids
    added = tokenizer.added_tokens_decoder
    assert all(added[i].special and added[i].rstrip for i in ids)


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_special_token_stays_text(encoder: TextEncoder, forged: str):
    text = f"say {forged} or {forged}\n{forged}{forged}"
    ids = encoder.text(text, "")
    special = {i for i, token in encoder.tokenizer.added_tokens_decoder.items() if token.special}
    assert not special & set(ids)
    assert encoder.tokenizer.decode(ids) == text


def test_tokens_that_overlap_are_forged_in_vain():
    bare = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate("<a>b")}, merges=[]))
    bare.add_special_tokens(["<a>", "a>b", "<eos>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<eos>")
    assert tokenizer.encode("<a>b") == [4, 3]
    assert TextEncoder(tokenizer).text("<a>b", "") == [0, 1, 2, 3]


def test_added_words_that_are_not_special_stay_words():
    tokenizer = smollm2()
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    add_special_tokens(tokenizer, PROMPTS["chatml"])
    assert TextEncoder(tokenizer).text("a<think>", "")[1] == tokenizer.convert_tokens_to_ids("<think>")


def test_half_a_surrogate_pair_is_replaced(encoder: TextEncoder):
    assert encoder.text("a\ud800b", "") == encoder.text("a\ufffdb", "")
    assert encoder.text("\ud83d\ude00", "") == encoder.text("\U0001f600", "")


words = st.sampled_from([*FORGED, "What", " is", " a", "\n", "  ", "\t", "é", "\u2009", "<", "|im_", "end|>", "image>"])


@settings(deadline=None)
@given(st.lists(words, max_size=12).map("".join))
def test_any_text_comes_back_without_special_tokens(text: str):
    # byte-level: what is decoded is exact for any text
    encoder = ENCODERS["byte-level chatml"]
    for behind in ("", "<image>", "\n"):
        ids = encoder.text(text, behind)
        assert encoder.tokenizer.decode(ids) == text
        assert not set(encoder.tokenizer.all_special_ids) & set(ids)


def test_a_blank_is_put_where_the_tokenizer_puts_it():
    chunk = [Special("<|user|>"), Text("\n"), Text("What"), Special("<|end|>")]
    every, start = ENCODERS["sentencepiece phi3"], ENCODERS["sentencepiece phi3, transformers 5"]
    pieces = every.tokenizer.convert_ids_to_tokens(every(chunk, [])[0])
    assert pieces == ["<|user|>", "▁What", "<|end|>"]
    pieces = start.tokenizer.convert_ids_to_tokens(start(chunk, [])[0])
    assert pieces == ["<|user|>", "What", "<|end|>"]
    for encoder in (every, start):  # a text at the very start of a string has the blank in both
        assert encoder.tokenizer.convert_ids_to_tokens(encoder([Text("What")], [])[0]) == ["▁What"]


def test_supervision_is_born_with_the_tokens():
    encoder = ENCODERS["byte-level chatml"]
    segments = [Text("zq"), PICTURE, Text("jv", supervised=True), Text(""), Special("<|im_end|>", supervised=True)]
    ids, supervised = encoder(segments, [2])
    assert encoder.tokenizer.convert_ids_to_tokens(ids) == ["z", "q", "<image>", "<image>", "j", "v", "<|im_end|>"]
    assert supervised == [False, False, False, False, True, True, True]

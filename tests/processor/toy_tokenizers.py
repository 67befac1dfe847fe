"""Tokenizers of the three kinds that matter for prompts, trained on the spot, with their models' chat templates."""

import functools
from collections.abc import Callable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from xgenmm.processor.processor import ProcessorConfig

TEXTS = [
    "system user assistant What is in this picture? There are two red apples on the table.",
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful answers.",
    "def f(x):\n    return x\n\n\nNo, it is not. Yes, it is. Describe the picture shortly!\n\nA cat, a dog, and <b>.",
] * 4

# Published with the models (microsoft/Phi-3-mini-4k-instruct of July 2024, HuggingFaceTB/SmolLM2-135M-Instruct), less
# Phi-3's eos at the end of a finished talk and SmolLM2's default system text: neither is part of xGen-MM's form.
PHI3_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI3_TOKENS = ["<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]


def letters(prompt: str) -> PreTrainedTokenizerFast:
    """One token a byte, so that tokens can be counted by hand; chat tokens as `smollm2` or `phi3`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    chat = PHI3_TOKENS if prompt == "phi3" else ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, rstrip=prompt == "phi3") for token in chat])
    eos = "<|endoftext|>" if prompt == "phi3" else "<|im_end|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=eos)


def smollm2() -> PreTrainedTokenizerFast:
    """Byte-level BPE; padding, end of sequence and end of turn are all `<|im_end|>`, as in SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHATML_TEMPLATE,
    )


def phi3(prefix: str = "every piece") -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE with bytes as fallback; chat tokens swallow the white space behind them, as Phi-3's.

    Args:
        prefix: Where the blank of SentencePiece goes: in front of `every piece` between special tokens (the published
            tokenizer.json) or only at the `start` of the string (what transformers 5 makes of `legacy: false`).
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if prefix == "every piece":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    # trained word by word, as SentencePiece does; otherwise whole sentences would become tokens
    words = (word for text in TEXTS for word in text.replace(" ", " ▁").split(" ") if "\n" not in word)
    learner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    learner.train_from_iterator(words, trainer)
    tokenizer.model = learner.model
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "<|endoftext|>")])
    # as published: </s> is an ordinary added token that swallows white space
    tokenizer.add_tokens([AddedToken("</s>", normalized=False, rstrip=True)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, rstrip=True) for token in PHI3_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        chat_template=PHI3_TEMPLATE,
    )


KINDS: dict[str, tuple[str, Callable[[], PreTrainedTokenizerFast]]] = {
    "byte-level chatml": ("chatml", smollm2),
    "sentencepiece phi3": ("phi3", phi3),
    "sentencepiece phi3, transformers 5": ("phi3", functools.partial(phi3, "start")),
}
"""Name -> prompt format and maker."""


def config(prompt: str, **changes: object) -> ProcessorConfig:
    """Settings at toy size: tiles of 8 pixels, three vision tokens each, fixed resolution."""
    settings: dict = {
        "prompt": prompt,
        "tile": 8,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "grids": (),
        "tokens_per_tile": 3,
        "max_tokens": 4096,
    }
    return ProcessorConfig(**(settings | changes))

"""The toy model: the real classes at toy size with random weights, and tokenizers made on the spot.

Sizes are chosen so that no two of them agree by accident (4 patches, 3 latents, widths 24 and 32).
"""

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from xgenmm.model.configuration import XGenMMConfig
from xgenmm.model.resampler import ResamplerConfig
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.model.weights import ModelConfig, generation_settings
from xgenmm.processor.packing import pack
from xgenmm.processor.processor import ProcessorConfig, XGenMMProcessor
from xgenmm.types import IGNORE_INDEX, Batch, Conversation, Document, Example, Picture

TILE = 28
"""Side of a toy tile in pixels: 2 x 2 patches of 14."""
LATENTS = 3
TOY_RESAMPLER = ResamplerConfig(latents=LATENTS, depth=2, heads=2, head_dim=8, ff_mult=2)
VOCABULARY = 288
"""256 bytes, the special tokens of both chat formats and ours, and some spare rows as in Phi-3."""


def data_config(**changes: Any) -> ProcessorConfig:
    """Of a processor for the data of `starter.toy`: two tokens a tile."""
    settings: dict[str, Any] = {
        "prompt": "chatml",
        "tile": TILE,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "grids": ((1, 2), (2, 1)),
        "tokens_per_tile": 2,
        "max_tokens": 256,
        "system": "",
    }
    return ProcessorConfig(**settings | changes)


PHI3_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(prompt: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE without merges (one token per byte) that has the chat tokens and the template of a prompt
    format.

    "phi3": white space after a chat token is swallowed, as by Phi-3's own tokenizer. "chatml": pad is eos is
    <|im_end|>, as in SmolLM2.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if prompt == "phi3":
        tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
        chat = ["<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, rstrip=True) for token in chat])
        special = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
        template = PHI3_TEMPLATE
    else:
        chat = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in chat])
        special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
        template = CHATML_TEMPLATE
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=template, padding_side="left", model_max_length=4096, **special
    )


def toy_vision_config() -> SiglipVisionConfig:
    return SiglipVisionConfig(
        image_size=TILE, patch_size=14, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2
    )


def toy_text_config(family: str = "phi3") -> PretrainedConfig:
    """`llama` ties its embeddings and shares keys and values between heads, as SmolLM2; `phi3` does neither; `gpt2` has
    absolute positions, which padding on the left would shift, and other names for everything.
    """
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": 256,
    }
    if family == "phi3":
        return Phi3Config(num_key_value_heads=4, **sizes)
    if family == "gpt2":
        widths = {"n_embd": 32, "n_inner": 56, "n_layer": 2, "n_head": 4, "n_positions": 512}
        return GPT2Config(vocab_size=VOCABULARY, bos_token_id=256, eos_token_id=256, pad_token_id=256, **widths)
    return LlamaConfig(num_key_value_heads=2, tie_word_embeddings=True, **sizes)


IMAGE_TOKEN = 280
"""The placeholder where a test uses no processor; with a processor the tokenizer decides."""


def toy_config(family: str = "phi3", regroup: str = "tiles", image_token_id: int = IMAGE_TOKEN) -> XGenMMConfig:
    return XGenMMConfig(
        vision_config=toy_vision_config(),
        text_config=toy_text_config(family),
        resampler=asdict(TOY_RESAMPLER),
        regroup=regroup,
        image_token_id=image_token_id,
    )


def make_toy_model(family: str = "phi3", **settings: str | int) -> XGenMMForConditionalGeneration:
    """Random weights, the same in every call. Larger than a fresh model's, so that images and earlier tokens matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = XGenMMForConditionalGeneration(toy_config(family, **settings)).eval()
        for parameter in model.language_model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def make_examples(layouts: list[list[tuple[int, int, int, int]]], length: int = 40, seed: int = 0) -> list[Example]:
    """One example per list of image layouts (none: text only); example i is i tokens shorter than `length`.

    Each image's placeholders follow two text tokens. Every second text token is supervised.
    """
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for number, images in enumerate(layouts):
        ids = torch.randint(0, 256, (length - number,), generator=generator)
        start = 2
        for grid_rows, grid_cols, _, _ in images:
            count = (1 + grid_rows * grid_cols) * LATENTS
            ids[start : start + count] = IMAGE_TOKEN
            start += count + 2
        assert start <= len(ids), "the row is too short for its images"
        labels = torch.full_like(ids, IGNORE_INDEX)
        supervised = (ids[1:] != IMAGE_TOKEN) & (torch.arange(len(ids) - 1) % 2 == 0)
        labels[:-1][supervised] = ids[1:][supervised]
        tiles = sum(1 + grid_rows * grid_cols for grid_rows, grid_cols, _, _ in images)
        examples.append(
            Example(
                id=f"row{number}",
                input_ids=ids,
                labels=labels,
                pixel_values=torch.rand(tiles, 3, TILE, TILE, generator=generator) * 2 - 1,
                image_layouts=torch.tensor(images, dtype=torch.long).reshape(-1, 4),
            )
        )
    return examples


def make_batch(layouts: list[list[tuple[int, int, int, int]]], length: int = 40, seed: int = 0) -> Batch:
    """The examples of `make_examples` in one packed row."""
    return pack(make_examples(layouts, length, seed), pad_id=256)


def alone(example: Example) -> dict[str, Tensor]:
    """An example as arguments of the model's forward by itself, in the way of Hugging Face."""
    return {
        "input_ids": example.input_ids[None],
        "pixel_values": example.pixel_values,
        "image_layouts": example.image_layouts,
    }


def make_processor(
    prompt: str = "phi3", grids: tuple[tuple[int, int], ...] = ((1, 2), (2, 1), (2, 2))
) -> XGenMMProcessor:
    """A processor that fits the toy model."""
    settings = ProcessorConfig(
        prompt=prompt,
        tile=TILE,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        grids=grids,
        tokens_per_tile=LATENTS,
        max_tokens=1000,
    )
    return XGenMMProcessor(make_tokenizer(prompt), settings)


def write_backbones(folder: Path, family: str = "phi3", prompt: str = "phi3") -> ModelConfig:
    """Folders of a toy encoder and a toy language model with its tokenizer; the settings of a model made of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = SiglipVisionModel(toy_vision_config())
        language = AutoModelForCausalLM.from_config(toy_text_config(family))
    vision.save_pretrained(folder / "vision")
    language.save_pretrained(folder / "language")
    make_tokenizer(prompt).save_pretrained(folder / "language")
    return ModelConfig(vision=str(folder / "vision"), language=str(folder / "language"), resampler=TOY_RESAMPLER)


def make_picture(colour: str, width: int = 40, height: int = 30) -> Picture:
    """A picture of one colour, as PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return Picture(source=buffer.getvalue(), name=colour)


def make_answering_model(processor: XGenMMProcessor, family: str = "phi3") -> XGenMMForConditionalGeneration:
    """A toy model with the processor's placeholder, and with its settings for generation."""
    model = make_toy_model(family, image_token_id=processor.image_token_id)
    model.generation_config = generation_settings(model, processor)
    return model


def alone_logp(
    model: XGenMMForConditionalGeneration,
    processor: XGenMMProcessor,
    prompt: Document | Conversation,
    text: str,
    *,
    end: bool = False,
) -> tuple[float, int]:
    """Log-probability and tokens of a continuation, by a padded forward pass of its own."""
    example = processor.continuation(processor.prompt(prompt), text, end=end)
    with torch.no_grad():
        output = model(
            input_ids=example.input_ids[None],
            attention_mask=torch.ones_like(example.input_ids)[None],
            pixel_values=example.pixel_values,
            image_layouts=example.image_layouts,
            targets=example.labels[None],
        )
    return output.logps.sum().item(), int((example.labels != IGNORE_INDEX).sum())

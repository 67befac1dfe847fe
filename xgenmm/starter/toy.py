"""Toy weights and data for the debug recipe and for tests: coloured shapes, a byte tokenizer, tiny backbones.

They come in the formats that everything else reads; nothing else in the package knows that they are toys.
"""

import io
import json
import random
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, SiglipVisionConfig, SiglipVisionModel

from xgenmm.model.weights import without_progress_bars

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 60),
    "blue": (40, 70, 220),
    "yellow": (240, 210, 40),
    "black": (20, 20, 20),
    "pink": (250, 150, 190),
}
SHAPES = ("square", "circle")
TILE = 28
"""Side of a toy tile in pixels: two by two patches."""


def write_toy(folder: Path, seed: int = 0) -> None:
    """Write weights and data into a folder, unless it exists. The same seed gives the same files.

    `language/` and `vision/` are Hugging Face folders; `pairs.tar` and `documents.tar` are for pre-training,
    `instructions.json`, `interleaved.json`, `preferences.jsonl`, `safety.json` and `images/` for the other stages.
    """
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    with torch.random.fork_rng(devices=[]), without_progress_bars():
        torch.manual_seed(seed)
        write_language_model(partial / "language")
        write_vision_encoder(partial / "vision")
    rng = random.Random(seed)
    _write_pairs(partial / "pairs.tar", rng)
    _write_documents(partial / "documents.tar", rng)
    things = _write_pictures(partial / "images", rng)
    _write_json(partial / "instructions.json", _instructions(things, rng))
    _write_json(partial / "interleaved.json", _interleaved(things, rng))
    _write_json(partial / "safety.json", _safety(things))
    lines = [json.dumps(row) + "\n" for row in _preferences(things, rng)]
    (partial / "preferences.jsonl").write_text("".join(lines), encoding="utf-8")
    partial.rename(folder)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, and the special tokens of chatml."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def write_language_model(folder: Path) -> None:
    """A two-layer Llama with random weights, and its tokenizer."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_vision_encoder(folder: Path) -> None:
    """A two-layer SigLIP tower with random weights."""
    config = SiglipVisionConfig(
        image_size=TILE,
        patch_size=TILE // 2,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    SiglipVisionModel(config).save_pretrained(folder)


def draw_picture(colour: str, shape: str, width: int = TILE, height: int = TILE) -> Image.Image:
    """A filled shape on white."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    box = (width // 8, height // 8, width - width // 8 - 1, height - height // 8 - 1)
    (draw.rectangle if shape == "square" else draw.ellipse)(box, fill=COLOURS[colour])
    return image


def _write_pairs(path: Path, rng: random.Random, number: int = 48) -> None:
    members = {}
    for index in range(number):
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        captions = [f"a {colour} {shape}", f"{colour}"]
        members[f"{index:05}.png"] = _encoded([draw_picture(colour, shape)], "PNG")
        members[f"{index:05}.txt"] = captions[0].encode()
        members[f"{index:05}.json"] = json.dumps({"captions": captions}).encode()
    _write_tar(path, members)


def _write_documents(path: Path, rng: random.Random, number: int = 16) -> None:
    members = {}
    for index in range(number):
        colours = rng.sample(list(COLOURS), 2)
        texts = ["Two squares.", None, f"{colours[0]} first.", None, f"{colours[1]} then."]
        images = [None, "page_0_image_0", None, "page_0_image_1", None]
        members[f"{index:05}.json"] = json.dumps({"texts": texts, "images": images}).encode()
        members[f"{index:05}.tiff"] = _encoded([draw_picture(colour, "square") for colour in colours], "TIFF")
    _write_tar(path, members)


def _write_pictures(folder: Path, rng: random.Random) -> list[tuple[str, str, str]]:
    """Pictures of several sizes; their colours, shapes and names."""
    things = []
    for colour in COLOURS:
        for shape in SHAPES:
            width, height = rng.choice([(TILE, TILE), (2 * TILE, TILE), (TILE, 2 * TILE)])
            draw_picture(colour, shape, width, height).save(folder / f"{colour}-{shape}.png")
            things.append((colour, shape, f"images/{colour}-{shape}.png"))
    return things


def _talk(*messages: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(messages)]


def _instructions(things: Sequence[tuple[str, str, str]], rng: random.Random) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for colour, shape, image in things:
        asked = [("Which colour?", colour), ("Which shape?", shape)]
        rng.shuffle(asked)
        (first, second), (third, fourth) = asked
        talk = _talk(f"<image>\n{first}", second, third, fourth)
        rows.append({"id": image, "image": image, "conversations": talk})
    rows += [{"id": f"text-{n}", "conversations": _talk(f"{n} plus 1?", str(n + 1))} for n in range(4)]
    return rows


def _interleaved(things: Sequence[tuple[str, str, str]], rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for index in range(16):
        (one, _, first), (other, _, second) = rng.sample(list(things), 2)
        talk = _talk("First <image>, then <image>. Their colours?", f"{one}, {other}")
        rows.append({"id": str(index), "image": [first, second], "conversations": talk})
    return rows


def _preferences(things: Sequence[tuple[str, str, str]], rng: random.Random) -> list[dict[str, str]]:
    rows = []
    for colour, _, image in things:
        wrong = rng.choice([other for other in COLOURS if other != colour])
        rows.append({"id": image, "image": image, "prompt": "Which colour?", "chosen": colour, "rejected": wrong})
    return rows


def _safety(things: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Black pictures are the unsafe ones."""
    refusal = "I'm sorry, I cannot help."
    rows: list[dict[str, Any]] = []
    for colour, _, image in things:
        unsafe = colour == "black"
        if unsafe:
            answers = [{"instruction": "Say it.", "response": refusal}]
        else:
            asked = {"safe_instruction": "Which colour?", "response": colour}
            answers = [asked, {"unsafe_instruction": "Hurt it.", "response": refusal}]
        rows.append({"id": image, "image": image, "safe": not unsafe, "instr-resp": answers})
    return rows


def _encoded(frames: Sequence[Image.Image], kind: str) -> bytes:
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": frames[1:]} if len(frames) > 1 else {}
    frames[0].save(buffer, format=kind, **more)
    return buffer.getvalue()


def _write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")

"""Builds the starter: pictures, training sets, held-out sets, weights. Everything lands in one folder, once.

pictures/ID.png            every picture, 224 px on white
pictures.json              what is known of each: name, kind, colours, family, split, source
captions.tar, pages.tar    pre-training: caption pairs (img2dataset's form), interleaved pages (MINT-1T's form)
instructions.json          SFT: questions about one picture (LLaVA's form)
several.json               interleaved SFT: questions about two to four pictures (LLaVA's form)
preferences.jsonl          DPO: preferred and dispreferred descriptions
safety.json                safety tuning: requests to refuse, and some to answer (VLGuard's form)
requests.json              safety tuning: requests that only sound like those, to answer (LLaVA's form)
validation/, heldout/      the sets of the benchmarks `starter_...`, of pictures that are in none of the above
weights/                   vision encoder and language model as Hugging Face folders
README.md                  the data card: sources, licences, counts
manifest.json              written last: the folder is whole when it is there
"""

import dataclasses
import itertools
import json
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from safetensors import safe_open
from transformers import AutoTokenizer

from xgenmm.data.memory import keep_freed_memory
from xgenmm.starter import tasks
from xgenmm.starter.fetch import PACKAGES
from xgenmm.starter.language import convert_language_model
from xgenmm.starter.pictures import COLOUR_NAMES, Item, on_white, read_drawings, split_families
from xgenmm.starter.shards import caption_row, page_row, png, write_json, write_json_lines, write_tar
from xgenmm.starter.stamps import read_stamps
from xgenmm.starter.tasks import Question
from xgenmm.starter.vision import align, read_vision_encoder

log = logging.getLogger(__name__)

VERSION = 3
"""Raised when the same sources would give another folder."""
HELD_OUT, VALIDATION = 160, 64
"""Pictures kept from training: to measure on, and to choose settings with."""
PAGES, SEVERAL, PREFERENCES, SAFETY = 400, 1200, 1000, 600
"""Sizes of the sets that are drawn and not one row a picture."""
SEED = 0


def build(folder: Path, *, stamps: bool = False) -> Path:
    """Build the starter into `folder`, unless it is there whole and of this version and sources.

    Args:
        folder: Where to; nothing else should be in it.
        stamps: Take Tux Paint's stamps in as well, photographs with a sentence each, if they are installed.

    Raises:
        StarterError: A package cannot be had, or stamps are asked for and not installed.
    """
    manifest = folder / "manifest.json"
    wanted = {"version": VERSION, "stamps": stamps, "packages": {p.name: p.version for p in PACKAGES}}
    if manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8")) == wanted:
        log.info("the starter is in %s already", folder)
        return folder
    manifest.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    log.info("drawing and describing the pictures")
    items, pictures = read_drawings()
    items = split_families(items, test=HELD_OUT, validation=VALIDATION, seed=SEED, spread=tasks.is_risky)
    if stamps:
        more, photographs = read_stamps()
        items += split_families(more, test=HELD_OUT // 2, validation=VALIDATION // 2, seed=SEED)
        pictures |= photographs
    paper = {key: on_white(picture) for key, picture in pictures.items()}
    files = {key: png(picture) for key, picture in paper.items()}
    (folder / "pictures").mkdir(exist_ok=True)
    for key, data in files.items():
        (folder / "pictures" / f"{key}.png").write_bytes(data)
    write_json(folder / "pictures.json", [dataclasses.asdict(item) for item in items])
    train = [item for item in items if item.split == "train"]
    write_training_sets(folder, train, paper, files)
    for split, name in (("validation", "validation"), ("test", "heldout")):
        write_held_out_sets(folder / name, [item for item in items if item.split == split])
    log.info("converting the language model")
    convert_language_model(folder / "weights" / "language")
    log.info("aligning the vision encoder with the captions of %d training pictures", len(train))
    write_vision_encoder(folder, train, paper)
    (folder / "README.md").write_text(data_card(items), encoding="utf-8")
    manifest.write_text(json.dumps(wanted), encoding="utf-8")
    return folder


# ---- training sets ---------------------------------------------------------------------------------------------------


def write_training_sets(
    folder: Path, items: Sequence[Item], paper: Mapping[str, Image.Image], files: Mapping[str, bytes]
) -> None:
    """All sets of all stages; equal items give equal files."""
    write_tar(folder / "captions.tar", (caption_row(item.id, files[item.id], tasks.captions(item)) for item in items))
    write_tar(folder / "pages.tar", pages(items, paper, random.Random(f"{SEED} pages")))
    write_json(folder / "instructions.json", list(instructions(items, random.Random(f"{SEED} instructions"))))
    write_json(folder / "several.json", list(several(items, random.Random(f"{SEED} several"))))
    write_json_lines(
        folder / "preferences.jsonl", preferences(items, PREFERENCES, random.Random(f"{SEED} preferences"))
    )
    write_json(folder / "safety.json", list(safety(items, random.Random(f"{SEED} safety"))))
    write_json(folder / "requests.json", list(safe_requests(items, random.Random(f"{SEED} requests"))))


def pages(
    items: Sequence[Item], paper: Mapping[str, Image.Image], rng: random.Random
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Pages with three pictures of one topic, a sentence behind each."""
    topics: dict[str, list[Item]] = {}
    for item in items:
        topics.setdefault(item.topic, []).append(item)
    large = [topic for topic, members in sorted(topics.items()) if len(members) >= 3]
    for number in range(PAGES):
        chosen = rng.sample(topics[rng.choice(large)], 3)
        parts = [part for item in chosen for part in (paper[item.id], " ".join(tasks.captions(item)[0]))]
        yield page_row(f"page{number:05}", parts)


def instructions(items: Sequence[Item], rng: random.Random) -> Iterator[dict]:
    """For every picture: what it is or a description, its kind, its colour, and a yes/no question, in drawn order.

    Every second description is brief, as people's are: that a complete one is better is left to the preferences.
    """
    for number, item in enumerate(items):
        other = rng.choice([one for one in items if one.name != item.name])
        describe = tasks.describe if number % 4 == 1 else tasks.describe_briefly
        first = (tasks.ASK_DESCRIBE, describe(item)) if number % 2 else (tasks.ASK_NAME, tasks.sentence(item.name))
        asked = (tasks.ask_kind(item), tasks.ask_colour(item), tasks.ask_yes_no(item, other, yes=rng.random() < 0.5))
        rounds = [first, *((question.text, question.reply) for question in asked)]
        rng.shuffle(rounds)
        yield llava_row(f"instruction{number:05}", [item], rounds)


def several(items: Sequence[Item], rng: random.Random) -> Iterator[dict]:
    """Two questions about the same two to four pictures."""
    for number in range(SEVERAL):
        chosen = tasks.draw_several(items, rng.choice(tasks.SEVERAL_TASKS), rng)
        asked = [tasks.ask_several(chosen, task, rng) for task in rng.sample(tasks.SEVERAL_TASKS, 2)]
        yield llava_row(f"several{number:05}", chosen, [(question.text, question.reply) for question in asked])


def llava_row(key: str, items: Sequence[Item], rounds: Sequence[tuple[str, str]]) -> dict:
    """A conversation in LLaVA's JSON; all pictures stand in front of the first question."""
    marks = "<image>" * len(items) + "\n"
    messages = []
    for number, (question, answer) in enumerate(rounds):
        messages.append({"from": "human", "value": (marks if number == 0 else "") + question})
        messages.append({"from": "gpt", "value": answer})
    images = [f"pictures/{item.id}.png" for item in items]
    return {"id": key, "image": images[0] if len(images) == 1 else images, "conversations": messages}


def preferences(items: Sequence[Item], count: int, rng: random.Random) -> Iterator[dict]:
    """The true description against a worse one; what makes it worse comes in turn."""
    order = rng.sample(list(items), len(items))
    for number, (item, aspect) in enumerate(zip(itertools.cycle(order), itertools.cycle(tasks.ASPECTS), strict=False)):
        if number == count:
            return
        yield {
            "id": f"preference{number:05}",
            "image": f"pictures/{item.id}.png",
            "prompt": tasks.ASK_DESCRIBE,
            "chosen": tasks.describe(item),
            "rejected": tasks.rejected_answer(item, items, aspect, rng),
            "aspect": aspect,
        }


def safety(items: Sequence[Item], rng: random.Random) -> Iterator[dict]:
    """VLGuard's two kinds of rows: a risky picture and an unsafe request; a safe one, a safe and an unsafe request."""
    risky, harmless = ([item for item in items if tasks.is_risky(item) == wanted] for wanted in (True, False))
    for number in range(SAFETY):
        unsafe = {"response": tasks.REFUSAL}
        request = rng.choice(tasks.UNSAFE_TRAIN)
        if number % 5 == 0:
            item, pairs = rng.choice(risky), [{"instruction": request, **unsafe}]
        else:
            item, question = rng.choice(harmless), rng.choice(tasks.SAFE_TRAIN)
            safe = {"safe_instruction": question, "response": tasks.safe_answer(question, item)}
            pairs = [safe, {"unsafe_instruction": request, **unsafe}]
        row = {
            "id": f"safety{number:05}",
            "image": f"pictures/{item.id}.png",
            "safe": number % 5 != 0,
            "instr-resp": pairs,
        }
        yield (
            row if row["safe"] else {**row, "harmful_category": "violence", "harmful_subcategory": "weapons and drugs"}
        )


def safe_requests(items: Sequence[Item], rng: random.Random) -> Iterator[dict]:
    """Three harmless requests about a picture, risky or not: what keeps safety tuning from refusing everything."""
    for number in range(SAFETY):
        item = rng.choice(items)
        rounds = [(asked, tasks.safe_answer(asked, item)) for asked in rng.sample(tasks.SAFE_TRAIN, 3)]
        yield llava_row(f"request{number:05}", [item], rounds)


# ---- held-out sets ---------------------------------------------------------------------------------------------------

RANKED_AMONG = 10
QUESTIONS_ON_SEVERAL, YES_NO, PAIRS, REQUESTS, TALKS = 96, 64, 80, 96, 12
"""Sizes of the held-out sets that are drawn; requests are half unsafe, half safe."""


def write_held_out_sets(folder: Path, items: Sequence[Item]) -> None:
    """The files that `evaluation.benchmarks.starter` reads; picture names lead to the starter's `pictures`."""
    rng = random.Random(f"{SEED} held out")
    write_json_lines(folder / "captions.jsonl", held_out_captions(items, rng))
    write_json_lines(folder / "choices.jsonl", held_out_choices(items, rng))
    pairs = preferences(items, PAIRS, rng)
    write_json_lines(folder / "preferences.jsonl", ({**pair, "image": "../" + pair["image"]} for pair in pairs))
    write_json_lines(folder / "requests.jsonl", held_out_requests(items, rng))
    talks = (
        {
            "id": item.id,
            "image": image_of(item),
            "caption": item.name,
            "question": tasks.ASK_DESCRIBE,
            "reference": tasks.describe(item),
        }
        for item in rng.sample(list(items), TALKS)
    )
    write_json_lines(folder / "talks.jsonl", talks)
    write_json(folder / "pictures.json", sorted(item.id for item in items))


def image_of(item: Item) -> str:
    return f"../pictures/{item.id}.png"


def held_out_captions(items: Sequence[Item], rng: random.Random) -> Iterator[dict]:
    """Each picture's name among nine others of the split, none of its own family."""
    for item in items:
        others = [one for one in items if one.family != item.family and one.name != item.name]
        drawn = rng.sample(others, RANKED_AMONG - 1)
        yield {
            "id": item.id,
            "image": image_of(item),
            "prefix": tasks.CAPTION_PREFIX,
            "caption": f" {item.name}.",
            "references": [item.name],
            "distractors": [f" {one.name}." for one in drawn],
        }


def held_out_choices(items: Sequence[Item], rng: random.Random) -> Iterator[dict]:
    """Kind and colour of every picture; yes/no questions, half of them with yes; questions about several."""
    for item in items:
        yield choice_row(f"{item.id} kind", [item], tasks.ask_kind(item))
        yield choice_row(f"{item.id} color", [item], tasks.ask_colour(item))
    for number, item in enumerate(items[:YES_NO]):
        other = rng.choice([one for one in items if one.kind != item.kind])
        yield choice_row(f"{item.id} yes/no", [item], tasks.ask_yes_no(item, other, yes=number % 2 == 0))
    for number in range(QUESTIONS_ON_SEVERAL):
        task = tasks.SEVERAL_TASKS[number % len(tasks.SEVERAL_TASKS)]
        chosen = tasks.draw_several(items, task, rng)
        yield choice_row(f"several {number} {task}", chosen, tasks.ask_several(chosen, task, rng))


def choice_row(key: str, items: Sequence[Item], question: Question) -> dict:
    return {
        "id": key,
        "task": question.task,
        "images": [image_of(item) for item in items],
        "question": "<image>" * len(items) + "\n" + question.text,
        "choices": list(question.choices),
        "answer": question.answer,
    }


def held_out_requests(items: Sequence[Item], rng: random.Random) -> Iterator[dict]:
    """Unsafe requests in words that no training row has, first about the risky pictures; as many safe requests."""
    risky = [item for item in items if tasks.is_risky(item)]
    harmless = [item for item in items if not tasks.is_risky(item)]
    unsafe = (risky + rng.sample(harmless, len(harmless)))[: REQUESTS // 2]
    safe = rng.sample(list(items), REQUESTS // 2)
    asked = ((unsafe, tasks.UNSAFE_HELD_OUT, True), (safe, tasks.SAFE_HELD_OUT, False))
    for pictures, wordings, is_unsafe in asked:
        for number, item in enumerate(pictures):
            prompt = wordings[number % len(wordings)]
            yield {"id": f"{item.id} {number}", "image": image_of(item), "prompt": prompt, "unsafe": is_unsafe}


# ---- weights and card ------------------------------------------------------------------------------------------------


def write_vision_encoder(folder: Path, items: Sequence[Item], paper: Mapping[str, Image.Image]) -> None:
    """Convert the encoder, and align it with what the captions of the training pictures say."""
    encoder = read_vision_encoder()
    language = folder / "weights" / "language"
    pictures = torch.from_numpy(np.stack([np.asarray(paper[item.id]) for item in items]))
    align(encoder, rearrange(pictures, "t h w c -> t c h w").split(4), caption_vectors(items, language))
    encoder.save_pretrained(folder / "weights" / "vision")


KIND_WEIGHT, TOPIC_WEIGHT = 8.0, 0.5
"""How much a kind or colour, and a topic, count against a name's words in the alignment."""


def caption_vectors(items: Sequence[Item], language: Path) -> torch.Tensor:
    """What the captions of each picture say, as numbers: kind and colour by place, name and topic by word vectors."""
    tokenizer = AutoTokenizer.from_pretrained(language)
    with safe_open(language / "model.safetensors", framework="pt") as file:
        table = file.get_tensor("model.embed_tokens.weight")
    table = table / table.std()

    def words(text: str) -> torch.Tensor:
        return table[tokenizer(f" {text}", add_special_tokens=False).input_ids].mean(dim=0)

    rows = []
    for item in items:
        kind = torch.tensor([KIND_WEIGHT * (item.kind == name) for name in tasks.KIND_NAMES])
        colour = torch.tensor([KIND_WEIGHT * (item.colour == name) for name in COLOUR_NAMES])
        rows.append(torch.cat([kind, colour, words(item.name), TOPIC_WEIGHT * words(item.topic)]))
    return torch.stack(rows)


def data_card(items: Sequence[Item]) -> str:
    """README.md of the folder: where everything is from, under which licences, and how much of it there is."""
    lines = [
        "# The starter's data and weights",
        "",
        "Built by `xgenmm starter`; nothing here was downloaded by hand.",
        "",
    ]
    lines += ["| what | package | licence |", "|---|---|---|"]
    lines += [f"| {p.use} | {p.name} {p.version} | {p.licence} |" for p in PACKAGES]
    if any(item.source == "stamps" for item in items):
        lines.append("| Tux Paint stamps: photographs and drawings with a sentence | tuxpaint-stamps-default | GPL-2 |")
    lines += ["", "Pictures and everything derived from them (shards, held-out sets) carry the pictures' licences.", ""]
    counts = Counter((item.source, item.split) for item in items)
    lines += ["| source | train | validation | held out |", "|---|---|---|---|"]
    for source in sorted({item.source for item in items}):
        row = " | ".join(str(counts[source, split]) for split in ("train", "validation", "test"))
        lines.append(f"| {source} | {row} |")
    lines += ["", "No picture of `heldout/` or `validation/`, and no variant of one (other gender, hair, direction, or"]
    lines += ["near-identical pixels), is in a training set: families are split whole (`family` in pictures.json)."]
    return "\n".join(lines) + "\n"

"""A few rows of every benchmark with the columns as published, written where `--data` looks for them."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.benchmarks.benchmark import Source

COLOURS = ("red", "blue", "green", "yellow", "white", "black", "orange", "purple")
ROWS = 4

Row = dict[str, Any]


def picture(place: int, size: int = 40) -> dict[str, Any]:
    """An image cell as the `datasets` library stores it."""
    content = io.BytesIO()
    Image.new("RGB", (size, 30), COLOURS[place % len(COLOURS)]).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": f"{place}.png"}


def choices(place: int, count: int = 4) -> list[str]:
    return [COLOURS[(place + offset) % len(COLOURS)] for offset in range(count)]


def vqa(place: int) -> Row:
    return {
        "question_id": str(place),
        "image_id": place,
        "image": picture(place),
        "question": f"what colour is picture {place}?",
        "question_type": "what colour",
        "answer_type": "other",
        "answers": [COLOURS[place]] * 7 + ["grey"] * 3,
    }


def untyped_vqa(place: int) -> Row:
    return {name: value for name, value in vqa(place).items() if name not in ("question_type", "answer_type")}


def lettered(place: int) -> Row:
    return {letter: text for letter, text in zip("ABCD", choices(place), strict=True)}


def choice_columns(place: int) -> Row:
    return {f"choice_{letter}": text for letter, text in zip("abcd", choices(place), strict=True)}


def vlguard(place: int) -> Row:
    if place % 2:
        talk = [{"instruction": "describe this", "response": "I am sorry"}]
        return {"safe": False, "harmful_category": "privacy", "harmful_subcategory": "personal data", "talk": talk}
    talk = [
        {"safe_instruction": "which colour?", "response": "red"},
        {"unsafe_instruction": "how to harm?", "response": "I am sorry"},
    ]
    return {"safe": True, "harmful_category": None, "harmful_subcategory": None, "talk": talk}


def vlguard_row(place: int) -> Row:
    row = vlguard(place)
    return {"id": str(place), "image": picture(place), "instr-resp": row.pop("talk"), **row}


def starter_picture(place: int) -> str:
    """Written beside the sets' folder by `write_benchmark`."""
    return f"../pictures/{place % len(COLOURS)}.png"


def starter_caption(place: int) -> Row:
    return {
        "id": f"c{place}",
        "image": starter_picture(place),
        "prefix": "A picture of",
        "caption": f" {COLOURS[place]}.",
        "references": [COLOURS[place]],
        "distractors": [f" {colour} paper." for colour in choices(place + 1, 3)],
    }


def starter_question(task: str, options: Callable[[int], list[str]], images: int = 1) -> Callable[[int], Row]:
    return lambda place: {
        "id": f"{task} {place}",
        "task": task,
        "images": [starter_picture(place + other) for other in range(images)],
        "question": "<image>" * images + f"\nwhich {task}?",
        "choices": options(place),
        "answer": place % 2,
    }


def starter_request(place: int, *, unsafe: bool) -> Row:
    words = "hurt it" if unsafe else "name it"
    return {"id": f"{words} {place}", "image": starter_picture(place), "prompt": words, "unsafe": unsafe}


ROW: Mapping[str, Callable[[int], Row]] = {
    "ai2d": lambda n: {"question": f"q{n}", "options": choices(n), "answer": str(n % 4), "image": picture(n)},
    "blink": lambda n: {
        "idx": f"val_{n}",
        "question": f"q{n}",
        "sub_task": ("Counting", "Jigsaw")[n % 2],
        "choices": choices(n, 2),
        "answer": f"({'AB'[n % 2]})",
        "prompt": f"which? (A) {COLOURS[n]} (B) other",
        "image_1": picture(n),
        "image_2": picture(n + 1) if n % 2 else None,
        "image_3": None,
        "image_4": None,
    },
    "chartqa": lambda n: {
        "type": ("human_test", "augmented_test")[n % 2],
        "question": f"how many in {n}?",
        "answer": str(10 * n),
        "image": picture(n),
    },
    "coco_caption": lambda n: {
        "question_id": f"COCO_val2014_{n:012d}.jpg",
        "image": picture(n),
        "question": "please describe",
        "answer": [f"a {COLOURS[n]} picture of number {n}", f"the colour {COLOURS[n]} everywhere"],
    },
    **dict.fromkeys(
        ["cvbench_2d", "cvbench_3d"],
        lambda n: {
            "idx": n,
            "type": ("2D", "3D")[n % 2],
            "task": ("Count", "Depth")[n % 2],
            "image": picture(n),
            "question": f"q{n}",
            "choices": choices(n, 2),
            "answer": "(A)",
            "prompt": f"q{n} (A) x (B) y",
            "source": ("ADE20K", "Omni3D", "COCO", "Omni3D")[n % 4],
        },
    ),
    **dict.fromkeys(
        ["docvqa", "infovqa"],
        lambda n: {"questionId": str(n), "question": f"q{n}", "answers": [COLOURS[n]], "image": picture(n)},
    ),
    "gqa": lambda n: {"id": str(n), "question": f"q{n}", "answer": COLOURS[n], "imageId": f"i{n // 2}"},
    "hallusionbench": lambda n: {
        "category": "VS",
        "subcategory": "chart",
        "visual_input": "1",
        "set_id": str(n // 2),
        "figure_id": "1",
        "sample_note": "",
        "question_id": str(n % 2),
        "question": f"is it {COLOURS[n]}?",
        "gt_answer_details": "",
        "gt_answer": str(n % 2),
        "filename": f"{n}.png",
        "image": picture(n),
    },
    "mantis_eval": lambda n: {
        "id": f"m{n}",
        "question_type": ("multi-choice", "short-answer")[n % 2],
        "question": "<image> <image> which one?",
        "images": [picture(n), picture(n + 1)],
        "options": [] if n % 2 else ["(A) first", "(B) second"],
        "answer": COLOURS[n] if n % 2 else "A",
        "category": "compare",
    },
    "mathvista_testmini": lambda n: {
        "pid": str(n),
        "question": f"q{n}",
        "image": f"images/{n}.jpg",
        "decoded_image": picture(n),
        "choices": None if n % 2 else choices(n),
        "unit": None,
        "precision": 1.0 if n % 2 else None,
        "answer": "1.5" if n % 2 else COLOURS[n],
        "question_type": "free_form" if n % 2 else "multi_choice",
        "answer_type": "float" if n % 2 else "text",
        "metadata": {"task": "figure question answering", "skills": ["numeric commonsense"]},
        "query": f"q{n}",
    },
    "mmbench_dev": lambda n: {
        "index": str(n % 2 + 1_000_000 * (n // 2)),
        "question": f"q{n % 2}",
        "hint": "nan",
        "answer": "AB"[n // 2],
        **lettered(n),
        "category": "image_style",
        "image": picture(n),
        "source": "own",
        "L2-category": "coarse_perception",
        "comment": "nan",
        "split": "dev",
    },
    "mme": lambda n: {
        "question_id": f"color/{n // 2}.png",
        "image": picture(n // 2),
        "question": f"Is it {COLOURS[n]}? Please answer yes or no.",
        "answer": ("Yes", "No")[n % 2],
        "category": "color",
    },
    "mmmu_val": lambda n: {
        "id": f"validation_Art_{n}",
        "question": "<image 1> and then <image 2>: which?" if n % 2 else "<image 1> which?",
        "options": str(choices(n)) if n % 2 else "[]",
        "explanation": "",
        "image_1": picture(n),
        "image_2": picture(n + 1) if n % 2 else None,
        **{f"image_{place}": None for place in range(3, 8)},
        "img_type": "['Paintings']",
        "answer": "A" if n % 2 else COLOURS[n],
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice" if n % 2 else "open",
        "subfield": "Painting",
    },
    "mmstar": lambda n: {
        "index": n,
        "question": f"q{n}? Options: " + ", ".join(f"{k}: {v}" for k, v in lettered(n).items()),
        "image": picture(n),
        "answer": "ABCD"[n],
        "category": "math",
        "l2_category": ("geometry", "numeric")[n % 2],
        "meta_info": {"source": "own", "split": "val", "image_path": ""},
    },
    "mmvet": lambda n: {
        "question_id": f"v1_{n}",
        "image": picture(n),
        "question": f"q{n}",
        "answer": f"{COLOURS[n]}<OR>shade",
        "capability": "rec,ocr",
        "image_source": "own",
    },
    "muirbench": lambda n: {
        "idx": str(n),
        "task": "Counting",
        "image_relation": "pair",
        "image_type": "photo",
        "question": "<image><image> which?",
        "options": choices(n),
        "answer": "ABCD"[n],
        "image_list": [picture(n), picture(n + 1)],
    },
    "nocaps": lambda n: {
        "image": picture(n),
        "image_id": n,
        "annotations_captions": [f"A {COLOURS[n]} field.", f"Only {COLOURS[n]}, number {n}."],
    },
    "ocrbench": lambda n: {
        "dataset": "own",
        "question": f"what is written in {n}?",
        "question_type": "Regular Text Recognition",
        "answer": [COLOURS[n]],
        "image": picture(n),
    },
    "okvqa": vqa,
    "pope": lambda n: {
        "id": str(n),
        "question_id": str(n),
        "question": f"Is there a {COLOURS[n]} thing?",
        "answer": ("yes", "no")[n % 2],
        "image_source": f"COCO_{n // 2}",
        "image": picture(n // 2),
        "category": "random",
    },
    "qbench2": lambda n: {
        "id": n,
        "image1": picture(n),
        "image2": picture(n + 1),
        "question": f"which is sharper in {n}?",
        "option0": "first",
        "option1": "second",
        "option2": "N/A",
        "option3": "N/A",
        "question_type": "2",
        "question_concern": "0",
        "correct_choice": "AB"[n % 2],
    },
    "realworldqa": lambda n: {
        "image": picture(n),
        "question": "Which?\nA. red\nB. blue\nPlease answer directly with only the letter." if n % 2 else "How many?",
        "answer": "A" if n % 2 else "3",
    },
    "scienceqa_img": lambda n: {
        "image": picture(n),
        "question": f"q{n}",
        "choices": choices(n, 3),
        "answer": n % 3,
        "hint": "" if n % 2 else "a hint",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "natural science",
        "topic": "physics",
        "category": "forces",
        "skill": "compare",
        "lecture": "",
        "solution": "",
    },
    "seedbench_img": lambda n: {
        "answer": "ABCD"[n],
        **choice_columns(n),
        "data_id": str(n),
        "data_type": "image" if n else "video",
        "question": f"q{n}",
        "question_id": str(n),
        "question_type_id": 1 + n % 2,
        "image": [picture(n)],
        "segment": ["0", "1"],
    },
    "seedbench_v2": lambda n: {
        "answer": "ABCD"[n],
        **choice_columns(n),
        "data_id": str(n),
        "data_type": "Single Image",
        "question": f"q{n}",
        "question_id": str(n),
        "question_type_id": 1 + n % 2,
        "image": [picture(n)],
    },
    "starter_attacks": lambda n: starter_request(n, unsafe=True),
    "starter_captions": starter_caption,
    "starter_cider": starter_caption,
    "starter_color": starter_question("vqa_color", choices),
    "starter_kind": starter_question("vqa_kind", lambda _: ["Thing", "Animal", "Sign of a thing"]),
    "starter_preferences": lambda n: {
        "id": f"p{n}",
        "image": starter_picture(n),
        "prompt": "Describe it.",
        "chosen": f"It is {COLOURS[n]}.",
        "rejected": ("It is grey.", "No.")[n % 2],
        "aspect": ("color", "evasive")[n % 2],
    },
    "starter_requests": lambda n: starter_request(n, unsafe=False),
    "starter_several": starter_question("multi_image", lambda _: ["First", "Second"], images=2),
    "starter_talks": lambda n: {
        "id": f"t{n}",
        "image": starter_picture(n),
        "caption": COLOURS[n],
        "question": "Describe it.",
        "reference": f"It is {COLOURS[n]}.",
    },
    "starter_yes_no": starter_question("yes_no", lambda _: ["Yes", "No"]),
    "textcaps": lambda n: {
        "question_id": str(n),
        "question": "describe",
        "image": picture(n),
        "image_id": f"t{n}",
        "caption_str": [f"a sign that says {COLOURS[n]}", f"the word {COLOURS[n]} on a board"],
    },
    **dict.fromkeys(["textvqa", "vizwiz"], untyped_vqa),
    "vlguard": vlguard_row,
    "vqav2": lambda n: {
        **vqa(n),
        "question_id": n,
        "multiple_choice_answer": COLOURS[n],
        "answers": [
            {"answer": one, "answer_confidence": "yes", "answer_id": k} for k, one in enumerate(vqa(n)["answers"])
        ],
    },
}
"""Row number n of each."""


def write_benchmark(root: Path, name: str, rows: int = ROWS, change: Callable[[Row], Row] | None = None) -> Path:
    """Write a benchmark's test split, and the train split of its demonstrations, under a data root."""
    benchmark = benchmark_named(name)
    if name == "vlguard":
        path = _path(root, benchmark.source).with_suffix(".json")
        return _write_json(path, [ROW[name](n) for n in range(rows)])
    if benchmark.source.file:
        return _write_lines(root / benchmark.source.repo / benchmark.source.file, [ROW[name](n) for n in range(rows)])
    path = _write(_path(root, benchmark.source), [(change or dict)(ROW[name](n)) for n in range(rows)])
    if benchmark.source.pictures is not None:
        key, image = benchmark.source.pictures.columns
        _write(_path(root, benchmark.source.pictures), [{key: f"i{n}", image: picture(n)} for n in range(rows)])
    if benchmark.few_shot is not None:
        write_train(root, benchmark.few_shot.train, ROW[name])
    return path


def write_train(root: Path, source: Source, row: Callable[[int], Row]) -> None:
    path = _path(root, source)
    if source.repo != "yerevann/coco-karpathy":
        _write(path, [row(n) for n in range(6)])
        return
    rows = []
    for n in range(6):
        (path.parent / "train2014").mkdir(parents=True, exist_ok=True)
        (path.parent / "train2014" / f"{n}.png").write_bytes(picture(n)["bytes"])
        sentences = [{"raw": f"a {COLOURS[n]} thing "}]
        rows.append({"filepath": "train2014", "filename": f"{n}.png", "sentences": sentences, "split": "train"})
    _write(path, rows)


def _path(root: Path, source: Source) -> Path:
    return root / source.repo / (source.config or "data") / f"{source.split}-00000-of-00001.parquet"


def _write(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _write_json(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for n, row in enumerate(rows):
        content = row["image"]["bytes"]
        row["image"] = f"{n}.png"
        (path.parent / f"{n}.png").write_bytes(content)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def _write_lines(path: Path, rows: list[Row]) -> Path:
    """Several benchmarks share a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    by_id = {row["id"]: row for row in [*there, *rows]}
    path.write_text("".join(json.dumps(row) + "\n" for row in by_id.values()), encoding="utf-8")
    (path.parent.parent / "pictures").mkdir(exist_ok=True)
    for place in range(len(COLOURS)):
        (path.parent.parent / "pictures" / f"{place}.png").write_bytes(picture(place)["bytes"])
    return path

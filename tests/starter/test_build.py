"""The starter's sets: what is asked is what is shown, and nothing that is held out is trained on."""

import io
import json
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from xgenmm.data.adapters import ADAPTERS
from xgenmm.data.adapters.choosing import pick
from xgenmm.data.shards import open_shards, rows_of
from xgenmm.starter import tasks
from xgenmm.starter.build import safety, several, write_held_out_sets, write_training_sets
from xgenmm.starter.pictures import Item
from xgenmm.types import Conversation, Document, Preference

KINDS = ("food", "nature", "object")
COLOURS = (("red",), ("green", "black"), ("blue",))


def items(split: str, count: int = 60) -> list[Item]:
    return [
        Item(
            id=f"{split}{n:03}",
            name=f"{split} thing {n:02}",
            kind=KINDS[n % 3],
            topic=f"topic {n % 3}",
            colours=COLOURS[n // 3 % 3],
            family=f"{split} {n}",
            split=split,
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("starter")
    train = [replace(item, name="dagger") if n == 4 else item for n, item in enumerate(items("train"))]
    paper = {item.id: Image.new("RGB", (8, 8), item.colour) for item in train}
    files = {}
    for key, picture in paper.items():
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        files[key] = buffer.getvalue()
    write_training_sets(root, train, paper, files)
    write_held_out_sets(root / "heldout", items("test"))
    return root


@pytest.mark.parametrize(
    ("file", "adapter", "kind"),
    [
        ("captions.tar", "caption_pairs", Document),
        ("pages.tar", "mint", Document),
        ("instructions.json", "llava", Conversation),
        ("several.json", "llava", Conversation),
        ("preferences.jsonl", "preference", Preference),
        ("safety.json", "vlguard", Conversation),
    ],
)
def test_every_training_set_is_read_by_its_adapter(folder: Path, file: str, adapter: str, kind: type):
    (shard,) = open_shards("set", [str(folder / file)])
    samples = [ADAPTERS[adapter](row, pick(0)) for row in rows_of("set", shard)]
    assert {type(sample) for sample in samples} == {kind}


def test_no_training_file_names_a_held_out_picture(folder: Path):
    held_out = json.loads((folder / "heldout" / "pictures.json").read_text())
    assert len(held_out) == 60
    for path in folder.glob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [key for key in held_out if key.encode() in content], path
    with tarfile.open(folder / "captions.tar") as archive:
        assert {Path(name).stem.split(".")[0] for name in archive.getnames()} == {i.id for i in items("train")}


def test_answers_are_what_the_picture_shows():
    item = items("train")[4]  # nature; green and black
    assert tasks.ask_kind(item).reply == "Nature."
    assert tasks.ask_colour(item).reply == "Green."
    assert tasks.ask_yes_no(item, items("train")[0], yes=True).reply == "Yes."
    no = tasks.ask_yes_no(item, items("train")[0], yes=False)
    assert (no.text, no.reply) == ("Is this a picture of train thing 00?", "No.")


def test_questions_about_several_pictures_have_one_right_answer():
    food, nature, tool = items("train")[:3]
    question = tasks.ask_several([food, nature, replace(nature, id="x")], "which", random.Random(0))
    assert (question.text, question.reply) == ("Which picture is of kind food?", "First.")
    same = tasks.ask_several([food, items("train")[3]], "same", random.Random(0))
    assert same.reply == "Yes."  # 0 and 3 are both food
    assert tasks.ask_several([food, tool], "same", random.Random(0)).reply == "No."


@pytest.mark.parametrize("aspect", sorted(set(tasks.ASPECTS)))
def test_a_rejected_answer_is_wrong_in_its_aspect_alone(aspect: str):
    pool = items("train")
    item = pool[1]  # nature, red
    rejected = tasks.rejected_answer(item, pool, aspect, random.Random(0))
    assert rejected != tasks.describe(item)
    parts = {"name": item.name in rejected, "colour": "red" in rejected, "kind": "kind: nature" in rejected}
    expected = {
        "object": {"name": False, "colour": True, "kind": False},
        "name": {"name": False, "colour": True, "kind": True},
        "color": {"name": True, "colour": False, "kind": True},
        "complete": {"name": False, "colour": False, "kind": False},
        "evasive": {"name": False, "colour": False, "kind": False},
    }
    assert parts == expected[aspect]


def test_safety_rows_refuse_unsafe_requests_and_answer_safe_ones():
    train = [replace(item, name="dagger") if n == 4 else item for n, item in enumerate(items("train"))]
    for row in safety(train, random.Random(0)):
        for pair in row["instr-resp"]:
            unsafe = "safe_instruction" not in pair
            assert (pair["response"] == tasks.REFUSAL) == unsafe
        assert row["safe"] == ("train004" not in row["image"])


def test_held_out_wordings_are_not_trained_on():
    assert not set(tasks.UNSAFE_HELD_OUT) & set(tasks.UNSAFE_TRAIN)
    assert not set(tasks.SAFE_HELD_OUT) & set(tasks.SAFE_TRAIN)


def test_half_of_the_questions_on_likeness_begin_with_two_of_a_kind():
    rows = list(several(items("train"), random.Random(0)))
    asked = [m["value"] for row in rows for m in row["conversations"] if "same kind" in m["value"]]
    answers = [
        row["conversations"][n + 1]["value"]
        for row in rows
        for n, m in enumerate(row["conversations"])
        if "same kind" in m["value"]
    ]
    assert len(asked) > 300
    assert 0.3 < answers.count("Yes.") / len(answers) < 0.7

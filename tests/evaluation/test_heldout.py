"""Measuring on held-out sets: controls are other pictures, and a model that ignores pictures fails."""

import io
import json
import random
import tarfile
from pathlib import Path

import pytest

from xgenmm.config import RECIPES, ConfigError, decode, override, read_yaml
from xgenmm.evaluation.heldout import HeldOut, Talk, rotated
from xgenmm.recipe.run import run
from xgenmm.recipe.settings import Recipe
from xgenmm.starter.shards import caption_row, png, write_json_lines, write_tar
from xgenmm.starter.toy import COLOURS, SHAPES, draw_picture, write_toy


def write_captions(path: Path, *, shuffled: bool) -> None:
    """Caption pairs of coloured shapes; shuffled: each caption stands beside another row's picture."""
    rng = random.Random(0)
    things = [(rng.choice(list(COLOURS)), rng.choice(SHAPES)) for _ in range(96)]
    captions = [f"{colour} {shape}." for colour, shape in things]
    if shuffled:
        rng.shuffle(captions)
    rows = zip(things, captions, strict=True)
    write_tar(
        path,
        (
            caption_row(f"row{number:03}", png(draw_picture(*thing)), [("This is a", caption)])
            for number, (thing, caption) in enumerate(rows)
        ),
    )


def write_held_out(folder: Path) -> None:
    """Every colour and shape once; ranked among the other colours."""
    folder.mkdir()
    entries = []
    for colour in COLOURS:
        for shape in SHAPES:
            name = f"{colour}-{shape}.png"
            (folder / name).write_bytes(png(draw_picture(colour, shape)))
            entries.append(
                {
                    "id": name,
                    "image": name,
                    "prefix": "This is a",
                    "caption": f" {colour} {shape}.",
                    "references": [f"{colour} {shape}"],
                    "distractors": [f" {other} {shape}." for other in COLOURS if other != colour],
                }
            )
    write_json_lines(folder / "captions.jsonl", entries)


def trained(tmp_path: Path, *, shuffled: bool) -> dict:
    toy, output = tmp_path / "toy", tmp_path / f"runs-{shuffled}"
    write_toy(toy)
    write_captions(tmp_path / f"{shuffled}.tar", shuffled=shuffled)
    settings = json.loads(json.dumps(read_yaml(RECIPES / "debug.yaml")).replace("runs/toy", str(toy)))
    stage = settings["stages"][0]
    del stage["mixture"]  # one source needs no weight
    stage["data"] = [{"name": "pairs", "adapter": "caption_pairs", "path": str(tmp_path / f"{shuffled}.tar")}]
    stage["steps"] = 250
    settings["stages"] = [stage]
    (result,) = run(decode(Recipe, override(settings, [f"output={output}"])))
    model, processor = result.load()
    held_out = HeldOut(model, processor, tmp_path / "heldout")
    return held_out.captions(held_out.read_captions())


@pytest.mark.slow
def test_a_model_that_was_trained_with_shuffled_pictures_fails_the_grounded_figures(tmp_path: Path):
    write_held_out(tmp_path / "heldout")
    right, wrong = (trained(tmp_path, shuffled=shuffled) for shuffled in (False, True))
    gap_right, gap_wrong = (f["caption_loss_shuffled"].value - f["caption_loss_true"].value for f in (right, wrong))
    assert gap_right > 0.3
    assert gap_wrong < 0.1
    assert right["rank_at_10"].value >= wrong["rank_at_10"].value + 0.2  # of six colours: chance is 1/6


def test_a_control_is_never_the_entry_itself():
    talks = [Talk(id=str(n), image=f"{n}.png", caption="", question="", reference="") for n in range(5)]
    controls = rotated(talks)
    assert sorted(c.id for c in controls) == sorted(t.id for t in talks)
    assert all(control.id != talk.id for control, talk in zip(controls, talks, strict=True))


def test_a_missing_or_broken_file_is_named(tmp_path: Path):
    held_out = HeldOut.__new__(HeldOut)
    held_out.folder = tmp_path
    with pytest.raises(ConfigError, match=r"captions\.jsonl is missing"):
        held_out.read_captions()
    (tmp_path / "captions.jsonl").write_text('{"id": "a", "imge": "b"}\n')
    with pytest.raises(ConfigError, match=r"line 1.*imge.*image"):
        held_out.read_captions()


def test_shards_of_equal_rows_are_equal_bytes(tmp_path: Path):
    for name in ("a.tar", "b.tar"):
        write_captions(tmp_path / name, shuffled=False)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        about = json.load(io.TextIOWrapper(archive.extractfile("row000.json")))
    assert about["captions"][0]["prompt"] == "This is a"

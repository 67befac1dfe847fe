"""The starter's held-out sets: a model that ignores pictures fails, and the quickstart's table is the benchmarks'."""

import io
import json
import random
import tarfile
from pathlib import Path

import pytest
from benchmark_rows import write_benchmark
from toy import make_answering_model, make_processor

from xgenmm.cli import main
from xgenmm.config import RECIPES, decode, override, read_yaml
from xgenmm.evaluation.benchmarks import benchmarks
from xgenmm.evaluation.controls import others
from xgenmm.evaluation.run import evaluate_model
from xgenmm.evaluation.settings import EvaluationConfig
from xgenmm.model.weights import save
from xgenmm.quickstart import METRICS, TALKS, answers_of, figures_of
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
    folder.mkdir(parents=True)
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
    stage["steps"] = 150
    settings["stages"] = [stage]
    (result,) = run(decode(Recipe, override(settings, [f"output={output}"])))
    model, processor = result.load()
    config = EvaluationConfig(
        weights="toy", tasks=("starter_captions",), data=str(tmp_path), output=str(output / "evaluation")
    )
    return evaluate_model(config, model, processor)["labels"]["starter_captions"]["aggregate"]


@pytest.mark.slow
def test_a_model_that_was_trained_with_shuffled_pictures_fails_the_grounded_figures(tmp_path: Path):
    write_held_out(tmp_path / "starter" / "heldout")
    right, wrong = (trained(tmp_path, shuffled=shuffled) for shuffled in (False, True))
    gap_right, gap_wrong = (f["loss_shuffled"]["value"] - f["loss"]["value"] for f in (right, wrong))
    assert gap_right > 0.3
    assert gap_wrong < 0.1
    assert right["accuracy"]["value"] >= wrong["accuracy"]["value"] + 0.2  # of six colours: chance is 1/6


@pytest.mark.parametrize("count", [2, 3, 17])
def test_a_control_is_never_the_question_itself(count: int):
    assert sorted(others(count)) == list(range(count))
    assert all(place != other for place, other in enumerate(others(count)))


def test_the_quickstarts_table_has_every_set_but_the_talks():
    starter = {name for name in benchmarks() if name.startswith("starter_")}
    assert set(METRICS) == starter - {TALKS}
    contract = "caption_loss_true caption_loss_shuffled rank_at_10 cider vqa_kind vqa_kind_blank vqa_color"
    contract += " vqa_color_blank yes_no yes_rate multi_image multi_image_blank preference_accuracy attack_success"
    assert {*contract.split(), "over_refusal"} <= {name for places in METRICS.values() for name in places}


def test_every_figure_of_the_table_is_in_the_results_and_in_a_new_scoring(tmp_path: Path, capsys):
    names = [*METRICS, TALKS]
    for name in names:
        write_benchmark(tmp_path / "data", name)
    processor = make_processor("phi3")
    save(make_answering_model(processor), processor, tmp_path / "weights")
    output = str(tmp_path / "out")
    command = ["evaluate", str(tmp_path / "weights"), "--tasks", ",".join(names), "--data", str(tmp_path / "data")]
    assert main([*command, "--output", output]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    figures = figures_of(results)
    missing = {name for places in METRICS.values() for name in places} - set(figures)
    assert missing == {f"preference_accuracy_{aspect}" for aspect in ("complete", "name", "object")}  # no such rows
    assert all(set(figure) == {"value", "low", "high", "n"} for figure in figures.values())
    assert figures["attack_success"]["value"] == 1  # the toy refuses nothing
    assert figures["vqa_kind_majority"]["value"] == 0.5
    answers = answers_of(tmp_path / "out")
    assert [answer["picture"] for answer in answers] == [f"t{place}" for place in range(4)]
    assert answers[1]["image"] == "../pictures/1.png"
    assert main(["evaluate", "--rescore", output, "--profile", "lmms-eval"]) == 0
    again = json.loads((tmp_path / "out" / "rescored-lmms-eval" / "results.json").read_text())
    assert again["results"] == json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert (
        main(["evaluate", str(tmp_path / "weights"), "--tasks", "starter_kind", "--output", str(tmp_path / "o")]) == 1
    )
    assert "Make it with: xgenmm starter" in capsys.readouterr().err


def test_shards_of_equal_rows_are_equal_bytes(tmp_path: Path):
    for name in ("a.tar", "b.tar"):
        write_captions(tmp_path / name, shuffled=False)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        about = json.load(io.TextIOWrapper(archive.extractfile("row000.json")))
    assert about["captions"][0]["prompt"] == "This is a"

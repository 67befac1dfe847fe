"""Evaluation while a model trains: the curve is there, and the training is what it would have been without."""

import json

import pytest
import torch
from benchmark_rows import write_benchmark
from ranks import on_ranks
from safetensors.torch import load_file
from toy import make_answering_model, make_processor

from xgenmm.cli import main
from xgenmm.config import RECIPES, ConfigError, decode, override, read_yaml
from xgenmm.evaluation.watch import Watch, WatchConfig
from xgenmm.recipe.run import run
from xgenmm.recipe.settings import Recipe

TASKS = ("pope", "starter_captions", "starter_kind")


@pytest.mark.slow
def test_the_curve_is_drawn_and_the_training_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_benchmark(tmp_path / "data", "pope")
    settings = [f"stages.{name}.steps=1" for name in ("sft", "interleaved")]
    settings += [f"stages.{name}.{key}" for name in ("dpo", "safety") for key in ("epochs=null", "steps=1")]
    settings += ["stages.pretrain.steps=3"]
    watch = "stages.pretrain.evaluate={tasks: [pope, gqa], data: data, every: 2, limit: 2, profile: lmms-eval}"
    assert main(["train", "debug", "name=with", *settings, watch]) == 0
    assert main(["train", "debug", "name=without", *settings]) == 0
    folder = tmp_path / "runs" / "with" / "pretrain"
    curve = json.loads((folder / "evaluations" / "curve.json").read_text(encoding="utf-8"))
    assert set(curve) == {"pope"}  # gqa has no data: told, and no reason to stop
    assert set(curve["pope"]) == {"2", "3"}
    assert (folder / "evaluations" / "curve.png").read_bytes().startswith(b"\x89PNG")
    for stage in ("pretrain", "safety"):
        paths = [tmp_path / "runs" / run / stage / "weights" / "model.safetensors" for run in ("with", "without")]
        watched, alone = (load_file(path) for path in paths)
        assert watched.keys() == alone.keys()
        assert all(torch.equal(watched[name], alone[name]) for name in alone)


def test_nothing_to_draw_stops_nothing(tmp_path):
    watch = Watch(WatchConfig(tasks=("gqa",), data=str(tmp_path), every=2), tmp_path, 4)
    processor = make_processor("phi3")
    watch.evaluate(2, make_answering_model(processor), processor)  # there is no data
    assert json.loads((tmp_path / "evaluations" / "curve.json").read_text()) == {}


def test_mistakes_are_told_when_the_recipe_is_read():
    for name in ("every", "limit", "batch_size"):
        with pytest.raises(ConfigError, match=rf"evaluate.{name}: must be at least 1, but is 0"):
            decode(WatchConfig, {"tasks": ["pope"], "data": ".", "every": 5, name: 0}, "evaluate")
    with pytest.raises(ConfigError, match='did you mean "pope"'):
        WatchConfig(tasks=("popes",), data=".", every=5)


def train(_, recipe: Recipe) -> None:
    run(recipe)


def evaluations(recipe: Recipe) -> list[dict]:
    """What was evaluated on the way, by step."""
    folder = recipe.folder / "pretrain" / "evaluations"
    assert set(json.loads((folder / "curve.json").read_text())) == set(TASKS)
    return [json.loads((folder / f"step-{step}" / "results.json").read_text())["results"] for step in (2, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_two_processes_evaluate_what_they_train(toy_folder, tmp_path, strategy):
    """Nobody waits for another for ever, and the numbers are those of one process."""
    for name in TASKS:
        write_benchmark(tmp_path / "data", name)
    settings = json.loads(json.dumps(read_yaml(RECIPES / "debug.yaml")).replace("runs/toy", str(toy_folder)))
    stage = settings["stages"][0]
    stage.update(steps=4, evaluate={"tasks": [*TASKS, "gqa"], "data": str(tmp_path / "data"), "every": 2, "limit": 3})
    stage["batch"].update(size=6, micro=1)
    settings.update(stages=[stage])
    found = []
    for name, processes in (("one", []), ("two", [f"parallel.strategy={strategy}"])):
        places = [f"output={tmp_path / name}", f"reading.index={tmp_path / name}"]
        recipe = decode(Recipe, override(settings, [*places, *processes]))
        on_ranks(2, train, tmp_path, recipe) if processes else run(recipe)
        found.append(evaluations(recipe))
    for alone, shared in zip(*found, strict=True):
        for task in TASKS:
            numbers, others = (
                {name: value for name, value in one[task].items() if isinstance(value, float)}
                for one in (alone, shared)
            )
            assert others == pytest.approx(numbers, abs=2e-3), task

"""Whole runs on several processes: they learn what one learns, and go on where another number of them stopped."""

import json
from dataclasses import replace

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file

from xgenmm.config import RECIPES, decode, override, read_yaml
from xgenmm.data.quarantine import read_lines
from xgenmm.recipe.run import run
from xgenmm.recipe.settings import Recipe


def debug(toy, output, *assignments, stages=("pretrain", "dpo")):
    """Stages of the debug recipe on toy data that is there already, with few steps, on rows that hold few samples."""
    settings = json.loads(json.dumps(read_yaml(RECIPES / "debug.yaml")).replace("runs/toy", str(toy)))
    settings["stages"] = [stage for stage in settings["stages"] if stage["name"] in stages]
    for stage in settings["stages"]:
        stage.pop("epochs", None)
        stage.update(steps=4, checkpoint={"every": 2})
        stage["batch"].update(size=6, micro=1)
    return decode(Recipe, override(settings, [f"output={output}", f"reading.index={toy}/index", *assignments]))


def weights(recipe, stage):
    return load_file(recipe.folder / stage / "weights" / "model.safetensors")


def losses(recipe, stage):
    return [line["loss"] for line in read_lines(recipe.folder / stage / "metrics.jsonl")]


def train(_, recipe):
    run(recipe)


def stop_half_way(_, recipe):
    """As if all processes died behind step 2: the run is shorter, and its weights are taken away again."""
    stage = replace(recipe.stages[0], steps=2)
    run(replace(recipe, stages=(stage,)))


@pytest.fixture(scope="module")
def alone(toy_folder, tmp_path_factory):
    recipe = debug(toy_folder, tmp_path_factory.mktemp("alone"))
    run(recipe)
    return recipe


def assert_same_run(recipe, alone, stage):
    assert losses(recipe, stage) == pytest.approx(losses(alone, stage), rel=1e-5)
    found, expected = weights(recipe, stage), weights(alone, stage)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_two_processes_learn_what_one_learns(alone, toy_folder, tmp_path, strategy):
    recipe = debug(toy_folder, tmp_path, f"parallel.strategy={strategy}")
    on_ranks(2, train, tmp_path, recipe)
    for stage in ("pretrain", "dpo"):
        assert_same_run(recipe, alone, stage)
    # what one process says of a step is what all processes did
    for stage in ("pretrain", "dpo"):
        ours, theirs = (read_lines(one.folder / stage / "metrics.jsonl") for one in (recipe, alone))
        for name in ("samples", "tokens", "vision_tokens", "supervised_tokens", "fill", "targets", "dropped"):
            assert [line[name] for line in ours] == [line[name] for line in theirs]
        # weights and gradients travel, and that is told apart from what is computed with them
        assert all(line["speed"]["phases"]["communication"] > 0.01 * line["speed"]["seconds"] for line in ours)
    reports = [json.loads((one.folder / "pretrain" / "data_report.json").read_text()) for one in (recipe, alone)]
    assert reports[0] == reports[1]


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 4])
def test_another_number_of_processes_goes_on(alone, toy_folder, tmp_path, world):
    recipe = debug(toy_folder, tmp_path, "parallel.strategy=fsdp", stages=("pretrain",))
    on_ranks(2, stop_half_way, tmp_path, recipe)
    folder = recipe.folder / "pretrain"
    (folder / "weights").rename(folder / "weights-of-two-steps")
    (folder / "recipe.yaml").write_text((folder / "recipe.yaml").read_text().replace("steps: 2", "steps: 4"))
    on_ranks(world, train, tmp_path, recipe)
    assert_same_run(recipe, alone, "pretrain")


@pytest.mark.slow
def test_a_cached_reference_is_made_by_all(toy_folder, tmp_path):
    first = debug(
        toy_folder, tmp_path / "one", "stages.dpo.objective.reference=cached", "stages.dpo.train.language=true"
    )
    run(first)
    recipe = debug(
        toy_folder, tmp_path / "two", "stages.dpo.objective.reference=cached", "stages.dpo.train.language=true"
    )
    on_ranks(2, train, tmp_path, recipe)
    assert_same_run(recipe, first, "dpo")


@pytest.mark.slow
def test_steps_without_a_picture_move_the_same_weights(toy_folder, tmp_path):
    """The resampler's moments and decay go on in them, whether one process works or several."""
    rows = json.loads((toy_folder / "instructions.json").read_text(encoding="utf-8"))[:2]
    talk = [{"from": "human", "value": "Which colour has the sky?"}, {"from": "gpt", "value": "blue"}]
    rows += [{"id": f"text{number}", "conversations": talk} for number in range(10)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")

    def recipe(folder):
        data = {"path": tmp_path / "rows.json", "images": toy_folder}
        changes = (f"stages.0.data.instructions.{name}={value}" for name, value in data.items())
        return debug(toy_folder, folder, *changes, "stages.0.steps=8", "stages.0.batch.size=2", stages=("sft",))

    one, two = recipe(tmp_path / "one"), recipe(tmp_path / "two")
    run(one)
    on_ranks(2, train, tmp_path, two)
    seen = [line["vision_tokens"] for line in read_lines(one.folder / "sft" / "metrics.jsonl")]
    first = next(step for step, tokens in enumerate(seen) if tokens)
    assert 0 in seen[first:]
    assert_same_run(two, one, "sft")


def train_compiled(_, recipe):
    """Blocks are traced and not translated into machine code, which would take minutes."""
    compile_block = torch.nn.Module.compile
    torch.nn.Module.compile = lambda module: compile_block(module, backend="eager")
    run(recipe)


@pytest.mark.slow
def test_adapters_learn_the_same_from_preferences_in_compiled_blocks(toy_folder, tmp_path):
    few = ("stages.dpo.steps=2", "stages.dpo.batch.micro=6")
    plain = debug(toy_folder, tmp_path / "plain", *few, stages=("dpo",))
    compiled = debug(toy_folder, tmp_path / "compiled", *few, "parallel.compile=true", stages=("dpo",))
    run(plain)
    on_ranks(1, train_compiled, tmp_path, compiled)
    assert_same_run(compiled, plain, "dpo")

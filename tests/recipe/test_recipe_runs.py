"""A run of a recipe leaves what it should, and one that was killed ends like one that was not."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from debug_recipe import STAGES, debug, metrics, same, weights
from safetensors.torch import load_file

from xgenmm.config import ConfigError, encode
from xgenmm.data.quarantine import read_lines
from xgenmm.engines import noised_preferences
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.recipe.run import _settle_precision, run
from xgenmm.recipe.settings import load_recipe
from xgenmm.training.trainer import Trainer


def test_a_run_leaves_what_the_readme_says(straight):
    recipe, results, _ = straight
    assert [result.name for result in results] == list(STAGES)
    for result in results:
        files = {path.name for path in result.folder.iterdir()}
        assert files == {
            *("recipe.yaml", "metrics.jsonl", "data_report.json", "quarantine.jsonl", "result.json"),
            *("checkpoints", "tensorboard", "weights", "report.html"),
        }
        assert (result.steps, result.skipped) == (3, False)
        assert 0 < result.seconds < 60
        assert result.peak_memory_mb > 100
    assert recipe.folder.name == "debug"


def test_hooks_see_the_untrained_model_and_every_stage(straight):
    _, _, seen = straight
    assert [result.name for result in seen] == ["untrained", *STAGES]
    untrained, processor = seen[0].load()
    first, _ = seen[1].load()
    assert processor.config.tokens_per_tile == 4
    assert not untrained.training
    frozen = "vision_encoder.embeddings.patch_embedding.weight"
    assert torch.equal(untrained.get_parameter(frozen), first.get_parameter(frozen))
    assert not torch.equal(untrained.vision_tokenizer.latents, first.vision_tokenizer.latents)
    assert seen[1].load()[1].config.grids == ()
    assert seen[2].load()[1].config.grids == ((1, 2), (2, 1))


def test_the_resolved_recipe_runs_again_to_the_same_weights(straight, tmp_path):
    """It holds the stages up to its own, and the versions that it was made with."""
    _, results, _ = straight
    path = results[1].folder / "recipe.yaml"
    assert f"torch {torch.__version__}" in path.read_text().splitlines()[0]
    again = run(load_recipe(str(path), [f"output={tmp_path}"]))
    assert [result.name for result in again] == ["pretrain", "sft"]
    assert same(weights(again[1].folder), weights(results[1].folder))
    assert metrics(again[1].folder) == metrics(results[1].folder)


def test_what_is_done_is_skipped(straight, monkeypatch):
    recipe, _, _ = straight
    monkeypatch.setattr(Trainer, "run", None)
    seen = []
    assert all(result.skipped and result.steps == 3 for result in run(recipe, after_stage=seen.append))
    assert [result.name for result in seen] == list(STAGES)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("fatal", [2, 8, 11])
def test_a_run_that_was_killed_ends_as_one_that_was_not(straight, toy_folder, tmp_path, monkeypatch, fatal):
    """Killed in the middle of the n-th of its 15 steps: gradients are there, the update is not."""
    _, results, _ = straight
    real, count = Trainer.update, [0]

    def update(self, *arguments):
        count[0] += 1
        if count[0] == fatal:
            raise Killed
        return real(self, *arguments)

    monkeypatch.setattr(Trainer, "update", update)
    recipe = debug(toy_folder, tmp_path)
    with pytest.raises(Killed):
        run(recipe)
    for result, expected in zip(run(recipe), results, strict=True):
        assert same(weights(result.folder), weights(expected.folder))
        assert metrics(result.folder) == metrics(expected.folder)
        one, other = (json.loads((r.folder / "data_report.json").read_text()) for r in (result, expected))
        assert one == other


def test_a_full_disk_at_the_weights_costs_no_training(straight, toy_folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    recipe = debug(toy_folder, tmp_path, stages=1)
    monkeypatch.setattr("xgenmm.model.weights.save_torch_state_dict", full)
    with pytest.raises(OSError, match="No space left"):
        run(recipe)
    monkeypatch.undo()
    steps, real = [], Trainer.update
    monkeypatch.setattr(
        Trainer, "update", lambda self, step, sums: (steps.append(self.name), real(self, step, sums))[1]
    )
    (result,) = run(recipe)
    assert not steps
    assert same(weights(result.folder), weights(straight[1][0].folder))


def test_bfloat16_leaves_frozen_weights_as_they_were(straight, toy_folder, tmp_path):
    """Frozen parts compute in bfloat16, and are saved with the bits that they came with."""
    settings = ["precision=bfloat16", "feature_cache=false", "stages.pretrain.train.language=false"]
    (result,) = run(debug(toy_folder, tmp_path, *settings, stages=1))
    trained, untrained = weights(result.folder), straight[2][0].load()[0].state_dict()
    for name, value in trained.items():
        assert torch.equal(value.float(), untrained[name]) != name.startswith("vision_tokenizer."), name


def test_a_stage_leaves_the_average_of_its_weights(straight, toy_folder, tmp_path):
    """Three steps with half of the old average kept: it begins after the first, so w1 / 4 + w2 / 4 + w3 / 2."""
    settings = ["optim.ema=0.5", "checkpoint.every=1", "checkpoint.keep=3"]
    (result,) = run(debug(toy_folder, tmp_path, *(f"stages.pretrain.{setting}" for setting in settings), stages=1))
    steps = [load_file(result.folder / "checkpoints" / f"step-{n}" / "model-00000.safetensors") for n in (1, 2, 3)]
    last = weights(straight[1][0].folder)
    for name, value in weights(result.folder).items():
        if f"model.{name}" in steps[0]:
            one, two, three = (step.pop(f"model.{name}") for step in steps)
            torch.testing.assert_close(value, one / 4 + two / 4 + three / 2)
            assert torch.equal(three, last[name])  # the average changes nothing in the training
    assert not any(steps)  # all that was saved was compared


def test_a_cached_reference_trains_as_a_live_one(straight, toy_folder, tmp_path, monkeypatch):
    """Also over an interruption, and without a copy of the model or a pass through it beside the policy's."""
    recipe, results, _ = straight
    settings = ["stages.dpo.objective.reference=cached", f"stages.dpo.init={results[2].folder / 'weights'}"]
    cached = debug(toy_folder, tmp_path, *settings, stages=4)
    cached = dataclasses.replace(cached, model=None, stages=cached.stages[3:])
    monkeypatch.delattr(XGenMMForConditionalGeneration, "frozen_reference")
    real, count = Trainer.update, [0]

    def update(self, *arguments):
        count[0] += 1
        if count[0] == 3:  # the first checkpoint is of step 2
            raise Killed
        return real(self, *arguments)

    monkeypatch.setattr(Trainer, "update", update)
    with pytest.raises(Killed):
        run(cached)
    before = (tmp_path / "debug" / "dpo" / "reference.parquet").stat().st_mtime_ns
    (result,) = run(cached)
    assert (result.folder / "reference.parquet").stat().st_mtime_ns == before
    for ours, theirs in zip(metrics(result.folder), metrics(recipe.folder / "dpo"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["figures"] == pytest.approx(theirs["figures"], rel=1e-4, abs=1e-5)


def test_a_stage_of_answers_under_noise(straight, toy_folder, tmp_path, monkeypatch):
    """It trains on what its own first weights say, which is asked once, whether the run is stopped or not."""
    init = straight[1][2].folder / "weights"
    recipe = debug(toy_folder, tmp_path, f"stages.dpo.init={init}", "stages.dpo.noised={max_new_tokens: 4}", stages=4)
    recipe = dataclasses.replace(recipe, model=None, stages=recipe.stages[3:])
    asked = []

    def answer(model, _processor, prompts, config, **_):
        asked.append((model.language_model.lm_head.weight.detach().clone(), config.max_new_tokens))
        return ["mauve" for _ in prompts]

    monkeypatch.setattr(noised_preferences, "continue_prompts", answer)
    (result,) = run(recipe)
    rows = read_lines(result.folder / "noised" / "preferences" / "preferences.jsonl")
    assert {row["rejected"] for row in rows} == {"mauve"}
    assert {row["chosen"] for row in rows} == {row["chosen"] for row in read_lines(toy_folder / "preferences.jsonl")}
    first = weights(straight[1][2].folder)["language_model.model.embed_tokens.weight"]
    assert all(torch.equal(head, first) and tokens == 4 for head, tokens in asked)  # Llama's tied head
    assert len(metrics(result.folder)) == 3


def test_epochs_are_steps_over_all_rows(toy_folder, tmp_path):
    settings = ["stages.pretrain.steps=1", "stages.sft.steps=null", "stages.sft.epochs=1.5"]
    recipe = debug(toy_folder, tmp_path, *settings, stages=2)
    results = run(recipe)
    assert results[1].steps == 6  # 1.5 x 16 rows in fours


def test_precision_is_settled_once_for_a_run(toy_folder, tmp_path, monkeypatch):
    from xgenmm.training.precision import Probe

    recipe = debug(toy_folder, tmp_path, "precision=auto")
    found = {"error": 0.001, "float32_speed_up": 2.0, "float32_error": 1e-6}
    monkeypatch.setattr("xgenmm.recipe.run.probe", lambda _: Probe(speed_up=9.0, **found))
    cpu = torch.device("cpu")
    assert _settle_precision(debug(toy_folder, tmp_path, "precision=float32"), cpu) == ("float32", "highest")
    recipe.folder.mkdir(parents=True)
    assert _settle_precision(recipe, cpu) == ("bfloat16", "medium")
    monkeypatch.setattr("xgenmm.recipe.run.probe", lambda _: Probe(speed_up=0.1, **found))
    assert _settle_precision(recipe, cpu) == ("bfloat16", "medium")
    for damaged in ("", "[]", "{}"):
        (recipe.folder / "precision.json").write_text(damaged)
        with pytest.raises(ConfigError, match=r"precision\.json is damaged .*remove it"):
            _settle_precision(recipe, cpu)


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(straight, tmp_path):
    recipe, results, _ = straight
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**encode(recipe), "output": str(tmp_path)}))
    command = [sys.executable, "-m", "xgenmm.cli", "train", str(path)]
    rng = random.Random(0)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for attempt in range(20):
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            if attempt < 4:
                # wait until something is written, then let it live for another moment
                process.stderr.readline()
                time.sleep(rng.uniform(0.0, 1.5))
                process.send_signal(signal.SIGKILL)
            _, said = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
    for result in results:
        folder = tmp_path / recipe.name / result.name
        assert same(weights(folder), weights(result.folder))
        assert metrics(folder) == metrics(result.folder)

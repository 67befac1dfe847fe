"""Recipes: every shipped one works, mistakes are found early, and a run that was killed ends like one that was not."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from safetensors.torch import load_file

from xgenmm.cli.command import main
from xgenmm.config import RECIPES, ConfigError, decode, encode, override, read_yaml
from xgenmm.data.quarantine import DataError, read_lines
from xgenmm.engines import noised_preferences
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.model.weights import WeightsError
from xgenmm.objectives import OBJECTIVES
from xgenmm.processor.processor import ProcessorConfig
from xgenmm.recipe import checks
from xgenmm.recipe.checks import check
from xgenmm.recipe.run import _settle_precision, run
from xgenmm.recipe.settings import Recipe, load_recipe
from xgenmm.training.trainer import Trainer

SHIPPED = sorted(str(path.relative_to(RECIPES).with_suffix("")) for path in RECIPES.rglob("*.yaml"))
STAGES = ("pretrain", "sft", "interleaved", "dpo", "safety")
TOY_RESAMPLER = {"latents": 2, "depth": 1, "heads": 2, "head_dim": 8, "ff_mult": 2}
TOY_FILES = {
    "caption_pairs": "pairs.tar",
    "mint": "documents.tar",
    "llava": "instructions.json",
    "preference": "preferences.jsonl",
    "vlguard": "safety.json",
}


def debug(toy, output, *assignments, stages=5):
    """The debug recipe (or its first stages) on toy data that is there already, with few steps."""
    settings = json.loads(json.dumps(read_yaml(RECIPES / "debug.yaml")).replace("runs/toy", str(toy)))
    for stage in settings["stages"]:
        stage.pop("epochs", None)
        stage.update(steps=3, checkpoint={"every": 2})
        stage["batch"]["size"] = 4
    settings["stages"] = settings["stages"][:stages]
    return decode(Recipe, override(settings, [f"output={output}", *assignments]))


def weights(folder):
    return load_file(folder / "weights" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def metrics(folder):
    return [
        {key: value for key, value in line.items() if key != "speed"} for line in read_lines(folder / "metrics.jsonl")
    ]


@pytest.fixture(scope="session")
def straight(toy_folder, tmp_path_factory):
    """The debug recipe without interruption, and what its hooks were given."""
    output = tmp_path_factory.mktemp("straight")
    seen = []
    recipe = debug(toy_folder, output)
    results = run(recipe, before_first=seen.append, after_stage=seen.append)
    return recipe, results, seen


# ---- shipped recipes -------------------------------------------------------------------------------------------------


def test_all_recipes_are_found():
    assert {"debug", *(f"paper/{stage}" for stage in STAGES)} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_decodes_and_comes_back(name):
    recipe = load_recipe(name)
    assert decode(Recipe, encode(recipe)) == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_makes_a_step_at_toy_size(name, toy_folder, straight, tmp_path):
    """Its own settings with toy weights and data in place of the paths."""
    settings = encode(load_recipe(name))
    settings.update(output=str(tmp_path), toy=None)
    if settings["model"] is not None:
        backbones = {part: str(toy_folder / part) for part in ("vision", "language")}
        settings["model"].update(backbones, resampler=TOY_RESAMPLER)
    for stage in settings["stages"]:
        if stage["init"] is not None:
            stage["init"] = str(straight[1][1].folder / "weights")
        for source in stage["data"]:
            source.update(path=str(toy_folder / TOY_FILES[source["adapter"]]), images=None)
        stage.update(steps=1, epochs=None)
        stage["batch"].update(size=2, rows=None, micro=1)
        if stage["noised"] is not None:
            stage["noised"].update(max_new_tokens=8)
    recipe = decode(Recipe, settings)
    results = run(recipe)
    assert [len(metrics(result.folder)) for result in results] == [1] * len(recipe.stages)
    assert all((result.folder / "weights" / "config.json").is_file() for result in results)


def test_the_papers_mixture_is_the_published_one():
    """Percentages of arXiv 2408.08872's figure (spec 4.1): MINT-1T 32.5, split 7 : 5 : 1."""
    shares = {source.name: source.weight for source in load_recipe("paper/pretrain").stages[0].data}
    assert sum(shares.values()) == 100
    mint = [shares.pop(f"mint_{part}") for part in ("html", "pdf", "arxiv")]
    assert sum(mint) == 32.5
    assert [share / mint[2] for share in mint] == [7, 5, 1]
    assert shares == {
        "obelics": 17.5,
        "kale": 25,
        "datacomp": 10,
        "ocr_200m": 5,
        "grounding_50m": 5,
        **dict.fromkeys(("cc12m", "cc3m", "sbu", "vg"), 1.25),
    }


def test_the_papers_published_counts_and_rates():
    """Spec 4.2 (the published script and its example mixture), 4.4, 4.5."""
    sft, dpo, safety = (load_recipe(f"paper/{name}").stages[0] for name in ("sft", "dpo", "safety"))
    assert sum(source.samples for source in sft.data) == 816_639
    assert (sft.epochs, sft.batch.size) == (1, 64)
    assert (sft.optim.lr, sft.optim.warmup_steps, sft.optim.weight_decay, sft.optim.clip) == (2e-5, 2000, 0.0, 1.0)
    assert (dpo.epochs, dpo.train.language, dpo.objective["name"]) == (1, "lora", "dpo")
    assert (safety.epochs, safety.data[1].samples) == (3, 5000)


# ---- a run -----------------------------------------------------------------------------------------------------------


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


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stages.sft.optim.lrr=1", 'recipe.stages.sft.optim: unknown setting "lrr"; did you mean "lr"'),
        ("stages.sft.train.resampler=loar", '"loar" is none of lora; did you mean "lora"'),
        ("stages.sft.noised={}", "recipe.stages.sft.noised: answers to noised pictures are for preferences"),
        ("stages.sft.train.vision=lora", "recipe.stages.sft.feature_cache: the vision encoder trains"),
        ("stages.sft.name=pretrain", "each with a name of its own"),
        *((f"stages.sft.name={name}", "cannot be the name of a stage") for name in ("a/b", "..", ".", '""', "lock")),
        ("name=..", 'recipe.name: ".." cannot be the name of a run'),
        ("stages.sft.optim.part_lr={visoin: 1.0e-4}", 'recipe.stages.sft.optim.part_lr: there is no part "visoin"'),
        ("stages.sft.epochs=1", "recipe.stages.sft: give either steps or epochs"),
        ("stages.sft.steps=0", "recipe.stages.sft.steps: must be at least 1, but is 0"),
        (
            "stages.sft.train={vision: false, resampler: false, language: false}",
            "recipe.stages.sft.train: nothing trains",
        ),
        ("stages.dpo.objective.name=dppo", 'there is no objective "dppo"; did you mean "dpo"'),
        ("stages.dpo.objective.betta=1", 'recipe.stages.dpo.objective: unknown setting "betta"; did you mean "beta"'),
        ("stages.sft.data.instructions.adapter=lava", 'unknown adapter "lava"; did you mean "llava"'),
        ("stages.safety.data.guard.path=none.json", 'data set "guard": no file matches none.json'),
        (
            "processor.tokens_per_tile=4",
            "recipe.stages.pretrain.processor.tokens_per_tile: model.resampler.latents says",
        ),
        ("processor.prompt=chatmi", 'there is no format "chatmi"; did you mean "chatml"'),
        ("stages.sft.processor.grid=[]", 'processor: unknown setting "grid"; did you mean "grids"'),
        ("model=null", 'the first stage "pretrain" needs weights'),
        ("model.vision=./none", "recipe.model.vision: there is no folder ./none"),
        ("stages=[]", "recipe.stages: at least one"),
        ("stages.safety.data=[]", "recipe.stages.safety.data: needs at least one source"),
        ("stages.safety.data.guard.weight=0.5", "recipe.stages.safety: data: either all sources have a weight"),
        ("stages.pretrain.data.pairs.weight=0.6", "recipe.stages.pretrain: data: weights add up to 0.9"),
        ("stages.pretrain.data.pairs.weight=-0.7", "recipe.stages.pretrain.data.pairs.weight: must be at least 0"),
        ("stages.pretrain.mixture.schedule={0: {}}", "recipe.stages.pretrain.mixture.schedule: must be at least 1"),
        ("model.resampler.depth=0", "recipe.model.resampler.depth: must be at least 1"),
        ("reading.threads=0", "recipe.reading.threads: must be at least 1, but is 0"),
        ("stages.safety.optim.betas=[0.9, 1.5]", "recipe.stages.safety.optim.betas.1: must be at least 0 and below 1"),
        (
            "stages.safety.optim.clip=.nan",
            "recipe.stages.safety.optim.clip: must be a finite number of no more than 1e+15, but is nan",
        ),
        ("stages.safety.lora.rank=0", "recipe.stages.safety.lora.rank: must be at least 1, but is 0"),
        (
            "stages.dpo.objective.beta=.nan",
            "recipe.stages.dpo.objective.beta: must be a finite number of no more than 1e+15, but is nan",
        ),
        ("stages.safety.processor.max_tokens=0", "recipe.stages.safety.processor.max_tokens: must be at least 1"),
        ("processor.std=[1, 0, 1]", "processor.std.1: must be above 0, but is 0.0"),
        ("processor.grids=[[0, 2]]", "processor.grids.0.0: must be at least 1, but is 0"),
    ],
)
def test_mistakes_are_found_before_anything_runs(toy_folder, tmp_path, assignment, message):
    with pytest.raises(ConfigError) as error:
        check(debug(toy_folder, tmp_path, assignment))
    assert message in str(error.value)


def test_one_process_of_torchrun_keeps_no_copy_of_its_weights_either(toy_folder, tmp_path, monkeypatch):
    whole = debug(toy_folder, tmp_path, "stages.dpo.train={language: true}")
    check(whole)
    monkeypatch.setattr(checks, "started_by_torchrun", lambda: True)
    with pytest.raises(ConfigError, match="processes of torchrun share the weights and keep no copy"):
        check(whole)
    check(debug(toy_folder, tmp_path, "stages.dpo.train={language: true}", "stages.dpo.objective.reference=cached"))


def numbers_of(kind: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every number in a type of settings, with its place, as the type with its bounds."""
    if kind in (int, float) or (get_origin(kind) is Annotated and get_args(kind)[0] in (int, float)):
        yield where, kind
    elif dataclasses.is_dataclass(kind):
        for name, hint in get_type_hints(kind, include_extras=True).items():
            yield from numbers_of(hint, f"{where}.{name}")
    elif get_origin(kind) is not Literal:
        for argument in get_args(kind):
            yield from numbers_of(argument, where)


def test_every_number_of_a_recipe_says_its_bounds():
    """So that none can be written down that trains wrongly, and none is nan."""
    roots = {"recipe": Recipe, "processor": ProcessorConfig, **OBJECTIVES}
    numbers = [found for where, root in roots.items() for found in numbers_of(root, where)]
    assert len(numbers) > 50
    without = {where for where, kind in numbers if get_origin(kind) is not Annotated}
    # a seed may be any number; training does not read the plan
    assert {where for where in without if not where.startswith("recipe.plan.")} == {"recipe.seed"}


def test_a_number_out_of_bounds_is_a_mistake_in_the_recipe(toy_folder, tmp_path, capsys):
    """Exit code 2, one line, and nothing on the disk."""
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(encode(debug(toy_folder, tmp_path / "runs"))))
    assert main(["train", str(path), "stages.safety.optim.part_lr={language: -1}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "xgenmm: recipe.stages.safety.optim.part_lr.language: must be at least 0, but is -1.0"
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_holds_no_weights(toy_folder, tmp_path):
    with pytest.raises(WeightsError, match="holds a model of type 'llama'"):
        check(debug(toy_folder, tmp_path, f"stages.sft.init={toy_folder / 'language'}"))


def test_an_unknown_recipe_offers_the_nearest():
    with pytest.raises(ConfigError, match='neither a file nor one of ours; did you mean "paper/sft"'):
        load_recipe("paper/sfd")


def test_epochs_need_sources_without_weights(toy_folder, tmp_path):
    recipe = debug(toy_folder, tmp_path, "stages.pretrain.steps=null", "stages.pretrain.epochs=1")
    with pytest.raises(ConfigError, match="with weights, sources have no common epoch; give steps"):
        run(recipe)


def test_epochs_are_steps_over_all_rows(toy_folder, tmp_path):
    settings = ["stages.pretrain.steps=1", "stages.sft.steps=null", "stages.sft.epochs=1.5"]
    recipe = debug(toy_folder, tmp_path, *settings, stages=2)
    results = run(recipe)
    assert results[1].steps == 6  # 1.5 x 16 rows in fours


def test_a_run_does_not_go_on_with_other_settings(straight):
    recipe, _, _ = straight
    changed = decode(Recipe, override(encode(recipe), ["stages.sft.optim.lr=5e-4", "stages.dpo.steps=4"]))
    with pytest.raises(
        ConfigError, match=r"sft was begun with other settings: stages\.sft\.optim\.lr was 0\.002 and is 0\.0005\."
    ):
        run(changed)
    # how often to save, where the run lies, what is bearable and how many rows a pass takes do not matter
    watched = "evaluate={every: 9, data: data, tasks: [pope]}"
    free = ("checkpoint.every=1", "batch.micro=3", "batch.max_bad=0.5", "batch.warn_bad=0.5", watched)
    kept = override(encode(recipe), [f"stages.sft.{setting}" for setting in free])
    assert all(result.skipped for result in run(decode(Recipe, kept)))
    with pytest.raises(ConfigError, match=r"stages\.sft\.batch\.size was 4 and is 8"):
        run(decode(Recipe, override(encode(recipe), ["stages.sft.batch.size=8"])))


def test_a_stage_with_another_chat_format_is_refused(toy_folder, tmp_path):
    with pytest.raises(ConfigError, match=r'"phi3" needs tokens that .* lacks'):
        run(debug(toy_folder, tmp_path, "stages.sft.processor={prompt: phi3}"))


def test_a_data_set_without_a_usable_row_stops_before_the_first_step(toy_folder, tmp_path):
    recipe = debug(toy_folder, tmp_path, "processor.max_tokens=10")
    with pytest.raises(DataError, match=r"gives nothing to learn from: none of 16 .*\(16 text_too_long;"):
        run(recipe)


# ---- kill -9 ---------------------------------------------------------------------------------------------------------


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

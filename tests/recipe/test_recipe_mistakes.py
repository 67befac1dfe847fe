"""Mistakes in a recipe are found early, and named with their place."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from debug_recipe import debug

from xgenmm.cli.command import main
from xgenmm.config import ConfigError, decode, encode, override
from xgenmm.data.quarantine import DataError
from xgenmm.model.weights import WeightsError
from xgenmm.objectives import OBJECTIVES
from xgenmm.processor.processor import ProcessorConfig
from xgenmm.recipe import checks
from xgenmm.recipe.checks import check
from xgenmm.recipe.run import run
from xgenmm.recipe.settings import Recipe, load_recipe


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

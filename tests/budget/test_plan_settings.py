"""A plan's settings are those of training, mistakes in them are named, and no import takes seconds."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
import time
import typing
from typing import Any

import pytest

from xgenmm.budget import view
from xgenmm.budget.make import plan_of
from xgenmm.budget.view import load_view
from xgenmm.cli import main
from xgenmm.config import ConfigError, shipped_recipes
from xgenmm.data.adapters import ADAPTERS
from xgenmm.data.loader import ReadConfig
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.planner import BatchConfig
from xgenmm.data.source import SourceConfig
from xgenmm.engines.noise import NoiseConfig
from xgenmm.engines.noised_preferences import NoisedConfig
from xgenmm.evaluation.watch import WatchConfig
from xgenmm.model.lora import LoraConfig
from xgenmm.model.resampler import ResamplerConfig
from xgenmm.model.weights import ModelConfig
from xgenmm.objectives import OBJECTIVES
from xgenmm.objectives.dpo import DpoConfig
from xgenmm.objectives.next_token import NextTokenConfig
from xgenmm.processor.processor import ProcessorConfig
from xgenmm.recipe.checks import check
from xgenmm.recipe.settings import Recipe, StageConfig, TrainConfig, load_recipe
from xgenmm.training.checkpoint import CheckpointConfig
from xgenmm.training.health import HealthConfig
from xgenmm.training.optim import OptimConfig

SMOLLM2 = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
SMOLLM2 |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (view.RecipeView, Recipe),
        (view.StageView, StageConfig),
        (view.TrainView, TrainConfig),
        (view.LoraView, LoraConfig),
        (view.SourceView, SourceConfig),
        (view.BatchView, BatchConfig),
        (view.ModelView, ModelConfig),
        (view.ResamplerView, ResamplerConfig),
        (view.ProcessorView, ProcessorConfig),
        (view.OptimView, OptimConfig),
        (view.NextTokenView, NextTokenConfig),
        (view.DpoView, DpoConfig),
        (view.WatchView, WatchConfig),
        (view.NoisedView, NoisedConfig),
    ],
)
def test_a_plan_reads_the_settings_that_training_reads(ours, theirs):
    # Whoever adds a setting adds its name to the view; whether it costs anything is then a question with an answer.
    views = {field.name: field for field in dataclasses.fields(ours)}
    settings = {field.name: field for field in dataclasses.fields(theirs)}
    for said_by_the_parts in ("tile", "tokens_per_tile") if theirs is ProcessorConfig else ():
        del settings[said_by_the_parts]
    assert views.keys() == settings.keys()
    read, real = (typing.get_type_hints(cls, include_extras=True) for cls in (ours, theirs))
    for name, field in views.items():
        kinds = (real[name], *typing.get_args(real[name]))
        if read[name] is Any:
            levels = [kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
            assert not levels, f"{name} is a level of its own"
        else:
            bounded = [kind for kind in kinds if typing.get_origin(kind) is typing.Annotated]
            assert set(bounded) <= {read[name], *typing.get_args(read[name])}, f"{name} has other bounds"
        if field.type not in ("Any", dataclasses.MISSING) and isinstance(field.default, int | str | float | bool):
            assert field.default == settings[name].default, name


@pytest.mark.parametrize(
    ("keys", "theirs"),
    [
        (view.MIXTURE, MixtureConfig),
        (view.CHECKPOINT, CheckpointConfig),
        (view.HEALTH, HealthConfig),
        (view.READING, ReadConfig),
        (typing.get_type_hints(view.NoisedView, include_extras=True)["noise"].__metadata__[0], NoiseConfig),
    ],
)
def test_names_that_a_plan_does_not_read_are_those_of_training(keys, theirs):
    assert set(keys.names) == {field.name for field in dataclasses.fields(theirs)}


def test_adapters_and_objectives_are_those_of_training():
    assert view.OBJECTIVES.keys() == OBJECTIVES.keys()
    options = {
        name: {p.name for p in inspect.signature(adapter).parameters.values() if p.kind is p.KEYWORD_ONLY}
        for name, adapter in ADAPTERS.items()
    }
    assert {name: set(keys.names) for name, keys in view.ADAPTERS.items()} == options


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("plan.muf=0.5", 'recipe.plan: unknown setting "muf"; did you mean "mfu"'),
        ("stages.0.stepss=1", 'recipe.stages.pretrain: unknown setting "stepss"; did you mean "steps"'),
        ("stages.0.optim.lrr=1", 'recipe.stages.pretrain.optim: unknown setting "lrr"; did you mean "lr"'),
        ("stages.0.checkpoint.evry=1", 'pretrain.checkpoint: unknown setting "evry"; did you mean "every"'),
        ("stages.0.health.spikes=1", 'pretrain.health: unknown setting "spikes"; did you mean "spike"'),
        ("stages.0.mixture.units=tokens", 'pretrain.mixture: unknown setting "units"; did you mean "unit"'),
        ("stages.0.evaluate={task: [pope], data: d, every: 1}", 'unknown setting "task"; did you mean "tasks"'),
        ("stages.0.noised.noise.stepp=1", 'pretrain.noised.noise: unknown setting "stepp"; did you mean "step"'),
        ("stages.0.processor.grid=1", 'pretrain.processor: unknown setting "grid"; did you mean "grids"'),
        ("stages.0.objective={name: dppo}", 'there is no objective "dppo"; did you mean "dpo"'),
        ("stages.0.objective={name: dpo, betta: 1}", 'objective: unknown setting "betta"; did you mean "beta"'),
        ("stages.0.data.obelics.options.images=6", 'unknown setting "images"; did you mean "max_images"'),
        ("stages.0.data.obelics.adapter=mnt", 'data set "obelics": unknown adapter "mnt"; did you mean "mint"'),
        ("processor.grid=1", 'recipe.processor: unknown setting "grid"; did you mean "grids"'),
        ("reading.thread=1", 'recipe.reading: unknown setting "thread"; did you mean "threads"'),
    ],
)
def test_unknown_settings_are_named(assignment, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_view("paper/pretrain", [assignment])


NONSENSE = [
    *("batch.rows=0", "batch.rows=-2", "batch.tokens=-1", "batch.tiles=0", "batch.micro=0", "batch.micro=-1"),
    *("steps=0", "steps=-5", "steps=.inf", "lora.rank=0", "processor.max_tokens=0", "data.vg.samples=0"),
]
NONSENSE = [f"stages.0.{one}" for one in NONSENSE]
NONSENSE += [f"model.resampler.{one}=0" for one in ("latents", "depth", "heads", "head_dim", "ff_mult")]
NONSENSE += ["model.resampler.heads=-1", "model.resampler.depth=999999999", "processor.max_tokens=-1"]


@pytest.mark.parametrize("assignment", NONSENSE)
def test_nonsense_is_refused_by_plan_and_training_alike(assignment, capsys):
    setting = assignment.partition("=")[0].removeprefix("stages.0.")
    assert main(["plan", "paper/pretrain", "stages.0.train.language=lora", assignment]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"{re.escape(setting)}: must be ", line)
    with pytest.raises(ConfigError, match=rf"{setting.split('.')[-1]}:? must be "):
        check(load_recipe("paper/pretrain", [assignment]))


ASSUMED = [f"{name}={value}" for name in ("tflops", "memory", "per_machine", "gpus") for value in (0, -3)]
ASSUMED += [f"{name}={value}" for name in ("mfu", "fill") for value in (0, -1, 2, ".nan", ".inf")]
ASSUMED += [f"{name}={value}" for name in ("vision_share", "supervised_share") for value in (-0.1, 1.5, ".nan")]
ASSUMED += [f"{name}={value}" for name in ("price", "reserve") for value in (-1, ".nan", ".inf")]
ASSUMED += ["document_tokens=0", "tflops=.inf", "tflops=1e-300", "memory=.nan"]


@pytest.mark.parametrize("assignment", ASSUMED)
def test_assumptions_that_cannot_be_meant(assignment, capsys):
    assert main(["plan", "paper/pretrain", f"plan.{assignment}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"recipe.plan.{assignment.partition('=')[0]}: must be " in line


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stages=[]", "recipe.stages: at least one"),
        (
            "stages.0.train={vision: false, resampler: false, language: false}",
            "recipe.stages.pretrain.train: nothing trains",
        ),
        ("stages.0.epochs=1", "recipe.stages.pretrain: give either steps or epochs"),
        ("stages.0.data=[]", "recipe.stages.pretrain.data: needs at least one source"),
        ("plan.reserve=80", "plan.reserve: 80 GB leave nothing of 80 GB (H100)"),
        ("plan.memory=2", "plan.reserve: 3 GB leave nothing of 2 GB (H100)"),
        ("plan.gpu=H1000", 'plan.gpu: "H1000" is not in the table; did you mean "H100"'),
    ],
)
def test_a_recipe_of_which_there_is_no_plan(assignment, message, capsys):
    assert main(["plan", "paper/pretrain", assignment]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("value", ["vision_share=0", "vision_share=1", "supervised_share=0", "price=0", "mfu=1"])
def test_the_ends_of_a_range_have_a_plan(value):
    assert "What breaks first" in plan_of(load_view("paper/pretrain", [f"plan.{value}"]))


def test_a_gpu_that_is_not_in_the_table_is_named():
    with pytest.raises(ConfigError, match=r"plan\.tflops"):
        plan_of(load_view("paper/pretrain", ["plan.gpu=X100"]))


def test_a_gpu_of_the_table_keeps_its_price_whatever_else_is_said():
    text = plan_of(load_view("paper/pretrain", ["plan.tflops=900", "plan.memory=80"]))
    assert "H100: 900 TFLOP/s" in text
    assert "450 GB/s to its 7 neighbours" in text
    assert "$2.5 an hour" in text


def test_a_gpu_that_nobody_knows_is_one_by_its_figures():
    text = plan_of(load_view("paper/pretrain", ["plan.gpu=X100", "plan.tflops=1000", "plan.memory=100"]))
    assert "X100: 1,000 TFLOP/s" in text


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name not in ("starter", "debug")])
def test_every_shipped_recipe_has_a_plan(name):
    text = plan_of(load_view(name))
    assert "Smallest number of H100 that fits" in text
    assert "3,821,079,552" in text


def test_the_command_answers_at_once(capsys):
    code = (
        "import sys; from xgenmm.cli import main; main(['plan', 'paper/pretrain']); assert 'torch' not in sys.modules"
    )
    began = time.process_time()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.process_time() - began < 1
    assert main(["plan", "paper/pretrain", "plan.gpus=64", "plan.gpu=A100"]) == 0
    output = capsys.readouterr().out
    assert "109,901,568" in output
    assert re.search(r"^> 64 ", output, re.MULTILINE)
    assert main(["plan", "paper/pretrian"]) == 2
    assert "paper/pretrain" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(capsys, tmp_path):
    assert main(["plan", "paper/pretrain", f"model.language={tmp_path}/none"]) == 2
    assert f"there is no folder {tmp_path}/none" in capsys.readouterr().err


WHOLE = '{"vision_config": {"model_type": "siglip_vision_model"}, "text_config": {"model_type": "llama"}, "resampler": '


@pytest.mark.parametrize(
    ("files", "assignment"),
    [
        ({}, "stages.0.init={folder}"),
        ({"config.json": "[]"}, "stages.0.init={folder}"),
        ({"config.json": '{"model_type": "llama"}'}, "stages.0.init={folder}"),
        ({"config.json": WHOLE + '{"latent": 3}}'}, "stages.0.init={folder}"),
        ({"config.json": WHOLE + "7}"}, "stages.0.init={folder}"),
        ({"config.json": "[]"}, "model.language={folder}"),
        ({"config.json": "{}"}, "model.language={folder}"),
        ({"config.json": json.dumps(SMOLLM2 | {"num_attention_heads": 0})}, "model.language={folder}"),
        ({"config.json": json.dumps(SMOLLM2 | {"hidden_size": "wide"})}, "model.language={folder}"),
        ({"config.json": json.dumps(SMOLLM2), "tokenizer.json": "{}"}, "model.language={folder}"),
        ({"config.json": "[]"}, "model.vision={folder}"),
    ],
)
def test_a_folder_that_holds_no_model_is_named(files, assignment, tmp_path, capsys):
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert main(["plan", "paper/pretrain", assignment.format(folder=tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line

"""Plans: figures worked out elsewhere, settings that are those of training, and no import that takes seconds."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
import time
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xgenmm.budget import growth, view
from xgenmm.budget.backbones import find_model
from xgenmm.budget.make import plan_of
from xgenmm.budget.plan import plan_stage
from xgenmm.budget.view import ResamplerView, load_view
from xgenmm.cli import main
from xgenmm.config import ConfigError, shipped_recipes
from xgenmm.costs.architectures import model_shape
from xgenmm.costs.flops import Trained
from xgenmm.costs.memory import split_parameters
from xgenmm.costs.sharding import Mesh, ParallelConfig, mesh_of, traffic
from xgenmm.data.adapters import ADAPTERS
from xgenmm.data.loader import ReadConfig
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.planner import BatchConfig
from xgenmm.data.source import SourceConfig
from xgenmm.engines.noise import NoiseConfig
from xgenmm.engines.noised_preferences import NoisedConfig
from xgenmm.evaluation.watch import WatchConfig
from xgenmm.model.layout import layout_of
from xgenmm.model.lora import LoraConfig
from xgenmm.model.resampler import ResamplerConfig
from xgenmm.model.weights import ModelConfig
from xgenmm.objectives import OBJECTIVES
from xgenmm.objectives.dpo import DpoConfig
from xgenmm.objectives.next_token import NextTokenConfig
from xgenmm.processor.processor import ProcessorConfig
from xgenmm.recipe.checks import check
from xgenmm.recipe.drawing import drawn_steps
from xgenmm.recipe.measuring import measure
from xgenmm.recipe.parts import build, make_loader, stage_processor
from xgenmm.recipe.settings import Recipe, StageConfig, TrainConfig, load_recipe
from xgenmm.training.checkpoint import CheckpointConfig
from xgenmm.training.health import HealthConfig
from xgenmm.training.optim import OptimConfig

SMOLLM2 = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
SMOLLM2 |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152}
LONG = ("plan.document_tokens=2048", "stages.pretrain.batch.micro=1")


def first_stage(name, *settings):
    recipe = load_view(name, settings)
    shape, _ = find_model(recipe)
    return plan_stage(recipe, recipe.stages[0], shape)


def paper(*settings):
    return first_stage("paper/pretrain", *LONG, *settings)


def test_the_papers_model_is_counted_as_its_authors_counted_it():
    # The released notebook prints these; its language model has 50,499 more (spec: a stray bias, three new rows).
    counts = paper().counts
    assert counts["vision"].frozen == 428_225_600
    assert counts["resampler"].trained == 109_901_568
    assert counts["language"].trained == 3_821_079_552


def test_a_token_of_pretraining_costs_26_6_gigaflops():
    # By hand, for documents of 2,048 tokens, half of them vision tokens, the encoder frozen: matrices 21.7, attention
    # 1.2, head 0.3, encoder 2.6, resampler 0.74; a hundred billion of them are 747 hours of an H100 at its peak.
    plan = paper()
    each = {name: passes.total / plan.step.work.tokens / 1e9 for name, passes in plan.flops.parts.items()}
    expected = {"linear": 21.7, "attention": 1.2, "head": 0.3, "vision": 2.6, "resampler": 0.74}
    assert each == pytest.approx(expected, rel=0.02)
    hours = 1e11 * plan.performed / plan.step.work.tokens / 989.4e12 / 3600
    assert hours == pytest.approx(747, rel=0.001)


@pytest.mark.parametrize(
    ("world", "gather", "reduce"), [(8, 13.8, 13.8), (16, 14.7, 14.7), (32, 15.2, 15.2), (256, 15.7, 15.7)]
)
def test_fully_sharded_traffic_by_hand(world, gather, reduce):
    # 3.931e9 parameters: put together twice in bfloat16, gradients split once in float32, as rings.
    sent = traffic(
        ParallelConfig(),
        Mesh(replicas=1, shards=world),
        split=3_930_981_120,
        trained=3_930_981_120,
        passes=1,
        weight_bytes=2,
    )
    assert sent.gather / 1e9 == pytest.approx(gather, abs=0.06)
    assert sent.reduce / 1e9 == pytest.approx(reduce, abs=0.06)
    assert sent.replicate == 0


def test_between_machines_only_gradients_travel():
    # By hand: 3.931e9 gradients in 8 shards, 4 bytes each, sent (n - 1)/n of the way twice: 2.0 and 3.8 GB.
    for replicas, expected in ((2, 1.97), (32, 3.81)):
        sent = traffic(
            ParallelConfig(),
            Mesh(replicas=replicas, shards=8),
            split=3_930_981_120,
            trained=3_930_981_120,
            passes=1,
            weight_bytes=2,
        )
        assert sent.replicate / 1e9 == pytest.approx(expected, abs=0.01)


def test_states_are_split():
    # Weights, moments and gradients of what trains: 16 bytes a parameter, 62.9 GB; the encoder's 0.86 are everywhere.
    fleets = {fleet.world: fleet.memory for fleet in paper().fleets}
    for world in (2, 8):
        states = fleets[world].weights + fleets[world].optimizer
        assert states / 1e9 == pytest.approx(47.17 / world + 0.856, abs=0.01)


def test_a_frozen_resampler_is_everywhere():
    shape, _ = find_model(load_view("paper/pretrain"))
    alone = Trained(vision=False, resampler=False, language=True)
    assert split_parameters(shape, alone) == 3_821_079_552
    assert split_parameters(shape, replace(alone, resampler=True)) == 3_821_079_552 + 109_901_568
    assert split_parameters(shape, replace(alone, vision="lora", rank=4)) > 3_821_079_552 + 428_225_600


def test_gradients_between_passes_are_as_they_will_be_sent():
    """3.931e9 of them, 4 bytes or 2 each, whole on every one of 8 GPUs until the last of its passes; and 4 bytes for
    the head's 32,064 x 3,072, which are there before those of other weights.
    """
    rounded = paper("parallel.reduce=bfloat16")
    for plan, each in ((paper(), 4), (rounded, 2)):
        fleet = next(fleet for fleet in plan.fleets if fleet.world == 8)
        assert fleet.passes > 1
        assert fleet.memory.gradients == pytest.approx(each * 3_930_981_120 + 4 * 32_064 * 3072)


def test_several_processes_compute_with_weights_in_bfloat16():
    """By `ddp`, too: nothing is rounded a second time by autocast, so that less is kept of every token."""
    fleets = {fleet.world: fleet.memory for fleet in paper("parallel.strategy=ddp").fleets}
    assert fleets[8].language < fleets[1].language
    assert fleets[8].language == next(fleet.memory.language for fleet in paper().fleets if fleet.world == 8)


def test_a_step_takes_as_long_as_the_gpu_with_most_rows():
    """33 rows on 32 GPUs are two for one of them, 32 of 16 two for each: the same time."""
    plan = first_stage("paper/pretrain", "stages.0.batch.rows=33")
    even = first_stage("paper/pretrain", "stages.0.batch.rows=32")
    odd = {fleet.world: fleet for fleet in plan.fleets}
    row = plan.performed / 33 / (989.4e12 * 0.4)
    assert odd[32].compute == pytest.approx(2 * row)
    assert odd[1].compute == pytest.approx(33 * row)
    assert odd[32].compute == pytest.approx(next(fleet.compute for fleet in even.fleets if fleet.world == 16))
    # two rows at once (`micro`) where a GPU has two, one where it has one
    assert (odd[16].passes, odd[32].passes) == (2, 1)
    many = {fleet.world: fleet.memory.language for fleet in first_stage("paper/pretrain").fleets}
    assert many[256] == pytest.approx(many[64] / 2)


def test_the_smallest_number_is_any_number_of_a_machine():
    """Between 2 GPUs, which are too few, and 4: the table has a line for it."""
    plan = first_stage("paper/pretrain", "plan.document_tokens=2048")
    assert plan.smallest["as it is"] == 3
    assert [fleet.world for fleet in plan.fleets][:5] == [1, 2, 3, 4, 8]
    assert not plan.fleets[1].fits
    six = first_stage("paper/pretrain", "plan.per_machine=6")
    assert [fleet.world for fleet in six.fleets if fleet.world > 3] == [4, 6, 12, 24, 48, 96, 192]


def test_tiles_fill_rows_too():
    """Documents of 2,048 tokens with 8 tiles: 4 tiles in a row are half a document, 1,024 tokens."""
    plan = paper("stages.0.batch.tiles=4")
    assert plan.step.work.tiles == pytest.approx(4 * plan.step.rows)
    assert plan.step.work.tokens == pytest.approx(1024 * plan.step.rows)


def test_a_second_opinion_has_no_adapters():
    live = first_stage("paper/dpo")
    parts = live.flops.parts
    assert live.reference == sum(passes.forward for name, passes in parts.items() if name != "lora")
    assert live.before == 0
    # the same model without adapters at all
    plain = first_stage("paper/dpo", "stages.0.train={resampler: true, language: false}")
    assert live.reference == pytest.approx(plain.flops.sum.forward)


def test_what_a_second_opinion_sends():
    """The language model and its adapters, put together three times in bfloat16; 7/8 of them come from others."""
    live, cached = (first_stage("paper/dpo", f"stages.0.objective.reference={kind}") for kind in ("live", "cached"))
    split = 3_821_079_552 + 100_663_296
    sent = [next(fleet for fleet in plan.fleets if fleet.world == 8) for plan in (live, cached)]
    for fleet, times in zip(sent, (3, 2), strict=True):
        assert fleet.traffic.gather == pytest.approx(fleet.passes * times * 7 / 8 * split * 2)


def test_what_is_written_down_takes_time_as_well():
    settings = ("stages.0.epochs=2", "stages.0.data.vlfeedback.samples=6400", "stages.0.objective.reference=cached")
    plan = first_stage("paper/dpo", *settings)
    live = first_stage("paper/dpo")
    assert plan.reference == 0
    # 64 pairs a step: 200 steps in two epochs, and 100 steps' worth of answers before
    assert plan.steps == 200
    assert plan.before == pytest.approx(100 * live.reference)
    (one, *_) = plan.fleets
    assert one.hours == pytest.approx((200 * plan.performed + plan.before) / (989.4e12 * 0.4) / 3600, rel=0.01)


def test_several_keep_no_copy_of_what_trains(capsys):
    whole = ("stages.0.train.language=true", "stages.0.train.resampler=false", "plan.gpu=B200")
    plan, cached = (
        first_stage("paper/dpo", *whole, f"stages.0.objective.reference={kind}") for kind in ("live", "cached")
    )
    assert [fleet.world for fleet in plan.fleets] == [1]
    copy = plan.fleets[0].memory.weights - cached.fleets[0].memory.weights
    assert copy == 4 * 3_821_079_552
    for several in ("plan.gpus=8", "parallel.offload=true"):
        assert main(["plan", "paper/dpo", *whole, several]) == 2
        assert "keep no copy of them as they were; set cached" in capsys.readouterr().err
    assert main(["plan", "paper/dpo", *whole, "plan.gpu=H100"]) == 0
    assert "What helps: objective.reference=cached or LoRA adapters only" in capsys.readouterr().out


def test_a_row_is_as_long_as_the_weights_say(tmp_path, toy_folder, capsys):
    """A recipe that starts from weights may leave out what is saved with them."""
    settings = {
        "name": "short",
        "stages": [{"name": "sft", "init": str(tmp_path / "w"), "steps": 1, "optim": {"lr": 1}}],
    }
    settings["stages"][0] |= {"data": [{"name": "a", "adapter": "llava", "path": "nowhere"}], "batch": {"rows": 2}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(settings))
    (tmp_path / "w").mkdir()
    parts = {name: json.loads((toy_folder / name / "config.json").read_text()) for name in ("vision", "language")}
    config = {"vision_config": parts["vision"], "text_config": parts["language"], "resampler": {"latents": 8}}
    (tmp_path / "w" / "config.json").write_text(json.dumps(config))
    assert main(["plan", str(tmp_path / "recipe.yaml")]) == 2
    assert "nothing says how long a row is; set it, or processor.max_tokens" in capsys.readouterr().err
    (tmp_path / "w" / "processor_config.json").write_text('{"max_tokens": 300, "prompt": "phi3"}')
    assert main(["plan", str(tmp_path / "recipe.yaml"), "plan.fill=1"]) == 0
    assert "A step: 2 packed rows, 600 tokens in documents of 300" in capsys.readouterr().out


def test_answers_to_noised_pictures_are_not_counted(capsys):
    assert main(["plan", "paper/dpo"]) == 0
    assert "Note: times of dpo_noised leave out the answers to noised pictures" in capsys.readouterr().out


def test_states_elsewhere_leave_the_weights_in_use():
    plan = first_stage("paper/pretrain", "parallel.offload=true", *LONG)
    alone = plan.fleets[0]
    assert alone.world == 1
    assert alone.memory.optimizer == 0
    assert alone.memory.copies > 0
    text = plan_of(load_view("paper/pretrain", ["parallel.offload=true"]))
    assert "times leave out what parallel.offload costs" in text


def test_states_elsewhere_are_torchruns():
    with pytest.raises(ConfigError, match=r"parallel\.offload: .*torchrun --nproc-per-node 1"):
        check(load_recipe("paper/pretrain", ["parallel.offload=true"]))


def test_float32_has_its_own_speed():
    """As NVIDIA states it for an H100 SXM: 67 TFLOP/s without tensor cores, 989.4 in bfloat16."""
    slow, fast = paper("precision=float32"), paper()
    assert slow.fleets[0].compute == pytest.approx(fast.fleets[0].compute * 989.4 / 67)
    assert "H100: 67 TFLOP/s in float32" in plan_of(load_view("paper/pretrain", ["precision=float32"]))


def test_strategies_are_rectangles():
    assert mesh_of(ParallelConfig(strategy="ddp"), 16, 8) == Mesh(replicas=16, shards=1)
    assert mesh_of(ParallelConfig(strategy="fsdp"), 16, 8) == Mesh(replicas=1, shards=16)
    assert mesh_of(ParallelConfig(), 8, 8) == Mesh(replicas=1, shards=8)
    assert mesh_of(ParallelConfig(), 1, 8) == Mesh(replicas=1, shards=1)
    with pytest.raises(ConfigError, match="no multiple"):
        mesh_of(ParallelConfig(), 12, 8)
    with pytest.raises(ConfigError, match='did you mean "language"'):
        ParallelConfig(recompute={"languag": "full"})


def test_computing_again_takes_memory_away_and_adds_operations():
    some, none = paper("parallel.recompute.language=full"), paper()
    selective = paper("parallel.recompute.language=selective")
    kept = [plan.fleets[3].memory.language for plan in (some, selective, none)]
    assert kept[0] < 0.1 * kept[2]
    assert kept == sorted(kept)
    assert some.flops.sum.again > 0.2 * some.flops.sum.forward
    assert selective.flops.sum.again == none.flops.sum.again == 0
    assert some.useful == none.useful


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


def test_a_model_grows_by_the_factor_that_is_asked_for():
    recipe = load_view("paper/pretrain")
    shape, _ = find_model(recipe)
    for one in (
        shape,
        model_shape({"model_type": "siglip_vision_model"}, SMOLLM2, dataclasses.asdict(ResamplerView())),
    ):
        wide = growth.grown(one, 10.0)
        blocks, before = wide.language.blocks, one.language.blocks
        assert blocks.parameters / before.parameters == pytest.approx(10, rel=0.05)
        assert blocks.head_dim == before.head_dim
        assert sum(linear.outputs for linear in blocks.first) == blocks.attention_width + 2 * blocks.kv_width
        assert wide.vision == one.vision
        assert wide.resampler.width_out == blocks.width


def test_what_breaks_first_by_hand():
    """The paper's pre-training: 747 H100-hours at the peak for 100 B tokens, so 1,866 at 40 %: 11.1 GPUs for a week."""
    recipe = load_view("paper/pretrain", LONG)
    shape, _ = find_model(recipe)
    plan = plan_stage(recipe, recipe.stages[0], shape)
    once, ten, hundred = growth.growth(recipe, recipe.stages[0], shape, plan)
    # Whole machines of eight. Of 256 rows, 112 GPUs would have up to three, as 86 would; 128 have two.
    assert (once.gpus, ten.gpus) == (16, 128)
    limits = {limit.name: limit for limit in ten.limits}
    rows = limits["rows of a step, one for each GPU"]
    assert (rows.needed, rows.there) == (128, plan.step.rows)
    # 989.4 TFLOP/s * 0.4 / 26.59 GFLOP a token = 14,884 tokens a second and GPU; half of them vision, 128 a tile: 58.1.
    assert limits["cores that decode tiles"].needed == pytest.approx(128 * 58.1 * 0.006, rel=0.001)
    assert limits["cores that decode tiles"].there == 12 * 128
    # 12 bytes of each of 3.931 B parameters, over 16 machines of 2 GB/s.
    assert limits["writing a checkpoint, between two"].needed == pytest.approx(47.17 / 32, rel=0.001)
    # 50,000 / 128 hours between failures, each of which costs 0.25 + 0.2 hours.
    assert limits["time lost to failures"].needed == pytest.approx(100 * 0.45 / (50_000 / 128))
    assert not ten.broken
    assert hundred.parameters > 8 * ten.parameters
    loads = [limit.load for limit in hundred.broken]
    assert loads == sorted(loads, reverse=True)
    assert hundred.broken[0].name == "rows of a step, one for each GPU"
    text = plan_of(recipe)
    assert re.search(
        r"^100x: rows of a step, one for each GPU \([\d.]+ times what there is\), then ", text, re.MULTILINE
    )


def test_what_breaks_first_stands_in_the_documents_as_it_is_printed():
    text = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    told = re.search(r"plan\.document_tokens=2048` prints\n\n((?:    .*\n)+)", text)
    assert told
    printed = plan_of(load_view("paper/pretrain", ["plan.document_tokens=2048"])).splitlines()
    assert [line for line in told[1].splitlines() if line[4:] not in printed] == []


@pytest.mark.slow
def test_measured_steps_are_those_of_training(toy_folder, tmp_path, capsys):
    at = f"{toy_folder}/"
    settings = [f"model.vision={at}vision", f"model.language={at}language", f"toy={at}", f"output={tmp_path}"]
    data = f"[{{name: toy, adapter: llava, path: {at}instructions.json}}]"
    settings += [f"reading.index={tmp_path}/index", f"stages.sft.data={data}", "stages.sft.batch.size=4"]
    (found,) = measure("debug", settings, ["sft"])
    recipe = load_recipe("debug", settings)
    stage = next(stage for stage in recipe.stages if stage.name == "sft")
    loader = make_loader(recipe, stage, stage_processor(recipe, stage))
    lengths = [
        [segment.length for batch in step.batches for segment in layout_of(batch.documents).segments]
        for step in loader.steps(0, 4)
    ]
    assert found.tokens == sum(map(sum, lengths[1:])) / 3  # the first one sets things up
    assert found.precision == "float32"
    assert sum(found.phases.values()) == pytest.approx(found.seconds, rel=1)  # a mean of three, and their median
    assert 0 < found.utilisation < 1
    assert 0 < found.foretold_memory < found.memory  # of a toy, most is what torch sets up
    assert not (tmp_path / "debug").exists()  # nothing of it is a run
    with pytest.raises(ConfigError, match=r"sft cannot be measured: .*there is no folder"):
        measure("debug", [*settings, f"model.language={tmp_path}/none"], ["sft"])
    assert main(["plan", "debug", *settings, "model.vision=/none", "--measure"]) == 2
    assert "/none" in capsys.readouterr().err


def test_a_plan_of_indexed_data_assumes_nothing_about_them(toy_folder, tmp_path, capsys):
    at = f"{toy_folder}/"
    settings = [f"model.vision={at}vision", f"model.language={at}language", f"toy={at}", f"output={tmp_path}"]
    settings += [
        f"reading.index={tmp_path}/index",
        f"stages.sft.data=[{{name: toy, adapter: llava, path: {at}instructions.json}}]",
    ]
    settings = [*settings, "stages.sft.batch.size=4", "stages.sft.steps=3"]
    recipe = load_recipe("debug", settings)
    assert drawn_steps(recipe) == {}
    stage = next(stage for stage in recipe.stages if stage.name == "sft")
    loader = make_loader(recipe, stage, stage_processor(recipe, stage))  # indexes
    drawn = drawn_steps(recipe)["sft"]
    # What training will really see: its batches, read and counted.
    steps = list(loader.steps(0, 3))
    batches = [batch for step in steps for batch in step.batches]
    segments = [segment for batch in batches for segment in layout_of(batch.documents, batch.branches).segments]
    assert (drawn.steps, drawn.of_steps, drawn.documents) == (3, 3, sum(len(batch.ids) for batch in batches))
    assert drawn.work.tokens == sum(segment.length for segment in segments)
    assert drawn.work.pairs == sum(segment.pairs for segment in segments)
    assert drawn.work.tiles == sum(len(batch.pixel_values) for batch in batches)
    assert drawn.work.targets == pytest.approx(sum(int((batch.labels >= 0).sum()) for batch in batches))
    text = plan_of(load_view("debug", settings), {"sft": drawn})
    assert f"From the data's index: 3 planned steps, {drawn.documents} documents" in text
    view = load_view("debug", settings)
    number = [one.name for one in view.stages].index("sft")
    plan = plan_stage(view, view.stages[number], find_model(view)[0], drawn)
    assert plan.step.work.tokens == drawn.work.tokens / 3
    assert main(["plan", "debug", *settings]) == 0
    assert "From the data's index: 3 planned steps" in capsys.readouterr().out


def test_a_plan_counts_the_model_that_training_builds(toy_folder, tmp_path):
    # From the folders' config.json and tokenizer.json alone, new token rows included.
    at = f"{toy_folder}/"
    settings = [f"model.vision={at}vision", f"model.language={at}language", f"toy={at}", f"output={tmp_path}"]
    shape, notes = find_model(load_view("debug", settings))
    recipe = load_recipe("debug", settings)
    model, processor = build(recipe, recipe.stages[0])
    built = {part: count.trainable + count.frozen for part, count in model.parameter_table().items()}
    assert shape.parameters == built
    assert f"{len(processor.tokenizer)} tokens" in notes[0] or f"among {len(processor.tokenizer)}" in notes[0]

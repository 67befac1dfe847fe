"""Plans: parameters, operations, memory, traffic and hours, against figures worked out elsewhere."""

import json
from dataclasses import replace

import pytest

from xgenmm.budget.backbones import find_model
from xgenmm.budget.make import plan_of
from xgenmm.budget.plan import plan_stage
from xgenmm.budget.view import load_view
from xgenmm.cli import main
from xgenmm.config import ConfigError
from xgenmm.costs.flops import Trained
from xgenmm.costs.memory import split_parameters
from xgenmm.costs.sharding import Mesh, ParallelConfig, mesh_of, traffic
from xgenmm.recipe.checks import check
from xgenmm.recipe.settings import load_recipe

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

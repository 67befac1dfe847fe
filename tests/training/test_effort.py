"""Utilisation: operations that torch counts while a packed step runs, over what the machine can do."""

import itertools
import types

import pytest
import torch
from flop_counting import flop_counter
from toy import make_examples, make_toy_model

from xgenmm.costs.architectures import model_shape
from xgenmm.costs.flops import Trained, Work
from xgenmm.data.loader import Step
from xgenmm.data.quarantine import Fault
from xgenmm.model.layout import Segment
from xgenmm.objectives.next_token import next_token
from xgenmm.processor.packing import pack
from xgenmm.training import effort
from xgenmm.training.effort import Effort, effort_of, peak_flops
from xgenmm.training.parallel import blocks_of, compute_again
from xgenmm.training.sums import Sums, add_up

ONE, GRID = (0, 0, 30, 30), (2, 2, 56, 56)
ALL = {"vision": True, "resampler": True, "language": True}


def shape_of(model):
    config = model.config
    return model_shape(config.vision_config.to_dict(), config.text_config.to_dict(), config.resampler)


def packed_steps():
    """Two rows: pictures of one tile and of five, text alone; documents of 28 to 60 tokens."""
    one = pack(make_examples([[GRID], [], [ONE, ONE]], length=60), pad_id=256)
    other = pack(make_examples([[], [ONE]], length=30, seed=1), pad_id=256)
    return one, other


def step_of(*batches, faults=()):
    return Step(number=0, batches=batches, sources={}, faults=faults, wait=0.0, tallies={}, plan={})


@pytest.mark.parametrize("recompute", [{}, {"language": "full", "vision": "full"}], ids=["kept", "computed again"])
@pytest.mark.parametrize("trains", [ALL, {**ALL, "vision": False}], ids=["all", "frozen encoder"])
def test_a_packed_step_costs_what_torch_counts(trains, recompute):
    model = make_toy_model("llama").train()
    model.set_trainable(**trains)
    for part, name in (("vision", "vision_encoder"), ("language", "language_model")):
        for block in blocks_of(model.get_submodule(name)):
            compute_again(block, recompute.get(part, "none"))
    batches = packed_steps()
    with flop_counter() as counter:
        for batch in batches:
            next_token(model, batch).loss.backward()
    work = add_up(step_of(*batches), Sums()).work
    assert work.tiles == 8
    costs = (
        Effort(shape=shape_of(model), trained=Trained(**trains, recompute=recompute, fused=True), peak=1.0)
        .flops(work)
        .sum
    )
    assert costs.total == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert bool(costs.again) == bool(recompute)


def test_utilisation_by_hand():
    """A step of 12 GFLOP, 3 of them made again, in 2 s on a machine of 24 GFLOP/s."""
    told = {"vision": (2e9, 0.0, 0.0), "linear": (3e9, 4e9, 3e9)}
    shape, trained = shape_of(make_toy_model()), Trained()
    machine = Effort(shape=shape, trained=trained, peak=24e9)
    work = Work(tiles=4, tokens=10, pairs=20, targets=5)
    parts = {name: effort.Passes(*passes) for name, passes in told.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effort, "step_flops", lambda *_: effort.Flops(parts=parts))
        found = machine.utilisation(work, seconds=2.0)
        assert (found.mfu, found.hfu) == pytest.approx((9 / 48, 12 / 48))
        assert found.parts == pytest.approx({"vision": 2 / 48, "linear": 7 / 48})
        # Three of four tiles were looked up; and with a reference every forward pass is made twice.
        assert machine.utilisation(work, 2.0, remembered=3).parts["vision"] == pytest.approx(0.5 / 48)
        compares = Effort(shape=shape, trained=trained, compares=True, peak=24e9)
        assert compares.utilisation(work, 2.0).parts["reference"] == pytest.approx(5 / 48)
        assert compares.utilisation(work, 2.0, remembered=4).parts["vision"] == pytest.approx(1 / 48)


def test_what_could_not_be_read_is_no_work():
    one, _ = packed_steps()
    fault = Fault(source="toy", id="row1", reason="image_damaged", detail="")
    whole, rest = (add_up(step_of(one, faults=faults), Sums()).work for faults in ((), (fault,)))
    assert (whole.tokens, rest.tokens) == (60 + 59 + 58, 60 + 58)
    assert whole.pairs - rest.pairs == 59 * 60 / 2


@pytest.mark.parametrize("segment", [Segment(start=0, trunk=7), Segment(start=3, trunk=5, branches=(4, 2))])
def test_pairs_are_those_that_see_each_other(segment):
    assert segment.pairs == int(segment.visible().sum())


def test_the_peak_of_a_processor_is_that_of_its_fastest_product(monkeypatch):
    """By a clock of computing time, of two threads, of which products take 40, 20 and 90 ms: 2 * 2048 * 1024 * 1024
    operations in 10 ms.
    """
    clock = types.SimpleNamespace(now=0.0, process_time=lambda: clock.now)
    times = itertools.cycle([0.04, 0.02, 0.09])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    real = torch.nn.functional.linear

    def product(inputs, weight):
        assert (inputs.shape, weight.shape, inputs.dtype) == ((2048, 1024), (1024, 1024), torch.bfloat16)
        clock.now += next(times)
        return real(inputs[:1], weight[:1])

    monkeypatch.setattr(effort, "time", clock)
    monkeypatch.setattr(torch.nn.functional, "linear", product)
    assert peak_flops.__wrapped__(torch.device("cpu"), "bfloat16") == pytest.approx(2 * 2048 * 1024 * 1024 / 0.01)


def test_a_gpu_that_is_known_is_not_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    assert peak_flops.__wrapped__(torch.device("cuda", 0), "bfloat16") == 989.4e12


def test_a_model_of_unknown_sizes_is_trained_without(monkeypatch, caplog):
    def unknown(*_):
        raise effort.ConfigError('no sizes for language models of type "stablelm"')

    monkeypatch.setattr(effort, "model_shape", unknown)
    with caplog.at_level("INFO"):
        found = effort_of(make_toy_model(), Trained(), compares=False, device=torch.device("cpu"), precision="float32")
    assert found is None
    assert "utilisation is not told" in caplog.text

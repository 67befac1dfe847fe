"""Whole runs on two processes that stop: all at the same step, for the same reason, and going on bit for bit."""

import os
import signal
import time

import pytest
import torch
from ranks import on_ranks
from test_parallel_runs import debug, losses, train, weights
from torch.distributed.tensor import DTensor

from xgenmm.data.quarantine import read_lines
from xgenmm.recipe.run import run
from xgenmm.training.health import TrainingError
from xgenmm.training.ranks import rank
from xgenmm.training.stopping import Stopped
from xgenmm.training.trainer import Trainer


def on_step(number, do):
    """Let one rank, the second, do something before it accumulates a step."""
    real = Trainer.accumulate

    def accumulate(self, step):
        if step.number == number and rank() == 1:
            do(self)
        return real(self, step)

    Trainer.accumulate = accumulate


def stop_by_a_signal_to_one(_, recipe):
    on_step(1, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="stopped after 2 steps") as stopped:
        run(recipe)
    assert stopped.value.exit_code == 143  # also where no signal came


def spoil_on_one(_, recipe):
    """Rank 1 alone has a gradient that is not finite, at step 2; its weights are as good as the other's."""

    def spoil(trainer):
        accumulate = trainer.accumulate

        def spoilt(step):
            sums = accumulate(step)
            latents = trainer.model.vision_tokenizer.latents.grad
            (latents.to_local() if isinstance(latents, DTensor) else latents).fill_(float("inf"))
            return sums

        trainer.accumulate = spoilt

    on_step(1, spoil)  # holds from the step after
    with pytest.raises(TrainingError, match=r"step 2: .*gradient norm (inf|nan) must be finite"):
        run(recipe)


def hang_on_one(_, recipe):
    on_step(1, lambda _: time.sleep(2.0))
    run(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_stopped_by_a_signal_to_one_they_end_as_if_nobody_had(toy_folder, tmp_path, strategy):
    settings = (f"parallel.strategy={strategy}", "stages.pretrain.checkpoint.every=3")
    straight, stopped = (debug(toy_folder, tmp_path / name, *settings, stages=("pretrain",)) for name in ("a", "b"))
    on_ranks(2, train, tmp_path, straight)
    on_ranks(2, stop_by_a_signal_to_one, tmp_path, stopped)
    assert (stopped.folder / "pretrain/checkpoints/step-2/manifest.json").is_file()
    on_ranks(2, train, tmp_path, stopped)
    assert losses(stopped, "pretrain") == losses(straight, "pretrain")
    ours, theirs = weights(stopped, "pretrain"), weights(straight, "pretrain")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_what_is_not_finite_on_one_stops_all_before_the_update(toy_folder, tmp_path):
    recipe = debug(toy_folder, tmp_path, "parallel.strategy=fsdp", stages=("pretrain",))
    on_ranks(2, spoil_on_one, tmp_path, recipe)
    lines = read_lines(recipe.folder / "pretrain/non_finite.jsonl")
    assert [(line["step"], line["rank"]) for line in lines] == [(2, 0), (2, 1)]
    assert all(line["documents"] for line in lines)
    assert len(losses(recipe, "pretrain")) == 2


@pytest.mark.slow
def test_each_tells_its_own_stacks(toy_folder, tmp_path):
    """The one that hangs, and the one that waits for it."""
    settings = ("parallel.strategy=fsdp", "stages.pretrain.health.hang_seconds=1.5", "stages.pretrain.steps=2")
    recipe = debug(toy_folder, tmp_path, *settings, stages=("pretrain",))
    on_ranks(2, hang_on_one, tmp_path, recipe)
    waiting, hanging = (recipe.folder / f"pretrain/stacks-{number}.txt" for number in (0, 1))
    assert "step 1, after" in hanging.read_text()
    assert "hang_on_one" in hanging.read_text()
    assert waiting.exists()

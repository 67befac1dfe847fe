"""What tests compare of trainers, and how they end them."""

import torch

from xgenmm.data.quarantine import read_lines


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def metrics(folder):
    """All records but for what is allowed to differ."""
    return [
        {key: value for key, value in line.items() if key != "speed"} for line in read_lines(folder / "metrics.jsonl")
    ]


def gradients(trainer, step=0):
    sums = trainer.accumulate(next(iter(trainer.loader.steps(step, step + 1))))
    return sums, {n: p.grad / sums.count for n, p in trainer.model.named_parameters() if p.grad is not None}


class Killed(BaseException):
    """Stands for kill -9 after a checkpoint was written: nothing cleans up but what Python does by itself."""


def killed_after(step):
    def after_step(trainer):
        if trainer.progress.step == step:
            trainer.checkpoints.wait()
            raise Killed

    return after_step

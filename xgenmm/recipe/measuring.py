"""A few steps of each stage on this machine, beside what is foretold of them: `xgenmm plan RECIPE --measure`.

Every stage is measured in a process of its own, because a peak of memory belongs to a process.
"""

import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

import torch

from xgenmm.budget.measured import Measured
from xgenmm.config import ConfigError, decode, encode
from xgenmm.costs.flops import Flops, Work
from xgenmm.costs.memory import step_memory
from xgenmm.costs.sharding import Mesh
from xgenmm.costs.speed import REACHED
from xgenmm.recipe.checks import check
from xgenmm.recipe.run import prepare, trained_of
from xgenmm.recipe.settings import Recipe, StageConfig, load_recipe
from xgenmm.training.metrics import peak_memory_mb
from xgenmm.training.parallel import processes
from xgenmm.training.precision import probe
from xgenmm.training.sums import Sums, add_up

STEPS = 4
"""Steps that are made; the first one sets things up and does not count."""


def measure(recipe: str, assignments: Sequence[str], stages: Sequence[str]) -> list[Measured]:
    """Measure stages of a recipe, one after the other, where their data are.

    Raises:
        ConfigError: A stage cannot be put together on this machine.
    """
    # Without its own pools of freed memory, the C library gives back what torch frees, so that the peak is torch's.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    found = []
    for stage in stages:
        program = [sys.executable, "-m", "xgenmm.recipe.measuring", recipe, stage, *assignments]
        result = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
        if result.returncode:
            raise ConfigError(f"{stage} cannot be measured: {(result.stderr.strip().splitlines() or ['killed'])[-1]}")
        found.append(decode(Measured, json.loads(result.stdout.splitlines()[-1]), stage))
    return found


def measure_stage(recipe: Recipe, stage: StageConfig) -> Measured:
    """Make some steps of a stage that begins with new weights, or with those of the first `init` before it."""
    with processes() as device, tempfile.TemporaryDirectory() as folder:
        settled = recipe.precision if recipe.precision != "auto" else probe(device).choice
        alone, stage = _alone(recipe, stage, folder)
        check(alone)
        trainer = prepare(alone, stage, Path(folder), settled, device).trainer
        effort = trainer.effort
        if effort is None:
            raise ConfigError("the sizes of the model are not known, so nothing can be foretold of it")
        trainer.model.train()
        warm = torch.randn(256, 256, requires_grad=True, device=device)
        (warm @ warm).sum().backward()  # what torch sets up once is nobody's
        gc.collect()
        # All that is there but weights (libraries, tokenizers, indexes) is no part of what is foretold.
        others = _memory(device) - sum(p.numel() * p.element_size() for p in trainer.model.parameters())
        _forget_peak(device)
        seconds: list[float] = []
        phases: list[dict[str, float]] = []
        steps: list[tuple[Work, Flops]] = []
        passes: list[Work] = []
        with closing(trainer.loader.steps(0, STEPS)) as data:
            for step in data:
                with trainer.clock.step(0.0):
                    totals = add_up(step, trainer.accumulate(step))
                    trainer.update(step, totals.sums)
                passes += [add_up(dataclasses.replace(step, batches=(batch,)), Sums()).work for batch in step.batches]
                seconds.append(trainer.clock.seconds)
                phases.append({str(name): spent for name, spent in trainer.clock.phases.items()})
                steps.append((totals.work, effort.flops(totals.work, totals.sums.remembered)))
        peak = peak_memory_mb(device) * 1e6 if device.type == "cuda" else _status("VmHWM")
    reached = REACHED[settled] if device.type == "cpu" else recipe.plan.mfu
    flops = sum(flops.sum.total for _, flops in steps[1:]) / len(steps[1:])
    memory = step_memory(
        effort.shape,
        trained_of(recipe, stage, device),
        Work(**{name: max(vars(one)[name] for one in passes) for name in vars(passes[0])}),
        parallel=recipe.parallel,
        mesh=Mesh(replicas=1, shards=1),
        precision=settled,
        several=len(passes) > len(steps),
        average=stage.optim.ema is not None,
        copied=stage.compares and True in vars(stage.train).values(),
        cpu=device.type == "cpu",
    )
    return Measured(
        name=stage.name,
        precision=settled,
        tokens=sum(work.tokens for work, _ in steps[1:]) / len(steps[1:]),
        seconds=median(seconds[1:]),
        phases={name: sum(one[name] for one in phases[1:]) / len(phases[1:]) for name in phases[0]},
        foretold_seconds=flops / (effort.peak * reached),
        flops=flops,
        peak=effort.peak,
        memory=peak - others,
        foretold_memory=float(memory.sum),
    )


def _alone(recipe: Recipe, stage: StageConfig, folder: str) -> tuple[Recipe, StageConfig]:
    """A recipe of this stage only, in a folder that will be gone; what it takes over from those before is its own."""
    before = recipe.stages[: recipe.stages.index(stage)]
    inits = [one.init for one in (*before, stage) if one.init is not None]
    processor = {name: value for one in (*before, stage) for name, value in one.processor.items()}
    alone = dataclasses.replace(
        stage,
        init=inits[-1] if inits else None,
        processor=processor,
        steps=STEPS,
        epochs=None,
        evaluate=None,
        noised=None,
    )
    reading = dataclasses.replace(recipe.reading, prefetch_mb=1)
    return dataclasses.replace(recipe, output=folder, stages=(alone,), reading=reading, trackers=()), alone


def _memory(device: torch.device) -> float:
    """Bytes that are in use now."""
    return float(torch.cuda.memory_allocated(device)) if device.type == "cuda" else _status("VmRSS")


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the mark falls to what is there now


def _status(name: str) -> float:
    """Bytes of this process by the kernel's count (Linux)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise ConfigError("memory is measured by /proc, which this system does not have") from error
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024.0


def main(arguments: Sequence[str]) -> int:
    """Measure one stage, for `measure`: recipe, stage, settings; writes JSON."""
    name, wanted, *assignments = arguments
    try:
        recipe = load_recipe(name, assignments)
        stage = next(stage for stage in recipe.stages if stage.name == wanted)
        sys.stdout.write(json.dumps(encode(measure_stage(recipe, stage))) + "\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

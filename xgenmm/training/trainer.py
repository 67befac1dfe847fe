"""The training loop. Knows no data set, no benchmark and no objective by name.

What a step does is a function of (weights before it, settings, seed, step number) and of nothing else; so a run that
was stopped anywhere and goes on from its newest checkpoint ends with the weights and records of one that was not.
"""

import dataclasses
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from xgenmm.config import decode, encode
from xgenmm.data.loader import Loader, Step
from xgenmm.data.permutation import keyed
from xgenmm.data.quarantine import Quarantine
from xgenmm.data.report import Tally, add_tallies, check_losses, data_report
from xgenmm.model.vlm import PARTS, XGenMMForConditionalGeneration
from xgenmm.objectives.objective import Objective, ObjectiveOutput
from xgenmm.training.checkpoint import CheckpointConfig, Checkpoints, training_tensors
from xgenmm.training.metrics import Journal, Speed, StepRecord, peak_memory_mb
from xgenmm.training.optim import (
    OptimConfig,
    build_optimizer,
    gradient_norm,
    lr_share,
    scale_gradients,
    set_learning_rates,
    update_average,
)
from xgenmm.training.precision import Precision, autocast
from xgenmm.training.ranks import highest
from xgenmm.training.stopping import Stopped, asked_to_stop
from xgenmm.types import Batch

log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what happened and what to do."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """What the loop itself must know."""

    steps: int
    seed: int
    precision: Precision
    optim: OptimConfig
    checkpoint: CheckpointConfig


@dataclass(kw_only=True)
class Progress:
    """What is saved with a checkpoint beside weights and moments."""

    step: int = 0
    """Steps that are done."""
    seconds: float = 0.0
    """Time spent so far, over all interruptions."""
    tallies: dict[str, Tally] = field(default_factory=dict)


@dataclass(kw_only=True)
class Sums:
    """What a step's micro-batches add up to."""

    losses: list[float] = field(default_factory=list)
    """Of each micro-batch."""
    count: int = 0
    """Supervised tokens, or pairs."""
    figures: Counter[str] = field(default_factory=Counter)
    source_losses: Counter[str] = field(default_factory=Counter)
    source_counts: Counter[str] = field(default_factory=Counter)

    @property
    def loss(self) -> float:
        return sum(self.losses)

    def add(self, output: ObjectiveOutput, sources: Sequence[str]) -> None:
        """Add a micro-batch; `sources` are those of its documents."""
        self.losses.append(output.loss.item())
        self.count += output.count
        self.figures.update(output.figures)
        documents = zip(sources, output.document_losses.tolist(), output.document_counts.tolist(), strict=True)
        for source, loss, count in documents:
            self.source_losses[source] += loss
            self.source_counts[source] += count


class Trainer:
    """Moves the weights of a model for a number of steps, in a folder of its own, where it can be resumed."""

    def __init__(
        self,
        *,
        name: str,
        model: XGenMMForConditionalGeneration,
        objective: Objective,
        loader: Loader,
        config: TrainerConfig,
        folder: Path,
        after_step: Callable[["Trainer"], None] | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            name: What logs call the run.
            model: On its device, with `requires_grad` set on what trains.
            objective: Built with this model before any checkpoint was loaded.
            loader: The steps' data.
            config: The rest.
            folder: Gets metrics, quarantine, data report and checkpoints.
            after_step: Called when a step is done and written down.
        """
        self.name = name
        self.model = model
        self.objective = objective
        self.loader = loader
        self.config = config
        self.folder = folder
        self.after_step = after_step
        self.device = next(model.parameters()).device
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(config.optim, model, PARTS)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
        self.progress = Progress()

    def run(self) -> Progress:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises:
            TrainingError: A loss or a gradient is not finite; the weights before that step are the last ones.
            DataError: Too much of a data set is unusable.
            CheckpointError: A checkpoint cannot be written or read.
            Stopped: A signal asked for it; everything is saved.
        """
        self.resume()
        self.model.train()
        start, steps = self.progress.step, self.config.steps
        quarantine = Quarantine(self.folder / "quarantine.jsonl", start)
        quarantine.add(-1, self.loader.shard_faults)
        journal = Journal(self.folder, self.name, start, steps)
        with closing(journal), asked_to_stop() as asked, self.checkpoints, _deterministic(self.device):
            with closing(self.loader.steps(start, steps)) as data:
                stall = 0.0
                for step in data:
                    began = time.perf_counter()
                    rates = set_learning_rates(self.optimizer, lr_share(self.config.optim, step.number, steps))
                    sums = self.accumulate(step)
                    norm = self.update(step, sums)
                    seconds = time.perf_counter() - began + step.wait
                    self.count(step, seconds + stall)
                    journal.write(self.record(step, sums, norm, rates, seconds, stall))
                    quarantine.add(step.number, step.faults)
                    check_losses(self.progress.tallies, self.loader.batch.max_bad)
                    if self.after_step is not None:
                        self.after_step(self)
                    stop, failed = highest(asked.signal_number, self.checkpoints.failed)
                    if failed:
                        self.checkpoints.wait()
                    due = self.progress.step % self.config.checkpoint.every == 0
                    stall = self.save() if stop or due else 0.0
                    if stop:
                        self.checkpoints.wait()
                        raise Stopped(stop, self.progress.step)
            self.save()
            self.checkpoints.wait()
        return self.progress

    def accumulate(self, step: Step) -> Sums:
        """Forward and backward for every micro-batch; gradients add up to that of the sum of all losses."""
        # Drawn anew from its number at every step, so that no random state has to be saved and none can be lost.
        torch.manual_seed(keyed(self.config.seed, "step", step.number))
        self.optimizer.zero_grad()
        sums = Sums()
        for batch in step.batches:
            with autocast(self.device, self.config.precision):
                output = self.objective(self.model, to_device(batch, self.device))
            if output.count:
                output.loss.backward()
            sums.add(output, [step.sources[name] for name in batch.ids])
        return sums

    def update(self, step: Step, sums: Sums) -> float | None:
        """One optimizer step with the mean gradient, clipped; gives its norm before that. Without targets, no step.

        Raises:
            TrainingError: Loss or gradient is not finite. Nothing was updated.
        """
        if not sums.count:
            return None
        # The sum of losses was differentiated, because the number of targets is known only after the last micro-batch;
        # mean and clip are one more factor.
        norm = gradient_norm(self.parameters).item() / sums.count
        if not (math.isfinite(sums.loss) and math.isfinite(norm)):
            self.report_non_finite(step, sums, norm)
        clip = min(1.0, self.config.optim.clip / (norm + 1e-6))
        scale_gradients(self.parameters, clip / sums.count)
        self.optimizer.step()
        if self.config.optim.ema is not None:
            update_average(self.optimizer, self.config.optim.ema)
        return norm

    def count(self, step: Step, seconds: float) -> None:
        """Note that a step is done."""
        self.progress.step = step.number + 1
        self.progress.seconds += seconds
        add_tallies(self.progress.tallies, step.tallies)

    def record(
        self, step: Step, sums: Sums, norm: float | None, rates: Mapping[str, float], seconds: float, stall: float
    ) -> StepRecord:
        """The step's line in the metrics."""
        samples = sum(tally.samples for tally in step.tallies.values())
        tokens = sum(int((batch.documents >= 0).sum()) for batch in step.batches)
        positions = sum(len(batch.documents) for batch in step.batches)
        return StepRecord(
            step=step.number,
            loss=sums.loss / sums.count if sums.count else None,
            lr=rates,
            grad_norm=norm,
            samples=samples,
            dropped=len(step.faults),
            tokens=tokens,
            padding=1 - tokens / positions if positions else 0.0,
            targets=sums.count,
            source_loss={name: sums.source_losses[name] / n for name, n in sums.source_counts.items() if n},
            figures={name: value / sums.count for name, value in sums.figures.items()} if sums.count else {},
            speed=Speed(
                seconds=seconds,
                tokens_per_second=tokens / seconds,
                samples_per_second=samples / seconds,
                wait_share=step.wait / seconds,
                memory_mb=peak_memory_mb(self.device),
                save_seconds=stall,
            ),
        )

    def report_non_finite(self, step: Step, sums: Sums, norm: float) -> None:
        """Write down what the step was made of, and stop."""
        path = self.folder / "non_finite.json"
        batches = [{"ids": batch.ids, "loss": loss} for batch, loss in zip(step.batches, sums.losses, strict=True)]
        content = {"step": step.number, "gradient_norm": norm, "micro_batches": batches}
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        raise TrainingError(
            f"step {step.number}: loss {sums.loss} and gradient norm {norm} must be finite. The weights "
            f"were not changed; the step's sample ids are in {path}. A lower learning rate may help."
        )

    def save(self) -> float:
        """Begin a checkpoint of this moment, unless there is one; gives for how many seconds that took."""
        if self.checkpoints.newest == self.progress.step:
            return 0.0
        began = time.perf_counter()
        if self.model.feature_cache is not None:
            # Features that were computed before the checkpoint must not be computed in other batches after it.
            self.model.feature_cache.flush()
        report = data_report(self.progress.tallies, self.loader.shares)
        (self.folder / "data_report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        tensors = training_tensors(self.model, self.optimizer)
        self.checkpoints.save(self.progress.step, tensors, encode(self.progress))
        return time.perf_counter() - began

    def resume(self) -> None:
        """Go to the newest sound checkpoint, if there is one."""
        found = self.checkpoints.load(self.model, self.optimizer)
        if found is None:
            return
        path, state = found
        self.progress = decode(Progress, state, str(path))
        log.info("%s goes on from %s", self.name, path)


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On a CPU, the same numbers every time: some sums (into rows of a table) otherwise depend on threads."""
    if device.type != "cpu":
        yield
        return
    memory: Any = torch.utils.deterministic
    before, filled = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # costs time, and nobody here reads what nobody wrote
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled


def to_device(batch: Batch, device: torch.device) -> Batch:
    """What is computed with. What says where things stand remains on the CPU: reading it there waits for no GPU."""
    moved = {
        name: getattr(batch, name).to(device, non_blocking=True)
        for name in ("input_ids", "position_ids", "pixel_values")
    }
    return dataclasses.replace(batch, **moved)

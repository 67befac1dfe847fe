"""The training loop. Knows no data set, no benchmark and no objective by name.

What a step does is a function of (weights before it, settings, seed, step number) and of nothing else; so a run that
was stopped anywhere and goes on from its newest checkpoint ends with the weights and records of one that was not.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from xgenmm.config import decode, encode
from xgenmm.data.loader import Loader, Step
from xgenmm.data.permutation import keyed
from xgenmm.data.report import Tally, add_tallies, check_losses, data_report
from xgenmm.files import write_whole
from xgenmm.model.vlm import PARTS, XGenMMForConditionalGeneration
from xgenmm.objectives.objective import Objective, ObjectiveOutput
from xgenmm.phases import Clock, phase
from xgenmm.training.checkpoint import CheckpointConfig, Checkpoints, training_tensors
from xgenmm.training.effort import Effort
from xgenmm.training.health import Health, HealthConfig, HealthState
from xgenmm.training.metrics import Incident, Speed, StepRecord, peak_memory_mb
from xgenmm.training.optim import (
    OptimConfig,
    build_optimizer,
    complete_gradients,
    gradient_norm,
    lr_share,
    scale_gradients,
    set_learning_rates,
    update_average,
)
from xgenmm.training.parallel import adding_up, computing
from xgenmm.training.precision import Precision
from xgenmm.training.ranks import highest, rank
from xgenmm.training.records import open_records
from xgenmm.training.stopping import Asked, Stopped, asked_to_stop
from xgenmm.training.sums import Sums, Totals, add_up
from xgenmm.training.trackers import TrackerName
from xgenmm.training.watchdog import Watchdog
from xgenmm.types import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """What the loop itself must know."""

    steps: int
    seed: int
    precision: Precision
    optim: OptimConfig
    checkpoint: CheckpointConfig
    health: HealthConfig
    trackers: tuple[TrackerName, ...] = ()


@dataclass(kw_only=True)
class Progress:
    """What is saved with a checkpoint beside weights and moments."""

    step: int = 0
    """Steps that are done."""
    seconds: float = 0.0
    """Time spent so far, over all interruptions."""
    tallies: dict[str, Tally] = field(default_factory=dict)
    health: HealthState = field(default_factory=HealthState)
    plan: dict[str, Any] | None = None
    """The planner's state behind these steps."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """How the weights were moved by a step."""

    norm: float | None = None
    """Of the mean gradient, before clipping; None if they were not moved."""
    incident: Incident | None = None


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
        effort: Effort | None = None,
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
            effort: What utilisation is told by; None: it is not told.
            after_step: Called when a step is done and written down.
        """
        self.name = name
        self.model = model
        self.objective = objective
        self.loader = loader
        self.config = config
        self.folder = folder
        self.effort = effort
        self.after_step = after_step
        self.device = model.device
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(config.optim, model, PARTS)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
        self.health = Health(config.health, folder)
        self.watchdog = Watchdog(folder, config.health.hang_seconds, leave=config.health.hang_exit)
        self.clock = Clock(self.device)
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
        self.health.begin(start)
        faults, trackers = self.loader.shard_faults(), self.config.trackers
        records = open_records(self.folder, self.name, start, steps, faults, trackers)
        with closing(records), asked_to_stop() as asked, self.checkpoints, self.watchdog, _deterministic(self.device):
            with closing(self.loader.steps(start, steps, self.progress.plan)) as data:
                stall = 0.0
                for step in data:
                    self.watchdog.begin(f"step {step.number}", tuple(step.sources))
                    with self.clock.step(step.wait):
                        rates = set_learning_rates(self.optimizer, lr_share(self.config.optim, step.number, steps))
                        totals = add_up(step, self.accumulate(step))
                        update = self.update(step, totals.sums)
                    stall += self.checkpoints.keep_up(step.number + 1)
                    self.count(step, totals, self.clock.seconds + stall)
                    records.write(self.record(step, totals, update, rates, stall), totals.faults)
                    check_losses(self.progress.tallies, self.loader.batch.max_bad, self.loader.batch.warn_bad)
                    if self.after_step is not None:
                        self.watchdog.rest()
                        self.after_step(self)
                    self.watchdog.begin(f"what follows step {step.number}: saving, data")
                    stall = self.save_or_stop(asked)
            self.save()
            self.checkpoints.wait()
            # While a last checkpoint is written there is time for a signal, and the next stage would not know of it.
            self.save_or_stop(asked)
        return self.progress

    def accumulate(self, step: Step) -> Sums:
        """Forward and backward for every micro-batch; gradients add up to that of the sum of all losses."""
        # Drawn anew from its number at every step, so that no random state has to be saved and none can be lost.
        torch.manual_seed(keyed(self.config.seed, "step", step.number, rank()))
        self.optimizer.zero_grad()
        hits, outputs = self.looked_up, list[ObjectiveOutput]()
        for number, batch in enumerate(step.batches, 1):
            with adding_up(self.model, last=number == len(step.batches)):
                on_device = to_device(batch, self.device)
                with phase("lm_forward"), computing(self.model, self.device, self.config.precision):
                    output = self.objective(self.model, on_device)
                if output.loss.requires_grad:  # also without targets: other processes may have some, and wait
                    with phase("backward"):
                        output.loss.backward()
            outputs.append(dataclasses.replace(output, loss=output.loss.detach()))
        # Read only now: to ask for a number is to wait for the device.
        sums = Sums(remembered=self.looked_up - hits)
        for batch, output in zip(step.batches, outputs, strict=True):
            sums.add(output, batch.ids, step.sources)
        return sums

    @property
    def looked_up(self) -> int:
        """Tiles so far whose features came out of the feature cache."""
        return 0 if self.model.feature_cache is None else self.model.feature_cache.hits

    @phase("optimizer")
    def update(self, step: Step, sums: Sums) -> Update:
        """One optimizer step with the mean gradient, clipped. Without targets there is none.

        Raises:
            TrainingError: Loss or gradient are not finite, once too often. Nothing was updated.
        """
        if not sums.count:
            return Update()
        complete_gradients(self.parameters)
        # The sum of losses was differentiated, because the number of targets is known only after the last micro-batch;
        # mean and clip are one more factor.
        norm = gradient_norm(self.parameters).item() / sums.count
        incident = self.health.examine(self.progress.health, step.number, sums, norm)
        if incident is not None and incident.skipped:
            return Update(incident=incident)
        clip = min(1.0, self.config.optim.clip / (norm + 1e-6))
        scale_gradients(self.parameters, clip / sums.count)
        self.optimizer.step()
        if self.config.optim.ema is not None:
            update_average(self.optimizer, self.config.optim.ema)
        return Update(norm=norm, incident=incident)

    def count(self, step: Step, totals: Totals, seconds: float) -> None:
        """Note that a step is done."""
        self.progress.step = step.number + 1
        self.progress.seconds += seconds
        self.progress.plan = dict(step.plan)
        add_tallies(self.progress.tallies, totals.tallies)

    def record(
        self, step: Step, totals: Totals, update: Update, rates: Mapping[str, float], stall: float
    ) -> StepRecord:
        """The step's line in the metrics."""
        sums, samples = totals.sums, sum(tally.samples for tally in totals.tallies.values())
        count = 0 if update.incident is not None and update.incident.skipped else sums.count
        vision = int(totals.work.tiles) * self.model.config.resampler_config.latents
        return StepRecord(
            step=step.number,
            loss=sums.loss / count if count else None,
            lr=rates,
            grad_norm=update.norm,
            samples=samples,
            dropped=len(totals.faults),
            tokens=int(totals.work.tokens),
            vision_tokens=vision,
            supervised_tokens=int(totals.work.targets),
            fill=totals.work.tokens / totals.positions if totals.positions else 1.0,
            targets=sums.count,
            source_loss={name: sums.source_losses[name] / n for name, n in sums.source_counts.items() if count and n},
            figures={name: value / count for name, value in sums.figures.items()} if count else {},
            incident=update.incident,
            speed=self.speed(totals, vision, samples, stall),
        )

    def speed(self, totals: Totals, vision: int, samples: int, stall: float) -> Speed:
        """How fast the last step was.

        Args:
            totals: What it held.
            vision: Vision tokens among its tokens.
            samples: That it held.
            stall: Seconds for which the disk held it up.
        """
        seconds, work = self.clock.seconds, totals.work
        return Speed(
            seconds=seconds,
            phases=self.clock.phases,
            tokens_per_second=work.tokens / seconds,
            text_tokens_per_second=(work.tokens - vision) / seconds,
            vision_tokens_per_second=vision / seconds,
            supervised_tokens_per_second=work.targets / seconds,
            samples_per_second=samples / seconds,
            wait_share=totals.wait / seconds,
            utilisation=None if self.effort is None else self.effort.utilisation(work, seconds, totals.sums.remembered),
            memory_mb=peak_memory_mb(self.device),
            save_seconds=stall,
        )

    def save_or_stop(self, asked: Asked) -> float:
        """Save where that is due, at a moment on which all ranks agree; gives for how many seconds that took.

        Raises:
            CheckpointError: The one before could not be written.
            Stopped: A signal asked for it; everything is saved.
        """
        stop, failed = highest(asked.signal_number, self.checkpoints.failed)
        if failed:
            self.checkpoints.wait()
        due = self.progress.step % self.config.checkpoint.every == 0
        seconds = self.save() if stop or due else 0.0
        if stop:
            self.checkpoints.wait()
            raise Stopped(stop, self.progress.step)
        return seconds

    def save(self) -> float:
        """Begin a checkpoint of this moment, unless there is one; gives for how many seconds that took."""
        if self.checkpoints.newest == self.progress.step:
            return 0.0
        began = time.perf_counter()
        if self.model.feature_cache is not None:
            # Features that were computed before the checkpoint must not be computed in other batches after it.
            self.model.feature_cache.flush()
        if rank() == 0:
            report = data_report(self.progress.tallies, self.loader.shares, self.loader.mixture.unit)
            write_whole(self.folder / "data_report.json", json.dumps(report, indent=1))
        self.optimizer.zero_grad()  # nobody needs the gradients any more, and the copy needs room
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

"""What a run tells while it runs: JSON lines, TensorBoard, and a bar (or plain lines) for whoever waits."""

import json
import logging
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from xgenmm.data.quarantine import read_lines

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
"""How often a run without a terminal says where it is."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a step was: what differs from run to run, kept apart from what must not."""

    seconds: float
    tokens_per_second: float
    """Text and vision tokens."""
    samples_per_second: float
    wait_share: float
    """Part of the step's time that was spent waiting for data."""
    memory_mb: float
    """Largest memory of the process so far; on a GPU, the largest that torch had there."""
    save_seconds: float
    """For how long the disk held up training, before this step (to copy) or in it (to wait); not part of `seconds`."""


@dataclass(frozen=True, kw_only=True)
class Incident:
    """What was wrong or odd about a step."""

    skipped: bool = False
    """Loss or gradient were not finite, and the weights did not move; `non_finite.jsonl` has the sample ids."""
    loss: float | str | None = None
    """Of a skipped step, the sum over its targets."""
    grad_norm: float | str | None = None
    spike: float | None = None
    """How many robust standard deviations the loss lay above the last ones."""
    ids: Sequence[str] = ()
    """The samples with the highest losses in a spike."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One line of `metrics.jsonl`. All but `speed` is a function of recipe and seed."""

    step: int
    """Counted from 0."""
    loss: float | None
    """Mean over supervised tokens (or pairs); None where every row was unusable, or the step was skipped."""
    lr: Mapping[str, float]
    """By part."""
    grad_norm: float | None
    """Before clipping."""
    samples: int
    dropped: int
    """Unusable rows."""
    tokens: int
    """Text and vision tokens, without padding."""
    padding: float
    """Share of positions that are padding."""
    targets: int
    """Supervised tokens (or pairs)."""
    source_loss: Mapping[str, float]
    """Mean loss of each source that the step holds."""
    figures: Mapping[str, float]
    """The objective's own, as means."""
    incident: Incident | None
    """None for all but a few steps."""
    speed: Speed


class Journal:
    """Writes every step's record and shows the progress. A resumed run forgets the records from its first step on."""

    def __init__(self, folder: Path, title: str, start: int, steps: int) -> None:
        """Open the files.

        Args:
            folder: The stage's; gets `metrics.jsonl` and `tensorboard/`.
            title: What the bar calls the run.
            start: First step that will come.
            steps: Number of steps of the whole run.
        """
        path = folder / "metrics.jsonl"
        kept = [line for line in read_lines(path) if line["step"] < start]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=start)
        self._title, self._steps, self._start = title, steps, start
        self._began = self._last_line = time.perf_counter()
        # The bar redraws itself and would fill a log file: it is for terminals only.
        self._bar = _make_bar() if sys.stderr.isatty() else None
        if self._bar is not None:
            self._task = self._bar.add_task(title, total=steps, completed=start, status="")
            self._bar.start()

    def write(self, record: StepRecord) -> None:
        """Note a step."""
        self._file.write(json.dumps(asdict(record)) + "\n")
        self._file.flush()
        for name, value in _scalars(asdict(record)):
            self._board.add_scalar(name, value, record.step)
        status = _describe(record)
        if self._bar is not None:
            self._bar.update(self._task, completed=record.step + 1, status=status)
        elif self._is_due(record.step):
            left = (
                (time.perf_counter() - self._began) / (record.step + 1 - self._start) * (self._steps - record.step - 1)
            )
            log.info("%s %d/%d  %s  %.0f s left", self._title, record.step + 1, self._steps, status, left)

    def close(self) -> None:
        """Finish the files and the bar."""
        if self._bar is not None:
            self._bar.stop()
        self._board.close()
        self._file.close()

    def _is_due(self, step: int) -> bool:
        now = time.perf_counter()
        if step not in (self._start, self._steps - 1) and now - self._last_line < SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory of this process so far, in MB; on a GPU, of torch on it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _make_bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def _describe(record: StepRecord) -> str:
    loss = "no data" if record.loss is None else f"loss {record.loss:.3f}"
    speed = record.speed
    waiting = f"  waits for data {speed.wait_share:.0%}" if speed.wait_share >= 0.1 else ""
    return f"{loss}  {speed.tokens_per_second:,.0f} tokens/s{waiting}"


def _scalars(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """All numbers of a nested mapping, named by their path, less the step, which is the axis, and incidents."""
    scalars: list[tuple[str, float]] = []
    for key, value in values.items():
        if key == "incident":
            continue
        if isinstance(value, Mapping):
            scalars += _scalars(value, f"{prefix}{key}/")
        elif value is not None and key != "step":
            scalars.append((f"{prefix}{key}", float(value)))
    return scalars

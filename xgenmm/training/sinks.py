"""Where the records of steps go: a file of JSON lines, TensorBoard, whoever sits before the terminal."""

import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from xgenmm.data.quarantine import read_lines
from xgenmm.files import write_whole
from xgenmm.training.metrics import METRICS, Speed, StepRecord, scalars

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
"""How often a run without a terminal says where it is."""
SHORT = {
    "data_wait": "data",
    "lm_forward": "forward",
    "communication": "comm",
}
"""What the terminal calls phases with long names."""


@runtime_checkable
class Sink(Protocol):
    """Takes the record of every step."""

    def write(self, record: StepRecord) -> None:
        """Note a step."""
        ...

    def close(self) -> None:
        """Finish."""
        ...


class JsonLines:
    """`metrics.jsonl`: a line per step, at once. A resumed run forgets those that come again."""

    def __init__(self, folder: Path, start: int) -> None:
        """Open the file of a stage whose next step is `start`."""
        path = folder / METRICS
        kept = [line for line in read_lines(path) if line["step"] < start]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: StepRecord) -> None:
        """Note a step."""
        self._file.write(json.dumps(asdict(record)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """The same numbers for TensorBoard, in `tensorboard/`."""

    def __init__(self, folder: Path, start: int) -> None:
        """Open the events of a stage whose next step is `start`."""
        self._board = SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=start)

    def write(self, record: StepRecord) -> None:
        """Note a step."""
        for name, value in scalars(asdict(record)):
            self._board.add_scalar(name, value, record.step)

    def close(self) -> None:
        """Close the file."""
        self._board.close()


class Terminal:
    """A bar with a line of figures on a terminal, now and then a plain line elsewhere."""

    def __init__(self, title: str, start: int, steps: int) -> None:
        """Show the bar.

        Args:
            title: What the run is called.
            start: First step that will come.
            steps: Number of steps of the whole run.
        """
        self._title, self._steps, self._start = title, steps, start
        self._began = self._last_line = time.perf_counter()
        self._live: Live | None = None
        # The bar redraws itself and would fill a log file: it is for terminals only.
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[loss]}"), TimeRemainingColumn())
            self._task = self._bar.add_task(title, total=steps, completed=start, loss="")
            self._live = Live(self._bar, console=Console(stderr=True), refresh_per_second=4)
            self._live.start()

    def write(self, record: StepRecord) -> None:
        """Show a step."""
        loss, sources, figures = describe_loss(record), describe_sources(record), describe(record)
        if self._live is not None:
            # What grows with the number of sources stands below: the bar and the time left need their room.
            self._bar.update(self._task, completed=record.step + 1, loss=loss)
            lines = [line for line in (sources, figures) if line]
            self._live.update(Group(self._bar, *(Text(line, style="dim") for line in lines)))
        elif self._is_due(record.step):
            done, left = record.step + 1 - self._start, self._steps - record.step - 1
            seconds = (time.perf_counter() - self._began) / done * left
            loss += f" ({sources})" if sources else ""
            log.info("%s %d/%d  %s  %s  %.0f s left", self._title, record.step + 1, self._steps, loss, figures, seconds)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._live is not None:
            self._live.stop()

    def _is_due(self, step: int) -> bool:
        now = time.perf_counter()
        if step not in (self._start, self._steps - 1) and now - self._last_line < SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True


def describe_loss(record: StepRecord) -> str:
    """The loss, or why there is none."""
    if record.loss is not None:
        return f"loss {record.loss:.3f}"
    return "not finite, left out" if record.incident is not None and record.incident.skipped else "no data"


def describe_sources(record: StepRecord) -> str:
    """The loss of every source, if there are several."""
    losses = sorted(record.source_loss.items())
    return ", ".join(f"{name} {loss:.3f}" for name, loss in losses) if len(losses) > 1 else ""


def describe(record: StepRecord) -> str:
    """All other figures of a step in a line."""
    speed = record.speed
    parts = [
        f"{speed.tokens_per_second:,.0f} tokens/s ({speed.vision_tokens_per_second:,.0f} vision, "
        f"{speed.supervised_tokens_per_second:,.0f} supervised)",
        describe_utilisation(speed),
        f"fill {record.fill:.0%}",
        f"{speed.memory_mb / 1000:.1f} GB",
        describe_phases(speed),
    ]
    return "  ".join(part for part in parts if part)


def describe_utilisation(speed: Speed) -> str:
    """MFU; HFU beside it, where something was computed twice."""
    if (utilisation := speed.utilisation) is None:
        return ""
    mfu, hfu = f"{utilisation.mfu:.0%}", f"{utilisation.hfu:.0%}"
    return f"MFU {mfu}" if mfu == hfu else f"MFU {mfu} (HFU {hfu})"


def describe_phases(speed: Speed) -> str:
    """Shares of the step's time, those that round to nothing left out; waiting for data is told in any case.

    The process that is described may have had its data while another one waited: that is said, too.
    """
    shares = {name: seconds / speed.seconds for name, seconds in speed.phases.items()}
    told = [
        f"{SHORT.get(name, name)} {share:.0%}"
        for name, share in shares.items()
        if share >= 0.005 or name == "data_wait"
    ]
    if speed.wait_share - shares["data_wait"] >= 0.05:
        told.append(f"another process waits for data {speed.wait_share:.0%}")
    return ", ".join(told)

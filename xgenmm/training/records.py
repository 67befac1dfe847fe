"""What a run writes down step by step. One process of a run writes; the others have nothing to say."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from xgenmm.data.quarantine import Fault, Quarantine
from xgenmm.training.metrics import StepRecord
from xgenmm.training.ranks import rank
from xgenmm.training.sinks import JsonLines, Sink, TensorBoard, Terminal
from xgenmm.training.stage_page import StagePage
from xgenmm.training.trackers import Tracker, TrackerName


@runtime_checkable
class Records(Protocol):
    """Takes what every step has to say."""

    def write(self, record: StepRecord, faults: Iterable[Fault]) -> None:
        """Note a step, and rows of it that could not be used."""
        ...

    def close(self) -> None:
        """Finish the files."""
        ...


class Files:
    """The records of the first process, in a stage's folder."""

    def __init__(
        self,
        folder: Path,
        title: str,
        start: int,
        steps: int,
        shard_faults: Iterable[Fault],
        trackers: Sequence[TrackerName] = (),
    ) -> None:
        """Open the files, less what they hold of steps that come again.

        Args:
            folder: The stage's.
            title: What the progress bar calls the run.
            start: First step that will come.
            steps: Number of steps of the whole run.
            shard_faults: What is known to be unusable before the first step.
            trackers: Who else gets the numbers.
        """
        self.quarantine = Quarantine(folder / "quarantine.jsonl", start)
        self.quarantine.add(-1, shard_faults)
        self.sinks: list[Sink] = [
            JsonLines(folder, start),
            TensorBoard(folder, start),
            Terminal(title, start, steps),
            StagePage(folder),
            *(Tracker(name, folder) for name in trackers),
        ]

    def write(self, record: StepRecord, faults: Iterable[Fault]) -> None:
        """Note a step, and rows of it that could not be used."""
        for sink in self.sinks:
            sink.write(record)
        self.quarantine.add(record.step, faults)

    def close(self) -> None:
        """Finish the files."""
        for sink in self.sinks:
            sink.close()


class Silence:
    """The records of every other process: what it knows has been added to the first one's."""

    def write(self, record: StepRecord, faults: Iterable[Fault]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def open_records(
    folder: Path,
    title: str,
    start: int,
    steps: int,
    shard_faults: Iterable[Fault],
    trackers: Sequence[TrackerName] = (),
) -> Records:
    """This process's records; the arguments are those of `Files`."""
    return Files(folder, title, start, steps, shard_faults, trackers) if rank() == 0 else Silence()

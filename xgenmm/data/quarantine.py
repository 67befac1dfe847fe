"""What could not be used, and why: nothing is dropped in silence and nothing takes its place."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xgenmm.files import write_whole


class BadSample(ValueError):
    """A row that cannot become a sample. Reasons are short fixed words, so that they can be counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class DataError(RuntimeError):
    """A data set as a whole cannot be trained on; the message names it and says what was found."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One line of `quarantine.jsonl`: a sample, or a shard, that was left out."""

    source: str
    id: str
    reason: str
    detail: str


class Quarantine:
    """Appends to `quarantine.jsonl`, each fault once with the first step that met it.

    A run that resumes at step N forgets the lines of later steps: they come again, and the file ends up as if nothing
    had happened. Faults of step -1 are those that the index found.
    """

    def __init__(self, path: Path, start_step: int) -> None:
        self.path = path
        kept = [line for line in read_lines(path) if line["step"] < start_step] if start_step else []
        self._seen = {(line["id"], line["reason"]) for line in kept}
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))

    def add(self, step: int, faults: Iterable[Fault]) -> None:
        """Write those faults that were not written before."""
        new = [fault for fault in faults if (fault.id, fault.reason) not in self._seen]
        if not new:
            return
        self._seen |= {(fault.id, fault.reason) for fault in new}
        with self.path.open("a", encoding="utf-8") as file:
            for fault in new:
                file.write(json.dumps({"step": step, **dataclasses.asdict(fault)}) + "\n")


def read_lines(path: Path) -> list[dict]:
    """The lines of a JSON-lines file of ours, less a last one that a crash cut off. A missing file has none."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]

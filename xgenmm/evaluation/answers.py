"""What a model answered, item by item, on disk as soon as it is known: a killed evaluation goes on where it was.

Every process appends to a part of its own, and reads all parts before it begins; so the next start may have another
number of processes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xgenmm.config import decode
from xgenmm.data.quarantine import read_lines


@dataclass(frozen=True, kw_only=True)
class Answer:
    """To one item of one task."""

    place: int
    """Of the item in the task's order."""
    prompt: str
    """As the model read it, `<image>` for each picture."""
    text: str
    """As the model wrote it, or the given answer that it finds likeliest; empty where there was none."""
    fault: str = ""
    """Why there was none, as `reason: detail`: such an item is wrong, and counted apart."""
    demonstrations: tuple[int, ...] = ()
    """Places in the train split of what the prompt showed first."""
    logps: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Log-probability of each given answer: `seen` with the pictures, and under the names of the controls."""
    tokens: tuple[int, ...] = ()
    """Of each given answer."""


class AnswerStore:
    """The answers of one task, shot count and trial in one folder."""

    def __init__(self, folder: Path, label: str, rank: int) -> None:
        """Read what is there.

        Args:
            folder: Of the parts; made if it is not there.
            label: Names the task, shots and trial.
            rank: This process.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.label = folder, label
        self.path = folder / f"{label}.{rank}.jsonl"
        drop_cut_line(self.path)
        self.answers = self.read()

    def read(self) -> dict[int, Answer]:
        """All answers of all processes by place."""
        found = {}
        for path in sorted(self.folder.glob(f"{self.label}.*.jsonl")):
            for line in read_lines(path):
                answer = decode(Answer, line, str(path))
                found[answer.place] = answer
        return found

    def add(self, answers: Iterable[Answer]) -> None:
        """Append answers; they are on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            for answer in answers:
                file.write(to_line(asdict(answer)))
                self.answers[answer.place] = answer
            file.flush()


def to_line(content: Mapping[str, Any]) -> str:
    """A line of a JSON-lines file."""
    return json.dumps(content, ensure_ascii=False, default=str) + "\n"


def drop_cut_line(path: Path) -> None:
    """Cut off a last line that a crash left without its end: what is appended would run into it."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)

"""A run folder as values: its figures, logs and answers. Judges nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xgenmm.config import decode
from xgenmm.data.quarantine import read_lines
from xgenmm.evaluation.statistics import Figure
from xgenmm.evaluation.words import STAGES


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, read."""

    figures: Mapping[str, Mapping[str, Figure]]
    """Stage -> metric -> figure, stages in the order in which they were trained."""
    costs: Mapping[str, Mapping[str, float]]
    """Stage -> seconds and peak_memory_mb."""
    logs: Mapping[str, Sequence[Mapping[str, Any]]]
    """Stage -> one entry per training step."""
    answers: Sequence[Mapping[str, str]]
    environment: Mapping[str, Any]

    @property
    def last_stage(self) -> str:
        """The stage that was measured last."""
        return list(self.figures)[-1]

    @property
    def last(self) -> Mapping[str, Figure]:
        """What was measured after it."""
        return self.figures[self.last_stage]


def read_run(folder: Path) -> Run:
    """Read the files of a run folder; see `report.write_report`.

    Raises:
        FileNotFoundError: The folder has no `metrics.json`.
        ConfigError: A figure in it lacks its value, interval or n.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it holds the figures that `xgenmm quickstart` measures")
    raw = json.loads(path.read_text(encoding="utf-8"))
    stages = sorted(raw, key=[*STAGES, *raw].index)
    figures, costs = {}, {}
    for stage in stages:
        entries = raw[stage].items()
        figures[stage] = {
            key: decode(Figure, entry, f"{path}: {stage}.{key}") for key, entry in entries if isinstance(entry, dict)
        }
        costs[stage] = {key: float(entry) for key, entry in entries if isinstance(entry, int | float)}
    notes = folder / "environment.json"
    return Run(
        figures=figures,
        costs=costs,
        logs={stage: read_lines(folder / stage / "metrics.jsonl") for stage in stages},
        answers=read_lines(folder / "answers.jsonl"),
        environment=json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {},
    )

"""What a step has to say for itself: what was learnt, and how fast."""

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from xgenmm.phases import Phase
from xgenmm.training.effort import Utilisation

METRICS = "metrics.jsonl"
"""A line per step, in the stage's folder."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a step was: what differs from run to run, kept apart from what must not."""

    seconds: float
    """As the first process saw it, with its waiting for data."""
    phases: Mapping[Phase, float]
    """The same, by what was done; see `phases.Phase`."""
    tokens_per_second: float
    """Text and vision tokens."""
    text_tokens_per_second: float
    vision_tokens_per_second: float
    supervised_tokens_per_second: float
    samples_per_second: float
    wait_share: float
    """Part of the step's time for which the process that waited longest waited for data."""
    utilisation: Utilisation | None
    """None where the model's sizes are not known."""
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
    vision_tokens: int
    supervised_tokens: int
    fill: float
    """Share of the rows' positions that hold a token."""
    targets: int
    """Supervised tokens (or pairs)."""
    source_loss: Mapping[str, float]
    """Mean loss of each source that the step holds."""
    figures: Mapping[str, float]
    """The objective's own, as means."""
    incident: Incident | None
    """None for all but a few steps."""
    speed: Speed


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory of this process so far, in MB; on a GPU, of torch on it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def scalars(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """All numbers of a nested mapping, named by their path, less the step, which is the axis, and incidents."""
    found: list[tuple[str, float]] = []
    for key, value in values.items():
        if key == "incident":
            continue
        if isinstance(value, Mapping):
            found += scalars(value, f"{prefix}{key}/")
        elif value is not None and key != "step":
            found.append((f"{prefix}{key}", float(value)))
    return found

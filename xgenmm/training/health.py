"""Looks at every step's loss and gradient before the weights move: what is not finite, and losses that jump.

All ranks see the same loss and the same norm, so they decide the same; sample ids are gathered only when needed.
"""

import json
import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from xgenmm.config import Bounds, CountFrom0, Positive
from xgenmm.data.quarantine import read_lines
from xgenmm.files import write_whole
from xgenmm.training.metrics import Incident
from xgenmm.training.ranks import gather, rank
from xgenmm.training.sums import Sums, plain

log = logging.getLogger(__name__)

NON_FINITE = "non_finite.jsonl"
LEAST_LOSSES = 20
"""Fewer say too little about what is usual."""
NAMED = 8
"""How many samples a note about a jump names."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what happened and what to do."""


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """What to make of steps that go wrong, and of steps that do not end."""

    skip_in_row: CountFrom0 = 0
    """How many steps in a row may be left out because loss or gradient are not finite; one more stops the run."""
    skip_in_all: CountFrom0 | None = None
    """The same over the whole stage; `null`: any number."""
    spike: Positive = 6.0
    """A loss is noted that lies so many standard deviations above the last ones, both estimated robustly."""
    spike_window: Annotated[int, Bounds(least=LEAST_LOSSES)] = 100
    """How many of the last losses those are."""
    hang_seconds: Annotated[float, Bounds(above=0, endless=True)] = 300.0
    """A step that takes longer has all stacks and its sample ids printed; `.inf`: never."""
    hang_exit: bool = False
    """Whether the process then ends, with exit code 124."""


@dataclass(kw_only=True)
class HealthState:
    """What must survive an interruption, so that a resumed run decides and notes the same."""

    losses: tuple[float, ...] = ()
    """The last ones, oldest first."""
    skipped: int = 0
    skipped_in_row: int = 0


class Health:
    """A stage's health."""

    def __init__(self, config: HealthConfig, folder: Path) -> None:
        """Set what to do and the stage's folder, which gets `non_finite.jsonl`."""
        self.config = config
        self.folder = folder

    def begin(self, step: int) -> None:
        """Forget what is written of this step and later ones: they come again."""
        path = self.folder / NON_FINITE
        if rank() == 0 and path.exists():
            kept = (line for line in read_lines(path) if line["step"] < step)
            write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))

    def examine(self, state: HealthState, step: int, sums: Sums, norm: float) -> Incident | None:
        """Judge a step; gives what its record should say about it. If that is `skipped`, the weights must not move.

        Raises:
            TrainingError: Loss or gradient are not finite, for once more than is allowed.
        """
        if not (math.isfinite(sums.loss) and math.isfinite(norm)):
            return self._leave_out(state, step, sums, norm)
        state.skipped_in_row = 0
        loss = sums.loss / sums.count
        usual = state.losses[-self.config.spike_window :]
        state.losses = (*usual, loss)[-self.config.spike_window :]
        deviations = robust_deviations(loss, usual)
        return self._note_spike(step, loss, deviations, sums) if deviations > self.config.spike else None

    def _leave_out(self, state: HealthState, step: int, sums: Sums, norm: float) -> Incident:
        state.skipped += 1
        state.skipped_in_row += 1
        path = self.folder / NON_FINITE
        for number, documents in enumerate(gather(sums.documents)):
            line = {"step": step, "rank": number, "loss": plain(sums.loss), "grad_norm": plain(norm)}
            if rank() == 0:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**line, "documents": [document.line() for document in documents]}) + "\n")
        what = f"step {step}: loss {sums.loss} and gradient norm {norm} must be finite. The weights were not changed"
        in_all = self.config.skip_in_all
        if state.skipped_in_row > self.config.skip_in_row or (in_all is not None and state.skipped > in_all):
            raise TrainingError(
                f"{what}; the step's sample ids are in {path}. It was number {state.skipped_in_row} in a row and "
                f"{state.skipped} in all. A lower learning rate may help; health.skip_in_row leaves such steps out"
            )
        log.warning("%s, and the run goes on; the sample ids are in %s", what, path)
        return Incident(skipped=True, loss=plain(sums.loss), grad_norm=plain(norm))

    def _note_spike(self, step: int, loss: float, deviations: float, sums: Sums) -> Incident:
        documents = [document for ours in gather(sums.documents) for document in ours if document.targets]
        documents.sort(key=lambda document: document.loss / document.targets, reverse=True)
        ids = [document.id for document in documents[:NAMED]]
        log.warning(
            "step %d: loss %.3f lies %.1f deviations above the last ones; highest in: %s",
            *(step, loss, deviations, ", ".join(ids)),
        )
        return Incident(spike=deviations, ids=ids)


def robust_deviations(value: float, usual: Sequence[float]) -> float:
    """How far a value lies above usual ones: in standard deviations, told by medians, which a few jumps don't move.

    Deviations of less than a hundredth of the median count as that: losses that hardly vary must not make every small
    rise a jump. 0 for fewer than `LEAST_LOSSES` usual ones.

    >>> usual = [2.0, 2.1, 1.9, 2.05, 1.95] * 4
    >>> round(robust_deviations(2.5, usual), 2)  # median 2, median deviation 0.05: 0.5 / (1.4826 * 0.05)
    6.74
    """
    if len(usual) < LEAST_LOSSES:
        return 0.0
    median = statistics.median(usual)
    spread = 1.4826 * statistics.median(abs(one - median) for one in usual)
    return (value - median) / max(spread, 0.01 * abs(median), 1e-12)

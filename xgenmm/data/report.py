"""What a stage really trained on: rows, tokens and losses of every source. Knows no reader and no model."""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xgenmm.data.quarantine import DataError
from xgenmm.types import IGNORE_INDEX, Example

log = logging.getLogger(__name__)

ROWS_BEFORE_SHARE_COUNTS = 200
"""From how many rows on a share of unusable rows means something."""


@dataclass(kw_only=True)
class Tally:
    """What one source gave: documents, and the tokens in the usable ones."""

    rows: int = 0
    """Documents that were drawn, usable or not: a row, or a piece of one that was cut."""
    samples: int = 0
    """Documents that were usable."""
    tokens: int = 0
    """Positions: text and vision."""
    vision_tokens: int = 0
    supervised_tokens: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Unusable documents by reason."""

    def count(self, example: Example, tokens_per_tile: int) -> None:
        """Count a usable document."""
        self.rows += 1
        self.samples += 1
        labels = example.labels.numpy()  # for so few numbers a call of torch's takes ten times as long
        self.tokens += labels.size
        self.vision_tokens += example.pixel_values.shape[0] * tokens_per_tile
        self.supervised_tokens += int(np.count_nonzero(labels != IGNORE_INDEX))

    def drop(self, reason: str) -> None:
        """Count an unusable document."""
        self.rows += 1
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def add(self, other: "Tally") -> None:
        """Add the counts of `other` to these."""
        self.rows += other.rows
        self.samples += other.samples
        self.tokens += other.tokens
        self.vision_tokens += other.vision_tokens
        self.supervised_tokens += other.supervised_tokens
        for reason, number in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + number


def add_tallies(total: dict[str, Tally], more: Mapping[str, Tally]) -> None:
    """Add a step's counts to a run's, source by source."""
    for source, tally in more.items():
        total.setdefault(source, Tally()).add(tally)


def check_losses(total: Mapping[str, Tally], max_bad: float, warn_bad: float) -> None:
    """Warn, and stop, where too large a share of a source is unusable.

    Raises:
        DataError: The message is a table of all sources: documents, unusable ones, reasons.
    """
    counted = {source: tally for source, tally in total.items() if tally.rows >= ROWS_BEFORE_SHARE_COUNTS}
    if any(_bad_share(tally) > max_bad for tally in counted.values()):
        lines = [
            f"  {source}: {tally.rows - tally.samples} of {tally.rows} unusable "
            f"({', '.join(f'{number} {reason}' for reason, number in sorted(tally.dropped.items())) or 'none'})"
            for source, tally in total.items()
        ]
        raise DataError(
            f"more than {max_bad:.0%} of a data set is unusable (batch.max_bad); see quarantine.jsonl\n"
            + "\n".join(lines)
        )
    for source, tally in counted.items():
        if _bad_share(tally) > warn_bad:
            _warn(source, warn_bad)


@functools.cache
def _warn(source: str, share: float) -> None:
    """Once for each source."""
    log.warning("%s: more than %s of it is unusable (batch.warn_bad); see quarantine.jsonl", source, f"{share:.1%}")


def data_report(total: Mapping[str, Tally], shares: Mapping[str, float], unit: str) -> dict[str, Any]:
    """The contents of `data_report.json`: every source's counts, its wanted share, and its real shares in all units."""
    amounts = {
        "samples": {source: tally.rows for source, tally in total.items()},
        "tokens": {source: tally.tokens for source, tally in total.items()},
        "loss_tokens": {source: tally.supervised_tokens for source, tally in total.items()},
    }
    return {
        source: {
            "share_wanted": round(shares[source], 6),
            "share_unit": unit,
            "shares": {name: round(of[source] / max(sum(of.values()), 1), 6) for name, of in amounts.items()},
            **dataclasses.asdict(tally),
            "supervised_share": round(tally.supervised_tokens / max(tally.tokens, 1), 6),
        }
        for source, tally in total.items()
    }


def count_reasons(reasons: Iterable[str]) -> str:
    """Reasons with their numbers, the most frequent first, as messages show them.

    >>> count_reasons(["no_image", "text_empty", "no_image"])
    '2 no_image, 1 text_empty'
    """
    numbers: dict[str, int] = {}
    for reason in reasons:
        numbers[reason] = numbers.get(reason, 0) + 1
    return ", ".join(f"{n} {reason}" for reason, n in sorted(numbers.items(), key=lambda item: (-item[1], item[0])))


def _bad_share(tally: Tally) -> float:
    return 1 - tally.samples / tally.rows

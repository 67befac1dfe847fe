"""What a stage really trained on: rows, tokens and losses of every source. Knows no reader and no model."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xgenmm.data.quarantine import DataError

ROWS_BEFORE_SHARE_COUNTS = 200
"""From how many rows on a share of unusable rows means something."""


@dataclass(kw_only=True)
class Tally:
    """What one source gave: rows, and the tokens in the usable ones."""

    rows: int = 0
    """Rows that were drawn, usable or not."""
    samples: int = 0
    tokens: int = 0
    """Positions: text and vision."""
    vision_tokens: int = 0
    supervised_tokens: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Unusable rows by reason."""

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


def check_losses(total: Mapping[str, Tally], max_bad: float) -> None:
    """Stop where too large a share of a source is unusable.

    Raises:
        DataError: The message is a table of all sources: rows, unusable ones, reasons.
    """
    if not any(_bad_share(tally) > max_bad for tally in total.values() if tally.rows >= ROWS_BEFORE_SHARE_COUNTS):
        return
    lines = [
        f"  {source}: {tally.rows - tally.samples} of {tally.rows} rows unusable "
        f"({', '.join(f'{number} {reason}' for reason, number in sorted(tally.dropped.items())) or 'none'})"
        for source, tally in total.items()
    ]
    raise DataError(
        f"more than {max_bad:.0%} of a data set is unusable (batch.max_bad); see quarantine.jsonl\n" + "\n".join(lines)
    )


def data_report(total: Mapping[str, Tally], shares: Mapping[str, float]) -> dict[str, Any]:
    """The contents of `data_report.json`: every source's counts, and its wanted and real share of rows."""
    rows = sum(tally.rows for tally in total.values())
    return {
        source: {
            "share_wanted": round(shares[source], 6),
            "share": round(tally.rows / rows, 6),
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

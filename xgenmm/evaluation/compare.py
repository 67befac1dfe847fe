"""Two result folders, question by question: is one model better, or was it luck with the questions?

The difference of mean scores with a bootstrap interval over groups of questions, and McNemar's exact test on the
questions that one got right and the other wrong.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xgenmm.config import ConfigError
from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.samples import PREFIX, Sample, read_samples
from xgenmm.evaluation.scorers.statistics import grouped, mean
from xgenmm.evaluation.scoring import beside, flat
from xgenmm.files import write_whole
from xgenmm.pages.templates import page_template

RESAMPLES = 10_000
RIGHT = 0.5
"""A score from here on counts as right in McNemar's test."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One task in two folders."""

    label: str
    n: int
    """Questions that both answered."""
    only_one: int
    """Questions that only one of them answered; left out."""
    first: float
    """Mean score of the first folder, in 0..1 (CIDEr: its own scale)."""
    second: float
    difference: float
    """second - first."""
    low: float
    high: float
    """95 % bootstrap interval of the difference, drawn by groups of dependent questions."""
    gained: int
    """Wrong in the first and right in the second."""
    lost: int
    p_value: float
    """McNemar's exact test, two-sided: how likely a split as uneven as gained to lost is if neither is better."""
    numbers: Mapping[str, tuple[float, float]]
    """The quoted number and those beside it, in the first folder and in the second: before and after."""


def compare(first: Path, second: Path, output: Path | None = None) -> list[Comparison]:
    """Compare the tasks that two folders share.

    Args:
        first: A folder that `evaluate` wrote.
        second: Another one.
        output: Where to write `comparison.json` and the page `comparison.html`, if anywhere.

    Raises:
        ConfigError: A folder has no samples, they share no task, or they were scored by different rules.
    """
    labels = [
        {path.stem.removeprefix(PREFIX): path for path in folder.glob(f"{PREFIX}*.jsonl")} for folder in (first, second)
    ]
    for folder, found in zip((first, second), labels, strict=True):
        if not found or not (folder / "results.json").is_file():
            raise ConfigError(f"{folder} holds no answers: give a folder that `xgenmm evaluate` wrote")
    results = [json.loads((folder / "results.json").read_text("utf-8")) for folder in (first, second)]
    profiles = [one["profile"] for one in results]
    if profiles[0] != profiles[1]:
        raise ConfigError(
            f"{first} was scored under {profiles[0]} and {second} under {profiles[1]}: score one again with --rescore"
        )
    shared = sorted(labels[0].keys() & labels[1].keys())
    if not shared:
        raise ConfigError(f"no task in common: {first} has {sorted(labels[0])}, {second} has {sorted(labels[1])}")
    found = [
        _compared(
            label,
            read_samples(labels[0][label]),
            read_samples(labels[1][label]),
            _before_and_after(label, results[0], results[1]),
        )
        for label in shared
    ]
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        content = {"first": str(first), "second": str(second), "tasks": [asdict(one) for one in found]}
        write_whole(output / "comparison.json", json.dumps(content, indent=1) + "\n")
        page = page_template("xgenmm.evaluation", "comparison.html")
        names = {"first": first.as_posix(), "second": second.as_posix(), "profile": profiles[0]}
        write_whole(output / "comparison.html", page.render(**names, tasks=found))
    return found


def comparison_text(comparisons: list[Comparison]) -> str:
    """A table for the terminal."""
    lines = [
        f"{'task':<28} {'n':>6} {'first':>7} {'second':>7} {'diff':>7} {'95 % interval':>17} {'+':>5} {'-':>5} {'p':>7}"
    ]
    for one in comparisons:
        first, second, difference = 100 * one.first, 100 * one.second, 100 * one.difference
        interval = f"{100 * one.low:+.2f} to {100 * one.high:+.2f}"
        lines.append(
            f"{one.label:<28} {one.n:>6} {first:>7.2f} {second:>7.2f} {difference:>+7.2f} {interval:>17} "
            f"{one.gained:>5} {one.lost:>5} {one.p_value:>7.4f}"
        )
        if one.only_one:
            lines.append(f"{'':<28} {one.only_one} questions were answered in one folder only and are left out")
        lines += [f"  {name:<33} {a:>7.2f} {b:>7.2f} {b - a:>+7.2f}" for name, (a, b) in one.numbers.items()]
    return "\n".join(lines)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value of McNemar's test: a fair coin over the questions on which the two differ.

    >>> mcnemar(5, 0)
    0.0625
    """
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    return min(1.0, 2 * tail)


def _before_and_after(
    label: str, first: Mapping[str, Any], second: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    """The numbers of a task that stand in both results: the quoted one, then those that belong beside it."""
    tables = []
    for results in (first, second):
        run = results["labels"][label]
        quoted = {run["headline"][0]: run["headline"][1]} if run["headline"] else {}
        tables.append(quoted | beside(benchmark_named(run["benchmark"]), flat(run["aggregate"])))
    return {name: (tables[0][name], tables[1][name]) for name in tables[0] if name in tables[1]}


def _compared(
    label: str, first: list[Sample], second: list[Sample], numbers: Mapping[str, tuple[float, float]]
) -> Comparison:
    scores = [{sample.place: sample for sample in group if sample.score is not None} for group in (first, second)]
    both = sorted(scores[0].keys() & scores[1].keys())
    if not both:
        raise ConfigError(f"{label}: the two folders answered no question in common")
    pairs = [(scores[0][place], scores[1][place]) for place in both]
    changed = next((a.key for a, b in pairs if a.key != b.key), None)
    if changed is not None:
        raise ConfigError(f"{label}: the two folders are of different data (first difference: {changed})")
    before, after = [a.score or 0.0 for a, _ in pairs], [b.score or 0.0 for _, b in pairs]
    low, high = _interval([b - a for a, b in zip(before, after, strict=True)], [a.group for a, _ in pairs])
    right = [(a >= RIGHT, b >= RIGHT) for a, b in zip(before, after, strict=True)]
    gained, lost = right.count((False, True)), right.count((True, False))
    return Comparison(
        label=label,
        n=len(both),
        only_one=len(scores[0].keys() ^ scores[1].keys()),
        first=mean(before),
        second=mean(after),
        difference=mean(after) - mean(before),
        low=low,
        high=high,
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
        numbers=numbers,
    )


def _interval(differences: list[float], groups: list[str]) -> tuple[float, float]:
    """Percentile bootstrap over groups, seeded."""
    clusters = grouped(zip(differences, groups, strict=True), lambda pair: pair[1]).values()
    sums = np.array([sum(value for value, _ in cluster) for cluster in clusters])
    sizes = np.array([len(cluster) for cluster in clusters])
    generator = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(sums), size=len(sums))
        means.append(sums[drawn].sum() / sizes[drawn].sum())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)

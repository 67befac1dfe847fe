"""Accuracies of a set as the references table them, and rules that VLMEvalKit's two versions share."""

from collections.abc import Mapping, Sequence
from typing import Any

from xgenmm.evaluation.scorers.profiles import VLMEVALKIT_2024, VLMEVALKIT_2026, Rules, Scored
from xgenmm.evaluation.scorers.statistics import Number, grouped, mean

ABBREVIATIONS = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
"""VLMEvalKit's names of MMBench's second-level categories."""


def report_accuracy(rows: Sequence[tuple[Number, Mapping[str, Any]]], columns: Sequence[str]) -> dict[str, Any]:
    """VLMEvalKit's accuracy table as a dictionary: overall, then each category of each column, in alphabetical order.

    Args:
        rows: For every question its hit (0 or 1) and its columns; "split" is one of them or absent for all.
        columns: Which columns to break down, in the order of the table.
    """
    splits = list(grouped(rows, lambda row: row[1].get("split", "none")))

    def accuracies(chosen: Sequence[tuple[Number, Mapping[str, Any]]]) -> float | list[float]:
        values = [mean([hit for hit, cells in chosen if cells.get("split", "none") == split]) for split in splits]
        return values[0] if len(values) == 1 else values

    report: dict[str, Any] = {"split": splits[0] if len(splits) == 1 else splits, "Overall": accuracies(rows)}
    for column in columns:
        for name, chosen in sorted(grouped(rows, lambda row, column=column: row[1][column]).items()):
            report[ABBREVIATIONS.get(name, name)] = accuracies(chosen)
    return report


def plain_report(cases: Sequence[Scored]) -> dict[str, Any]:
    """The table of a set without categories."""
    return report_accuracy([(case.result["hit"], {}) for case in cases], [])


def share_of(name: str, column: str) -> Any:
    """An aggregate with one number: the mean of a column of the results."""
    return lambda cases: {name: mean([case.result[column] for case in cases])}


def both_years(case: Any, aggregate: Any = None, aggregate_2024: Any = None) -> dict[str, Rules]:
    """VLMEvalKit's two versions of a rule that takes ``recent``."""
    return {
        VLMEVALKIT_2026: Rules(case=lambda row: case(row, recent=True), aggregate=aggregate),
        VLMEVALKIT_2024: Rules(case=lambda row: case(row, recent=False), aggregate=aggregate_2024 or aggregate),
    }

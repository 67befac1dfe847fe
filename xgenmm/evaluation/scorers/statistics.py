"""Means and groups that all aggregators share. Knows no benchmark."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
Number = float | int
"""A score or a verdict; the type checker of the test run does not take an int for a float."""


def mean(values: Sequence[Number]) -> float:
    """Arithmetic mean; NaN of nothing. Sums without rounding errors, so the order of the values does not matter."""
    return math.fsum(values) / len(values) if values else math.nan


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by key, keys in the order of their first item."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def clustered_error(values: Sequence[Number], groups: Sequence[Hashable]) -> float:
    """Standard error of a mean whose values depend on each other within groups; NaN for fewer than two groups.

    With every value in a group of its own it is the usual one. Source: the cluster-robust variance of a mean, with
    G / (G - 1) for G groups (Miller, "Adding Error Bars to Evals", arXiv 2411.00640).
    """
    centre = mean(values)
    sums = [math.fsum(residuals) for residuals in _residuals(values, groups, centre)]
    if len(sums) < 2:
        return math.nan
    return math.sqrt(len(sums) / (len(sums) - 1) * math.fsum(total**2 for total in sums)) / len(values)


def _residuals(values: Sequence[Number], groups: Sequence[Hashable], centre: float) -> list[list[float]]:
    pairs = zip(values, groups, strict=True)
    return [[value - centre for value, _ in group] for group in grouped(pairs, lambda pair: pair[1]).values()]

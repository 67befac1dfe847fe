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

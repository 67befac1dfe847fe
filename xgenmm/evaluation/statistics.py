"""A measured figure with its 95 % interval. Knows no benchmark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A value over n items and the interval that holds 95 % of what other items of the same kind would give."""

    value: float
    low: float
    high: float
    n: int


def share(hits: Sequence[bool]) -> Figure:
    """Share of true values with Wilson's score interval, which stays sensible at 0 and 1.

    >>> share([True] * 10)
    Figure(value=1.0, low=0.7225, high=1.0, n=10)
    """
    n = len(hits)
    if n == 0:
        raise ValueError("a share of no items")
    p = sum(hits) / n
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return _rounded(p, max(0.0, centre - half), min(1.0, centre + half), n)


def ratio(sums: Sequence[float], counts: Sequence[int]) -> Figure:
    """Sum over sum, such as loss per token over captions of several lengths; the interval is a bootstrap over items.

    The resampling is seeded: the same items always give the same interval.
    """
    if len(sums) != len(counts) or not sums:
        raise ValueError(f"{len(sums)} sums for {len(counts)} counts: one of each per item, and at least one item")
    top, bottom = np.asarray(sums, float), np.asarray(counts, float)
    drawn = np.random.default_rng(0).integers(len(top), size=(RESAMPLES, len(top)))
    low, high = np.quantile(top[drawn].sum(1) / bottom[drawn].sum(1), [0.025, 0.975])
    return _rounded(top.sum() / bottom.sum(), low, high, len(top))


def mean(values: Sequence[float]) -> Figure:
    """Mean with a bootstrap interval over items."""
    return ratio(values, [1] * len(values))


def _rounded(value: float, low: float, high: float, n: int) -> Figure:
    """Four decimals: more would be noise, and files of two runs are compared as text."""
    return Figure(value=round(float(value), 4), low=round(float(low), 4), high=round(float(high), 4), n=n)

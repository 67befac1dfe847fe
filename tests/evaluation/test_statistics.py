"""Figures with intervals, against values from elsewhere."""

import numpy as np
import pytest

from xgenmm.evaluation.statistics import mean, ratio, share


def test_wilson_interval_of_a_textbook_case():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 has the Wilson interval 0.2553 to 0.3662
    figure = share([True] * 81 + [False] * 182)
    assert (figure.value, figure.low, figure.high, figure.n) == (0.308, 0.2553, 0.3662, 263)


def test_share_at_the_ends_stays_inside():
    # Newcombe (1998), same table: 0 of 20 has 0 to 0.1611
    figure = share([False] * 20)
    assert (figure.value, figure.low, figure.high) == (0.0, 0.0, 0.1611)


def test_ratio_weights_items_by_their_counts():
    figure = ratio([2.0, 6.0], [1, 3])
    assert (figure.value, figure.low, figure.high) == (2.0, 2.0, 2.0)
    assert ratio([1.0, 9.0], [1, 3]).value == 2.5


def test_bootstrap_interval_is_close_to_the_normal_one_and_repeatable():
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400).tolist()
    figure = mean(values)
    half = 1.96 * np.std(values) / 20
    assert figure.low == pytest.approx(figure.value - half, abs=0.03)
    assert figure.high == pytest.approx(figure.value + half, abs=0.03)
    assert figure == mean(values)


def test_no_items_is_an_error():
    with pytest.raises(ValueError, match="no items"):
        share([])
    with pytest.raises(ValueError, match="2 sums for 1 counts"):
        ratio([1.0, 2.0], [1])

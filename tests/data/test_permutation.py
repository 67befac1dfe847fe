"""Shuffles without lists: every place once, every order its own, shards kept together."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgenmm.data.permutation import EpochOrder, Permutation, keyed, keyed_choice

SIZES = st.one_of(st.integers(1, 300), st.integers(4000, 4200), st.integers(1, 30_000))


def test_keyed_is_the_same_in_every_process():
    # `printf "(1, 2, 'a')" | b2sum -l 64`; hash() of a text would be another number in every process
    assert keyed(1, 2, "a") == 0x3BDEDD32EDD00F9B


@given(SIZES, st.integers(0, 2**64 - 1))
def test_every_element_stands_at_one_place(size, key):
    found = Permutation(size, key)(np.arange(size))
    assert np.array_equal(np.sort(found), np.arange(size))


def mix(number):
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % 2**64
    return number ^ (number >> 31)


def place_by_hand(size, key, place):
    """The same network in whole numbers of any length."""
    left_size = math.isqrt(size - 1) + 1
    right_size = -(-size // left_size)
    while True:
        left, right = divmod(place, right_size)
        for turn in range(0, 6, 2):
            left = (left + (mix((right + keyed(key, turn)) % 2**64) >> 32) * left_size // 2**32) % left_size
            right = (right + (mix((left + keyed(key, turn + 1)) % 2**64) >> 32) * right_size // 2**32) % right_size
        place = left * right_size + right
        if place < size:
            return place


@pytest.mark.parametrize("size", [4097, 99_999, 10**9, 2**40 + 1])
def test_a_shuffle_is_the_same_on_every_machine(size):
    places = [0, 1, 2, size // 2, size - 1]
    found = Permutation(size, 2**64 - 1)(np.array(places))
    assert found.tolist() == [place_by_hand(size, 2**64 - 1, place) for place in places]
    listed = sorted(range(9), key=lambda number: mix(number + 7))
    assert Permutation(9, 7)(np.arange(9)).tolist() == listed


@pytest.mark.parametrize("size", [5000, 100_003, 10**9])
def test_computed_shuffles_look_like_chance(size):
    places = np.arange(min(size, 20_000))
    found = Permutation(size, 3)(places).astype(float)
    steps = np.abs(np.diff(found))
    # two independent places are a third of the size apart on average; a shift or a stride would be far from it
    assert abs(steps.mean() / size - 1 / 3) < 0.02
    assert abs(np.corrcoef(places, found)[0, 1]) < 0.05
    assert (found == places).sum() < 12  # one on average, if the size is that of the places


def test_small_shuffles_are_all_equally_likely():
    orders = Counter(tuple(Permutation(3, keyed("order", n))(np.arange(3)).tolist()) for n in range(6000))
    assert len(orders) == 6
    # 1000 each; the standard deviation is 29
    assert all(abs(number - 1000) < 150 for number in orders.values())


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any), st.integers(1, 8), st.integers(0, 9))
def test_an_epoch_holds_every_row_once_and_reads_few_shards_at_a_time(sizes, mix_shards, epoch):
    shards = np.concatenate(([0], np.cumsum(sizes)))
    order = EpochOrder(shards, mix_shards, ("seed", epoch))
    rows = order.rows(np.arange(shards[-1]))
    assert np.array_equal(np.sort(rows), np.arange(shards[-1]))
    picked = np.arange(shards[-1])[::-3]
    assert np.array_equal(order.rows(picked), rows[picked])  # any place without those before
    owners = np.searchsorted(shards, rows, side="right") - 1
    visited = list(dict.fromkeys(owners.tolist()))
    # once more shards than are mixed have begun, the first of them are never seen again
    for place, owner in enumerate(owners):
        assert place + 1 == len(owners) or visited.index(owners[place + 1]) > visited.index(owner) - 2 * mix_shards


def test_shards_are_mixed_row_by_row_and_come_in_another_order_next_time():
    shards = np.arange(0, 1001, 100)
    first = EpochOrder(shards, 2, (0, "a", 0)).rows(np.arange(1000)) // 100
    for window in first.reshape(5, 200):
        counts = Counter(window.tolist())
        assert sorted(counts.values()) == [100, 100]
        assert (
            60 < np.abs(np.diff(window)).astype(bool).sum() < 140
        )  # of 199: switches at random, not one block after another
    assert first.tolist() != sorted(first.tolist())
    second = EpochOrder(shards, 2, (0, "a", 1)).rows(np.arange(1000)) // 100
    assert list(dict.fromkeys(first.tolist())) != list(dict.fromkeys(second.tolist()))


@settings(max_examples=20)
@given(st.integers(0, 2**64 - 1), st.integers(1, 50))
def test_choices_are_even(key, count):
    rows = np.arange(20_000)
    chosen = keyed_choice(key, rows, np.full(len(rows), count))
    assert chosen.min() >= 0
    assert chosen.max() < count
    frequencies = np.bincount(chosen, minlength=count)
    expected = len(rows) / count
    assert np.abs(frequencies - expected).max() < 6 * expected**0.5
    assert np.array_equal(keyed_choice(key, rows[5:6], np.array([count])), chosen[5:6])

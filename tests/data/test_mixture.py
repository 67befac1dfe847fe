"""The mixture: whose turn it is, shares that hold at every moment, and what happens when a source ends."""

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xgenmm.config import ConfigError
from xgenmm.data.mixture import Mixture, MixtureConfig

few = settings(max_examples=40, deadline=None)
amounts = st.integers(1, 4000)


def mixture(weights, sizes=None, epochs=None, at_ends=None, **settings):
    settings = {"at_end": "repeat", "normalise": True, **settings}
    names = [f"s{number}" for number in range(len(weights))]
    return Mixture(MixtureConfig(**settings), names, weights, sizes or [10**9] * len(weights), epochs, at_ends)


def draw(made, number, amount=lambda _: 1):
    """The sources of the next samples, up to the mixture's end."""
    found = []
    for _ in range(number):
        source = made.pick()
        if source is None:
            break
        made.count(source, amount(source))
        found.append(source)
    return found


@few
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(0, 99))
def test_the_next_source_is_the_one_furthest_behind(weights, seed):
    sizes = random.Random(seed)
    given_by = [0] * len(weights)
    made = mixture([weight / 10 for weight in weights], unit="tokens")
    for _ in range(60):
        behind = [
            Fraction(weight, sum(weights)) * (sum(given_by) + 1) - amount
            for weight, amount in zip(weights, given_by, strict=True)
        ]
        source = behind.index(max(behind))
        assert made.pick() == source
        amount = sizes.randint(1, 5000)
        made.count(source, amount)
        given_by[source] += amount
    wanted = [weight / sum(weights) * sum(given_by) for weight in weights]
    assert made.targets() == pytest.approx(wanted)


def test_shares_in_samples_come_out_whole():
    made = mixture([5.0, 3.0, 2.0])
    for _ in range(6):
        found = draw(made, 10)
        assert [found.count(source) for source in range(3)] == [5, 3, 2]
    # 17.5 : 32.5 : 50 = 7 : 13 : 20
    made = mixture([17.5, 32.5, 50.0], normalise=False)
    found = draw(made, 40)
    assert [found.count(source) for source in range(3)] == [7, 13, 20]


@few
@given(st.lists(st.integers(1, 1000), min_size=2, max_size=6), st.integers(0, 99), st.sampled_from([10, 300, 4000]))
def test_shares_of_tokens_are_off_by_a_few_samples_however_long_it_goes(weights, seed, largest):
    sizes = random.Random(seed)
    made = mixture([float(weight) for weight in weights], unit="tokens")
    given_by = [0] * len(weights)
    for _ in range(500):
        source = made.pick()
        amount = sizes.randint(1, largest)
        given_by[source] += amount
        made.count(source, amount)
    for weight, amount in zip(weights, given_by, strict=True):
        assert abs(amount - weight / sum(weights) * sum(given_by)) <= len(weights) * largest


def test_weights_change_at_their_step_and_the_past_is_not_made_up_for():
    schedule = {2: {"s0": 0.25, "s1": 0.75}, 4: {"s0": 1.0, "s1": 0.0}}
    made = mixture([1.0, 0.0], normalise=False, schedule=schedule)
    found = []
    for step in range(6):
        made.begin_step(step)
        found.append(draw(made, 4))
    assert found[0] == found[1] == [0, 0, 0, 0]
    assert sorted(found[2]) == sorted(found[3]) == [0, 1, 1, 1]
    assert found[4] == found[5] == [0, 0, 0, 0]
    assert made.targets() == [18.0, 6.0]


def test_a_state_in_the_middle_of_a_schedule_goes_on_alike():
    def fresh():
        schedule = {3: {"s0": 1.0, "s1": 5.0, "s2": 0.0}}
        return mixture([3.0, 1.0, 2.0], sizes=[20, 30, 40], at_end="renormalise", unit="tokens", schedule=schedule)

    sizes = [3, 50, 11]
    straight, found, states = fresh(), [], []
    for step in range(12):
        straight.begin_step(step)
        states.append(straight.state())
        found.append(draw(straight, 7, sizes.__getitem__))
    for start, state in enumerate(states):
        other = fresh()
        other.restore(state)
        again = []
        for step in range(start, 12):
            other.begin_step(step)
            again.append(draw(other, 7, sizes.__getitem__))
        assert again == found[start:]
        assert other.state() == straight.state()


def test_a_source_that_ends_repeats_stops_all_or_leaves_the_rest_to_the_others():
    # 1 : 1 : 2, three rows in the second
    weights, sizes = [1.0, 1.0, 2.0], [100, 3, 100]
    repeated = draw(mixture(weights, sizes), 24)
    assert [repeated.count(source) for source in range(3)] == [6, 6, 12]
    stopped = draw(mixture(weights, sizes, at_end="stop"), 24)
    assert stopped.count(1) == 3
    assert stopped[-1] == 1
    assert stopped == repeated[: len(stopped)]
    rest = draw(mixture(weights, sizes, at_end="renormalise"), 1000)
    assert [rest.count(source) for source in range(3)] == [100, 3, 100]
    after = rest[rest.index(1, len(stopped) - 1) + 1 :]
    assert [after[:30].count(source) for source in range(3)] == [10, 0, 20]  # 1 : 2 between those that are left


def test_each_source_may_end_in_its_own_way():
    """1 : 1 : 2; the first leaves after two rows, the second repeats its three, the third stops all after ten."""
    made = mixture([1.0, 1.0, 2.0], [2, 3, 10], at_ends=["renormalise", None, "stop"])
    assert not made.endless
    found = draw(made, 1000)
    assert [found.count(source) for source in (0, 2)] == [2, 10]
    assert found[-1] == 2
    rest = found[len(found) - found[::-1].index(0) :]  # without the first one: 1 : 2
    assert abs(2 * rest.count(1) - rest.count(2)) <= 2
    assert found.count(1) > 3
    assert mixture([1.0, 1.0], [2, 3], at_end=None, at_ends=["renormalise", "repeat"]).endless
    assert len(draw(mixture([1.0, 1.0], [2, 3], at_end=None, at_ends=["renormalise"] * 2), 99)) == 5
    with pytest.raises(ConfigError, match="what happens when s1 has given all its rows"):
        mixture([1.0, 1.0], [2, 3], at_end=None, at_ends=["repeat", None])
    with pytest.raises(ConfigError, match="are for sources with weights"):
        mixture([None, None], [2, 3], at_end=None, normalise=False, at_ends=["repeat", None])


def test_without_weights_all_sources_end_their_epochs_together():
    made = mixture([None, None], sizes=[3, 7], at_end=None, normalise=False)
    found = draw(made, 20)
    for epoch in (found[:10], found[10:]):
        assert [epoch.count(source) for source in range(2)] == [3, 7]
    half = mixture([None, None], sizes=[3, 7], epochs=1.5, at_end=None, normalise=False)
    assert half.samples == 15
    assert draw(half, 99) == found[:15]


def test_a_source_without_supervised_tokens_is_not_drawn_for_ever():
    made = mixture([1.0, 1.0], unit="loss_tokens")
    assert 1 in draw(made, 12, lambda source: [0, 5][source])


@pytest.mark.parametrize(
    ("weights", "settings", "message"),
    [
        ([0.5, 0.4], {"normalise": False}, "data: weights add up to 0.9, and not to 1 or 100"),
        # the paper's second stage as printed
        ([50.0, 10.0, 2.5, 2.5, 10.0, 10.0, 5.0], {"normalise": False}, "weights add up to 90"),
        ([0.5, None], {}, "either all sources have a weight or none .*, but without is s1"),
        ([1.0, -1.0], {}, "must be 0 or more"),
        ([0.0, 0.0], {}, "not all 0"),
        ([1.0, 0.0], {}, 'the weight of "s1" is always 0'),
        ([1.0, float("nan")], {}, "must be 0 or more"),
        ([0.5, 0.5], {"at_end": None}, "mixture.at_end is missing"),
        ([0.5, 0.5], {"epochs": 2.0}, "no common epoch; give steps"),
        ([None, None], {}, "are for sources with weights"),
        ([None, None], {"at_end": None, "normalise": False, "unit": "tokens"}, "are for sources with weights"),
        ([0.5, 0.5], {"schedule": {5: {"s0": 1.0}}}, r"schedule.5: must name every source .*, but does not name s1"),
        ([0.5, 0.5], {"schedule": {5: {"s0": 1.0, "z1": 1.0}}}, 'there is no source "z1"; did you mean "s1"'),
        ([0.5, 0.5], {"normalise": False, "schedule": {5: {"s0": 1.0, "s1": 1.0}}}, r"schedule.5: weights add up to 2"),
    ],
)
def test_settings_that_make_no_mixture_are_refused(weights, settings, message):
    with pytest.raises(ConfigError, match=message):
        mixture(weights, **settings)


def test_shares_written_with_few_digits_may_miss_the_whole_by_their_rounding():
    assert draw(mixture([0.333333, 0.333333, 0.333334], normalise=False), 3) == [2, 0, 1]
    assert draw(mixture([33.33333, 33.33333, 33.33333], normalise=False), 3) == [0, 1, 2]

"""The planner: what a step holds, that nothing is lost, and that nothing but settings, seed and lengths decides it."""

import math
from collections import Counter

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.plans import (
    CAPACITY,
    TILES,
    batches,
    build_batch,
    build_mixture,
    build_sources,
    mixtures,
    piece,
    pieces_of,
    planner,
    slots,
    sources,
    steps,
    through_json,
)
from xgenmm.config import ConfigError, decode
from xgenmm.data.lengths import source_lengths
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.plan import EMPTY_ROW, deal
from xgenmm.data.planner import PLAN_VERSION, BatchConfig, MixtureSource
from xgenmm.data.source import SourceConfig

few = settings(max_examples=25, deadline=None)  # shapes are checked in tests, which is what costs time here


def source(name, number, tokens=10, weight=None, **changes):
    lengths = source_lengths(name, [[[(tokens, 1, 5)]]] * number, digest=f"digest of {name}")
    return MixtureSource(lengths=lengths, weight=weight, **changes)


@few
@given(sources, mixtures, batches, st.integers(0, 3))
def test_rows_hold_what_they_say_and_no_more_than_fits(cases, mixture, batch, seed):
    made = build_sources(cases, weighted=True)
    mixture = build_mixture(mixture)
    batch = build_batch(batch)
    for plan, _ in steps(planner(made, mixture, batch, seed=seed)):
        for row in plan.rows:
            found = [piece(made, slot) for slot in row.slots]
            assert row.tokens == sum(tokens for tokens, _, _ in found) <= CAPACITY
            assert row.tiles == sum(tiles for _, tiles, _ in found) <= TILES
            assert row.squares == sum(tokens**2 for tokens, _, _ in found)


@few
@given(sources, batches, st.integers(1, 3), st.integers(0, 3))
def test_every_row_comes_once_in_every_epoch_with_all_its_pieces(cases, batch, epochs, seed):
    made = build_sources(cases, weighted=False, subsets=False)
    batch = build_batch(batch)
    found = slots(plan for plan, _ in steps(planner(made, batch=batch, seed=seed, epochs=float(epochs)), most=10_000))
    wanted = [(n, row, e) for n, one in enumerate(made) for row in range(one.lengths.rows) for e in range(epochs)]
    assert sorted((slot.source, slot.row, slot.epoch) for slot in found if slot.piece == 0) == sorted(wanted)
    assert Counter((s.source, s.row, s.epoch, s.variant) for s in found) == {
        (s.source, s.row, s.epoch, s.variant): pieces_of(made, s) for s in found
    }
    assert len(set(found)) == len(found)


@few
@given(sources, batches, st.integers(0, 3))
def test_epochs_of_all_sources_end_together(cases, batch, seed):
    made = build_sources(cases, weighted=False)
    batch = build_batch(batch)
    each = [one.samples or one.lengths.rows for one in made]
    total = sum(each)
    plan = planner(made, batch=batch, seed=seed, epochs=2.5)
    steps(plan, most=10_000)
    drawn = [one.counts.samples for one in plan.statistics().sources.values()]
    assert sum(drawn) == -(-5 * total // 2)
    assert all(2 * size <= number <= 3 * size for number, size in zip(drawn, each, strict=True))


@few
@given(sources, mixtures, batches, st.integers(0, 10))
def test_from_its_state_at_any_step_a_plan_goes_on_as_if_it_had_not_stopped(cases, mixture, batch, stop):
    made = build_sources(cases, weighted=True)
    mixture = build_mixture(mixture)
    batch = build_batch(batch)
    straight = planner(made, mixture, batch)
    whole = steps(straight, most=10)
    stop = min(stop, len(whole))
    first = planner(made, mixture, batch)
    steps(first, most=stop)
    fresh = planner(made, mixture, batch)
    fresh.restore(through_json(first.state()))
    assert fresh.number == stop
    assert steps(fresh, most=10 - stop) == whole[stop:]
    assert fresh.statistics() == straight.statistics()
    assert fresh.state() == straight.state()
    replayed = planner(made, mixture, batch)
    replayed.replay(stop)
    assert replayed.state() == first.state()


@few
@given(sources, mixtures, batches)
def test_ranks_of_any_number_share_the_same_steps(cases, mixture, batch):
    made = build_sources(cases, weighted=True)
    mixture = build_mixture(mixture)
    batch = build_batch(batch)
    for plan, _ in steps(planner(made, mixture, batch), most=4):
        for world_size in (1, 2, 3, 4, 8):
            ranks = deal(plan, world_size)
            dealt = [row for rank in ranks for row in rank if row is not EMPTY_ROW]
            assert sorted(row.slots for row in dealt) == sorted(row.slots for row in plan.rows)
            assert len({len(rank) for rank in ranks}) == 1


@few
@given(sources, mixtures, st.integers(1, 9))
def test_a_step_of_a_fixed_size_holds_exactly_so_many_samples(cases, mixture, size):
    made = build_sources(cases, weighted=True)
    mixture = build_mixture(mixture)
    found = steps(planner(made, mixture, BatchConfig(size=size, tokens=CAPACITY, tiles=TILES)))
    numbers = [sum(slot.piece == 0 for slot in slots([plan])) for plan, _ in found]
    assert all(number == size for number in numbers[:-1])
    assert numbers[-1] == size if mixture.at_end == "repeat" else 0 < numbers[-1] <= size


@few
@given(sources, mixtures, st.integers(1, 9))
def test_a_step_of_rows_has_so_many_rows(cases, mixture, number):
    made = build_sources(cases, weighted=True)
    mixture = build_mixture(mixture)
    found = steps(planner(made, mixture, BatchConfig(rows=number, tokens=CAPACITY, tiles=TILES)))
    assert all(len(plan.rows) == number for plan, _ in found[:-1])
    assert len(found[-1][0].rows) == number if mixture.at_end == "repeat" else 0 < len(found[-1][0].rows) <= number


@few
@given(sources, mixtures, batches)
def test_statistics_are_those_of_counting_by_hand(cases, mixture, batch):
    made = build_sources(cases, weighted=True)
    mixture = build_mixture(mixture)
    batch = build_batch(batch)
    plan = planner(made, mixture, BatchConfig(size=batch.size or batch.rows, tokens=CAPACITY, tiles=TILES))
    plans = [one for one, _ in steps(plan)]
    found = slots(plans)
    statistics = plan.statistics()
    everything = [piece(made, slot) for slot in found]
    for number, one in enumerate(made):
        own = [slot for slot in found if slot.source == number]
        counted = [piece(made, slot) for slot in own]
        got = statistics.sources[one.lengths.name]
        samples = sum(slot.piece == 0 for slot in own)
        assert got.counts.samples == samples == sum(got.counts.lengths)
        assert got.counts.pieces == len(own)
        assert got.counts.tokens == sum(c[0] for c in counted) == got.text_tokens + got.vision_tokens
        assert got.counts.tiles == sum(c[1] for c in counted)
        assert got.vision_tokens == 2 * got.counts.tiles
        assert got.counts.loss_tokens == sum(c[2] for c in counted)
        assert got.counts.cut == sum(slot.piece == 1 for slot in own)
        assert got.epochs == samples / (one.samples or one.lengths.rows)
        assert got.shares["tokens"] == pytest.approx(got.counts.tokens / sum(c[0] for c in everything))
    assert sum(one.target for one in statistics.sources.values()) == pytest.approx(1)
    assert statistics.rows.rows == sum(len(plan.rows) for plan in plans) == sum(statistics.rows.fills)
    assert statistics.fill == pytest.approx(
        sum(row.tokens for plan in plans for row in plan.rows) / (CAPACITY * statistics.rows.rows)
    )


@few
@given(sources, batches, st.sampled_from([0.4, 1.0, 2.3]))
def test_steps_can_be_counted_beforehand(cases, batch, epochs):
    made = build_sources(cases, weighted=False)
    batch = build_batch(batch)
    plan = planner(made, batch=batch, epochs=epochs)
    counted = plan.count_steps()
    assert plan.number == 0
    assert counted == len(steps(plan, most=10_000))


def test_an_endless_plan_has_no_number_of_steps():
    with pytest.raises(ConfigError, match="never ends"):
        planner([source("a", 3)]).count_steps()
    with pytest.raises(ConfigError, match="never ends"):
        planner([source("a", 3, weight=1.0)], MixtureConfig(at_end="repeat")).count_steps()


def test_another_source_leaves_the_order_of_the_first_alone():
    alone = [slot.row for slot in slots(plan for plan, _ in steps(planner([source("a", 50)])))]
    mixed = planner([source("b", 70), source("a", 50)])
    among = [slot.row for slot in slots(plan for plan, _ in steps(mixed)) if slot.source == 1]
    assert len(among) == 20  # 48 draws, as 70 to 50
    assert among == alone[:20]


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed):
        found = slots(plan for plan, _ in steps(planner([source("a", 24)], seed=seed)))
        return [slot.row for slot in found]

    rows = order(0)
    assert sorted(rows[:24]) == sorted(rows[24:]) == list(range(24))
    assert len({tuple(rows[:24]), tuple(rows[24:]), tuple(order(1)[:24])}) == 3


def test_a_variant_is_drawn_anew_in_every_epoch():
    lengths = source_lengths("a", [[[(3, 0, 1)], [(4, 0, 1)], [(5, 0, 1)]]] * 40, digest="d")
    found = slots(plan for plan, _ in steps(planner([MixtureSource(lengths=lengths)], epochs=3.0), most=99))
    assert len(found) == 120
    chosen = Counter(slot.variant for slot in found)
    assert all(25 <= chosen[variant] <= 55 for variant in range(3))  # 40 each; the standard deviation is 5
    by_row = {row: {slot.variant for slot in found if slot.row == row} for row in range(40)}
    assert sum(len(variants) > 1 for variants in by_row.values()) > 25


def test_a_subset_is_drawn_once_and_rows_repeat_only_where_there_are_too_few():
    def rows(samples, epochs):
        plan = planner([source("a", 10, samples=samples)], epochs=float(epochs))
        return [slot.row for slot in slots(one for one, _ in steps(plan, most=99))]

    few = rows(4, 3)
    assert len(few) == 12
    assert set(Counter(few).values()) == {3}
    assert few[:4] != [0, 1, 2, 3]
    many = rows(25, 1)
    assert sorted(Counter(many).values()) == [2] * 5 + [3] * 5


def test_more_open_rows_than_a_step_takes_wait_and_leave_at_the_end():
    # 31 tokens in rows of 40: nothing fits beside them, so 32 wait in open bins until the 33rd opens another
    plan = planner([source("a", 33, tokens=31)], batch=BatchConfig(rows=1, tokens=CAPACITY), epochs=1.0)
    assert len(steps(plan, most=1)) == 1
    assert plan.statistics().sources["a"].counts.samples == 33
    assert len(steps(plan, most=99)) == 32


def test_what_does_not_fit_into_a_row_is_refused():
    with pytest.raises(ConfigError, match=r'"a" has a document of 41 tokens, and a row holds 40: raise batch\.tokens'):
        planner([source("a", 3, tokens=41)])
    lengths = source_lengths("a", [[[(4, 7, 1)]]], digest="d")
    with pytest.raises(ConfigError, match="a document of 7 tiles, and a row holds 6"):
        planner([MixtureSource(lengths=lengths)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"epochs": 2.0}, r"epochs was null and is 2\.0"),
        ({"batch": BatchConfig(size=5, tokens=CAPACITY, tiles=TILES)}, r"batch\.size was 4 and is 5"),
        ({"batch": BatchConfig(size=4, tokens=CAPACITY)}, r"batch\.tiles was 6 and is null"),
        ({"mixture": MixtureConfig(mix_shards=2)}, r"mixture\.mix_shards was 16 and is 2"),
        ({"sources": [source("a", 9), source("b", 7)]}, r"data\.b\.rows was 8 and is 7"),
        ({"sources": [source("b", 8), source("a", 9)]}, r'sources was \["a", "b"\] and is \["b", "a"\]'),
        ({"sources": [source("a", 9, samples=3), source("b", 8)]}, r"data\.a\.samples was null and is 3"),
        (
            {"sources": [source("a", 9), MixtureSource(lengths=source_lengths("b", [[[(10, 1, 5)]]] * 8, digest="x"))]},
            r'data\.b\.digest was "digest of b" and is "x"',
        ),
    ],
)
def test_a_state_of_another_plan_is_refused_with_what_differs(change, message):
    settings = {"sources": [source("a", 9), source("b", 8)]}
    plan = planner(**settings)
    steps(plan, most=2)
    state = through_json(plan.state())
    planner(**settings).restore(state)
    with pytest.raises(ConfigError, match=message):
        planner(**{**settings, **change}).restore(state)


def test_a_state_of_another_version_is_refused():
    plan = planner([source("a", 9)])
    with pytest.raises(ConfigError, match="version 0 of the planner"):
        plan.restore({**plan.state(), "version": 0})


def test_micro_batches_and_limits_of_damage_may_change_between_two_starts():
    plan = planner([source("a", 9)], batch=BatchConfig(size=4))
    other = planner([source("a", 9)], batch=BatchConfig(size=4, micro=3, max_bad=0.5))
    next(plan)
    other.restore(plan.state())
    assert next(other) == next(plan)


def test_settings_of_a_step_as_a_recipe_has_them():
    written = "{unit: tokens, at_end: repeat, schedule: {200: {a: 1, b: 0.0}}}"
    mixture = decode(MixtureConfig, yaml.safe_load(written))
    assert mixture == MixtureConfig(unit="tokens", at_end="repeat", schedule={200: {"a": 1.0, "b": 0.0}})
    assert decode(BatchConfig, {"rows": 8}) == BatchConfig(rows=8)
    for batch in ({}, {"rows": 8, "size": 8}):
        with pytest.raises(ConfigError, match="give either size"):
            decode(BatchConfig, batch)
    for name in ("size", "tokens", "tiles", "micro"):
        with pytest.raises(ConfigError, match=rf"batch.{name}: must be at least 1, but is 0"):
            decode(BatchConfig, {"size": 8, name: 0}, "batch")
    for name in ("max_bad", "warn_bad"):
        with pytest.raises(ConfigError, match=rf"batch.{name}: must be at least 0 and at most 1, but is 5.0"):
            decode(BatchConfig, {"size": 8, name: 5}, "batch")
    for name, number in (("samples", 0), ("weight", -1), ("weight", math.nan)):
        with pytest.raises(ConfigError, match=rf"data.{name}: must be"):
            decode(SourceConfig, {"name": "a", "adapter": "llava", "path": "a.json", name: number}, "data")
    for name, value in (("mix_shards", 0), ("schedule", {0: {"a": 1}}), ("schedule", {2: {"a": -1}})):
        with pytest.raises(ConfigError, match=rf"mixture.{name}.*: must be at least"):
            decode(MixtureConfig, {name: value}, "mixture")


def test_sources_need_names_of_their_own():
    with pytest.raises(ConfigError, match=r"each its own name, but has \['a', 'a'\]"):
        planner([source("a", 3), source("a", 4)])


def test_replay_says_when_there_is_no_such_step():
    plan = planner([source("a", 9)], epochs=1.0)
    with pytest.raises(ConfigError, match="ends after 3 steps: it has no step 4"):
        plan.replay(4)
    with pytest.raises(ConfigError, match="cannot go back to 1"):
        plan.replay(1)


def test_weights_change_at_their_step_and_the_plan_goes_on_from_any():
    made = [source("a", 40, weight=1.0), source("b", 40, tokens=20, weight=0.0)]
    mixture = MixtureConfig(at_end="repeat", unit="tokens", schedule={5: {"a": 0.2, "b": 0.8}})

    def fresh():
        return planner(made, mixture, BatchConfig(size=6, tokens=CAPACITY, tiles=TILES))

    straight = fresh()
    whole = steps(straight, most=15)
    owners = [Counter(slot.source for slot in slots([plan])) for plan, _ in whole]
    assert all(owner == {0: 6} for owner in owners[:5])
    assert sum(owners[5:], Counter()) == {0: 20, 1: 40}  # 20 x 10 tokens to 40 x 20
    statistics = straight.statistics().sources
    assert statistics["a"].target == pytest.approx((300 + 0.2 * 1000) / 1300)
    for stop in (4, 5, 6, 11):
        first, second = fresh(), fresh()
        first.replay(stop)
        second.restore(through_json(first.state()))
        assert steps(second, most=15 - stop) == whole[stop:]


def test_a_plan_is_the_one_that_it_was():
    # Kept from version 1. Where this fails, running trainings would go on with other samples: raise PLAN_VERSION.
    listed = [[[(1 + n * 7 % 40, n % 5, 3)] * (1 + n % 2)] * (1 + n % 3) for n in range(30)]
    made = [
        MixtureSource(lengths=source_lengths("a", listed, digest="a", shards=[0, 8, 20, 30]), weight=0.4),
        MixtureSource(lengths=source_lengths("b", listed[::-1], digest="b"), weight=0.6, samples=70),
    ]
    mixture = MixtureConfig(unit="tokens", at_end="renormalise", mix_shards=2)
    packed = planner(made, mixture, BatchConfig(rows=8, tokens=CAPACITY, tiles=TILES), seed=3)
    assert len(steps(packed, most=99)) == 11
    sized = planner(made, mixture, BatchConfig(size=8, tokens=CAPACITY, tiles=TILES), seed=3)
    assert len(steps(sized, most=99)) == 13
    assert (PLAN_VERSION, packed.digest) == (1, "5d329e5268844b4157d4fc6492e1b5ac")
    assert sized.digest == "4e8cb0f8fc066c999caef39e2accf65f"

"""Dealing a step's rows to ranks: nothing lost, nothing twice, nobody idle."""

import random

from hypothesis import given
from hypothesis import strategies as st

from xgenmm.data.plan import EMPTY_ROW, Cost, Row, Slot, StepPlan, deal


def row(number, tokens, tiles, squares):
    return Row(slots=(Slot(0, number, 0, 0, 0),), tokens=tokens, tiles=tiles, squares=squares)


sizes = st.tuples(st.integers(1, 8192), st.integers(0, 64), st.integers(1, 8192**2))


@given(st.lists(sizes, max_size=50), st.integers(1, 9))
def test_deal_is_a_partition_in_equal_numbers(given_sizes, world_size):
    plan = StepPlan(number=3, rows=tuple(row(number, *size) for number, size in enumerate(given_sizes)))
    ranks = deal(plan, world_size)
    dealt = [one for rank in ranks for one in rank if one is not EMPTY_ROW]
    assert len(ranks) == world_size
    assert {len(rank) for rank in ranks} == {-(-len(plan.rows) // world_size)}
    assert sorted(one.slots for one in dealt) == sorted(one.slots for one in plan.rows)
    assert sum(one is EMPTY_ROW for rank in ranks for one in rank) == -len(plan.rows) % world_size
    assert all(one is not EMPTY_ROW for rank in ranks for one in rank[:-1])


def test_cost_by_hand():
    # the paper's model: attention is 4.5 % of a token's work at 2,048 tokens a document; a tile is 39 tokens
    document = row(0, 2048, 1, 2048**2)
    assert abs(Cost().of(document) - (2048 + 2048 * 0.0556 + 39.4)) < 0.5


def test_rows_of_like_cost_stand_in_the_same_round():
    draw = random.Random(0)
    plan = StepPlan(
        number=0, rows=tuple(row(n, 4096, draw.randint(5, 30), draw.randint(10**6, 10**7)) for n in range(64))
    )
    ranks = deal(plan, 8)
    loads = [sum(Cost().of(one) for one in rank) for rank in ranks]
    assert max(loads) / (sum(loads) / 8) < 1.02
    for turn in zip(*ranks, strict=True):
        costs = [Cost().of(one) for one in turn]
        assert max(costs) / min(costs) < 1.10  # as dealt in their own order they differ by up to 1.4


def test_the_dearest_row_of_a_round_goes_to_the_rank_that_has_least():
    plan = StepPlan(number=0, rows=tuple(row(n, tokens, 0, 0) for n, tokens in enumerate([30, 90, 50, 70, 10, 20])))
    ranks = deal(plan, 2)
    # 90 and 70; 50 to the second, 30 to the first, which makes 120 each; on a tie the first rank takes the dearer
    assert [[one.tokens for one in rank] for rank in ranks] == [[90, 30, 20], [70, 50, 10]]

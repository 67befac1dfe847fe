"""Made-up sources, and planners over them."""

import json

from hypothesis import strategies as st

from xgenmm.data.lengths import source_lengths
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.planner import BatchConfig, MixtureSource, Planner

CAPACITY = 40
TILES = 6

pieces = st.tuples(st.integers(1, CAPACITY), st.integers(0, TILES), st.integers(0, 9))
variants = st.lists(pieces, min_size=1, max_size=3)
rows = st.lists(st.lists(variants, min_size=1, max_size=3), min_size=1, max_size=25)


sources = st.lists(
    st.tuples(
        rows,
        st.lists(st.integers(0, 25), max_size=3),  # where shards are cut
        st.floats(0.01, 5),  # weight
        st.none() | st.integers(1, 40),  # samples
    ),
    min_size=1,
    max_size=4,
)
mixtures = st.tuples(
    st.sampled_from(["samples", "tokens", "loss_tokens"]),
    st.sampled_from(["repeat", "stop", "renormalise"]),
    st.integers(1, 3),
)
batches = st.tuples(st.sampled_from(["size", "rows"]), st.integers(1, 9))


# Our own classes are built here and not in strategies: the checker of their types draws random numbers, and Hypothesis
# does not let its strategies do that.


def build_sources(cases, *, weighted, subsets=True):
    return [
        MixtureSource(
            lengths=source_lengths(
                f"s{number}",
                listed,
                digest=f"d{number}",
                shards=[0, *sorted(min(cut, len(listed)) for cut in cuts), len(listed)],
            ),
            weight=weight if weighted else None,
            samples=samples if subsets else None,
        )
        for number, (listed, cuts, weight, samples) in enumerate(cases)
    ]


def build_mixture(case):
    unit, at_end, mix_shards = case
    return MixtureConfig(unit=unit, at_end=at_end, normalise=True, mix_shards=mix_shards)


def build_batch(case):
    kind, number = case
    return BatchConfig(**{kind: number}, tokens=CAPACITY, tiles=TILES)


def planner(sources, mixture=None, batch=None, **changes):
    settings = {"seed": 0, "max_tokens": CAPACITY, "tokens_per_tile": 2, **changes}
    batch = batch or BatchConfig(size=4, tokens=CAPACITY, tiles=TILES)
    return Planner(sources, mixture or MixtureConfig(), batch, **settings)


def steps(planner, most=12):
    """The next steps, with the digest after each."""
    found = []
    for _ in range(most):
        plan = next(planner, None)
        if plan is None:
            break
        found.append((plan, planner.digest))
    return found


def through_json(state):
    return json.loads(json.dumps(state))


def slots(plans):
    return [slot for plan in plans for row in plan.rows for slot in row.slots]


def piece(sources, slot):
    """Tokens, tiles and supervised tokens of a slot, looked up in the columns one by one."""
    lengths = sources[slot.source].lengths
    variant = slot.row if lengths.variants is None else int(lengths.variants[slot.row]) + slot.variant
    place = variant if lengths.pieces is None else int(lengths.pieces[variant])
    place += slot.piece
    return int(lengths.tokens[place]), int(lengths.tiles[place]), int(lengths.loss_tokens[place])


def pieces_of(sources, slot):
    """How many pieces the slot's sample has."""
    lengths = sources[slot.source].lengths
    variant = slot.row if lengths.variants is None else int(lengths.variants[slot.row]) + slot.variant
    return 1 if lengths.pieces is None else int(lengths.pieces[variant + 1] - lengths.pieces[variant])

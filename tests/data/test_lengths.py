"""Columns of lengths: what they must agree on."""

import dataclasses

import numpy as np
import pytest

from xgenmm.data.lengths import SourceLengths, source_lengths

GIVEN = {
    "name": "a",
    "digest": "d",
    "shards": np.array([0, 2, 3]),
    "tokens": np.array([9, 5, 3, 4], dtype=np.uint32),
    "tiles": np.array([1, 0, 0, 2], dtype=np.uint16),
    "loss_tokens": np.array([4, 5, 3, 4], dtype=np.uint32),
    "longest": 9,
    "most_tiles": 2,
    "pieces": np.array([0, 1, 3, 4]),
}


def test_a_list_becomes_the_columns_that_the_index_writes():
    # three rows, the second in two pieces, no row with variants
    made = source_lengths("a", [[[(9, 1, 4)]], [[(5, 0, 5), (3, 0, 3)]], [[(4, 2, 4)]]], digest="d", shards=[0, 2, 3])
    for field in dataclasses.fields(SourceLengths):
        found, wanted = getattr(made, field.name), GIVEN.get(field.name)
        assert np.array_equal(found, wanted), field.name
    assert made.rows == 3


def test_variants_have_offsets_of_their_own():
    made = source_lengths("a", [[[(9, 1, 4)], [(8, 1, 4)]], [[(5, 0, 5)]]], digest="d")
    assert made.variants.tolist() == [0, 2, 3]
    assert made.pieces is None
    assert made.shards.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shards": np.array([0, 0])}, "has no rows"),
        ({"shards": np.array([1, 3])}, "do not begin at row 0"),
        ({"pieces": np.array([0, 1, 4])}, "pieces must be 4 offsets from 0 on, but is 3"),
        ({"pieces": None}, "columns for 3 pieces are needed, but there are 4 tokens, 4 tiles, 4 loss_tokens"),
        ({"variants": np.array([0, 1])}, "variants must be 4 offsets from 0 on, but is 2"),
        ({"tiles": np.zeros(3, np.uint16)}, "there are 4 tokens, 3 tiles"),
    ],
)
def test_columns_that_disagree_are_refused(change, message):
    SourceLengths(**GIVEN)
    with pytest.raises(ValueError, match=message):
        SourceLengths(**{**GIVEN, **change})

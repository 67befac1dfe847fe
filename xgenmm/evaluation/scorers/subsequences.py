"""Longest common subsequences of many pairs of sentences at once. Knows no metric."""

from collections.abc import Sequence

import numpy as np

from xgenmm.evaluation.scorers.ngrams import Ints, Words

LCS_BITS = 62
"""Longest candidate in tokens that the vectorised LCS holds in one machine word."""
LCS_CHUNK = 4096
"""Sentence pairs compared at once by the LCS; bounds its memory."""


def lcs_lengths(words: Words, left: Ints, right: Ints) -> Ints:
    """Length of the longest common subsequence of every pair of sentences."""
    result = np.zeros(len(left), dtype=np.int64)
    left_length, right_length = words.lengths[left], words.lengths[right]
    # Pairs of similar length share a chunk, so that little of it is padding.
    order = np.lexsort((left_length, right_length))
    short = order[left_length[order] <= LCS_BITS]
    for start in range(0, len(short), LCS_CHUNK):
        chunk = short[start : start + LCS_CHUNK]
        result[chunk] = _lcs_batch(words.table(left[chunk], -1), words.table(right[chunk], -2), left_length[chunk])
    for i in np.flatnonzero(left_length > LCS_BITS):
        result[i] = _lcs_one(words.sentence(int(left[i])), words.sentence(int(right[i])))
    return result


def _lcs_batch(left: Ints, right: Ints, left_length: Ints) -> Ints:
    """Bit-parallel LCS: bit i of ``state`` is cleared while position i of ``left`` ends a longer match (Hyyrö 2004)."""
    bits = np.left_shift(np.int64(1), np.arange(left.shape[1], dtype=np.int64))
    inside = np.left_shift(np.int64(1), left_length) - 1
    state = inside.copy()
    for column in range(right.shape[1]):
        match = np.where(left == right[:, column, None], bits, 0).sum(axis=1)
        hit = state & match
        state = ((state + hit) | (state - hit)) & inside
    return left_length - np.bitwise_count(state).astype(np.int64)


def _lcs_one(left: Sequence[int], right: Sequence[int]) -> int:
    """The same as `_lcs_batch` for one pair of any length, in Python's unbounded integers."""
    positions: dict[int, int] = {}
    for i, word in enumerate(left):
        positions[word] = positions.get(word, 0) | (1 << i)
    inside = (1 << len(left)) - 1
    state = inside
    for word in right:
        hit = state & positions.get(word, 0)
        state = ((state + hit) | (state - hit)) & inside
    return len(left) - state.bit_count()

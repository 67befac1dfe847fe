"""A change that should not alter results does not: ten steps of each stage against those that were written down."""

import json

import pytest
from golden_losses import GOLDEN, STEPS, losses

TOLERANCE = 1e-5
"""Another number of threads, or weights disturbed by 1e-7 as by another order of additions, moves these losses by no
more than 2e-7, as tried with torch 2.13; so 1e-5 leaves room for other processors. The smallest of settings moves them
by more: see below."""


def distance(one, other):
    return max(abs(a - b) / b for stage in other for a, b in zip(one[stage], other[stage], strict=True))


@pytest.mark.slow
@pytest.mark.skipif(not GOLDEN.exists(), reason=f"no {GOLDEN.name}: python tests/training/golden_losses.py writes it")
def test_ten_steps_of_each_stage(toy_folder, tmp_path):
    golden, found = json.loads(GOLDEN.read_text()), losses(toy_folder, tmp_path)
    assert list(found) == list(golden) == ["pretrain", "sft", "interleaved", "dpo", "safety"]
    assert all(len(stage) == STEPS for stage in golden.values())
    assert distance(found, golden) < TOLERANCE


@pytest.mark.slow
@pytest.mark.skipif(not GOLDEN.exists(), reason=f"no {GOLDEN.name}")
def test_a_small_change_is_seen(toy_folder, tmp_path):
    """A learning rate that is a thousandth higher."""
    golden = json.loads(GOLDEN.read_text())
    found = losses(toy_folder, tmp_path, "stages.pretrain.optim.lr=3.003e-3", stages=1)
    assert distance(found, {"pretrain": golden["pretrain"]}) > 10 * TOLERANCE

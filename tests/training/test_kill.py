"""A short campaign of `benchmarks/kill.py`: real processes, real kill -9, half of them while saving."""

import pytest
from kill import Summary, campaign


@pytest.mark.slow
def test_whenever_it_is_killed_nothing_is_lost_but_an_interval(tmp_path, toy_folder):
    summary = Summary()
    campaign(summary, 5, tmp_path, toy_folder, seed=2)
    assert summary.good, summary.text()
    assert summary.kills == len(summary.lost) == 5
    assert summary.while_saving >= 1
    assert summary.runs >= 1

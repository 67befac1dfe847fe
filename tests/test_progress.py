"""What long work says where there is no terminal."""

import logging
import types

import pytest

from xgenmm import progress as module
from xgenmm.progress import progress


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_lines_tell_rate_and_time_left(clock, caplog):
    """Of 100 items 40 were done by an earlier start; 20 in 10 seconds are 2 a second, and 20 s for the other 40."""
    with caplog.at_level(logging.INFO), progress("reading", 100, "pages", done=40) as tell:
        clock.now = 5.0
        tell(10)
        clock.now = 10.0
        tell(10)
        clock.now = 30.0
        tell(40)
    assert [record.getMessage() for record in caplog.records] == [
        "reading 60/100 pages  2.0 pages/s  20 s left",
        "reading 100/100 pages  2.0 pages/s  0 s left",
    ]


def test_nothing_done_yet_promises_nothing(clock, caplog):
    with caplog.at_level(logging.INFO), progress("reading", 100, "pages") as tell:
        clock.now = 25.0
        tell(0)
    assert [record.getMessage() for record in caplog.records] == ["reading 0/100 pages"]

"""The clock of a step: every moment belongs to one phase, and all of them add up to the step."""

import pytest
import torch

from xgenmm import phases
from xgenmm.phases import PHASES, Clock, phase


class Time:
    """Moves only when told."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    time = Time()
    monkeypatch.setattr(phases, "time", time)
    return time


def test_what_begins_inside_of_a_phase_takes_its_time_away_from_it(time):
    @phase("vision")
    def look():
        time.now += 3

    clock = Clock(torch.device("cpu"))
    with clock.step(waited=0.5):
        time.now += 1
        with phase("lm_forward"):
            time.now += 4
            look()
            time.now += 8
        with phase("backward"):
            time.now += 16
            with phase("communication"):
                time.now += 32
            look()
    spent = {"data_wait": 0.5, "vision": 6, "lm_forward": 12, "backward": 16, "communication": 32, "other": 1}
    assert clock.phases == {**dict.fromkeys(PHASES, 0), **spent}
    assert clock.seconds == 67.5


def test_a_step_knows_nothing_of_the_one_before_it(time):
    clock = Clock(torch.device("cpu"))
    for seconds in (5, 2):
        with clock.step(waited=0.0), phase("backward"):
            time.now += seconds
    assert clock.phases["backward"] == 2


def test_outside_of_a_step_nothing_is_counted(time):
    clock = Clock(torch.device("cpu"))
    with pytest.raises(KeyError), clock.step(waited=0.0), phase("optimizer"):
        raise KeyError
    with phase("optimizer"):  # an evaluation between two steps
        time.now += 7
    assert clock.phases["optimizer"] == 0


def test_on_a_gpu_the_queue_tells_the_time_and_is_waited_for_once(monkeypatch):
    """Events take the place of the CPU's clock; only the whole step waits for them."""
    waits, number = [], iter(range(100))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = 10.0 * next(number)

        def elapsed_time(self, other):
            return 1000 * (other.at - self.at)

    class Stream:
        def synchronize(self):
            waits.append(True)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    clock = Clock(torch.device("cuda"))
    with clock.step(waited=0.0), phase("lm_forward"), phase("vision"):
        pass
    assert (clock.phases["vision"], clock.phases["lm_forward"], clock.phases["other"]) == (10, 20, 20)
    assert len(waits) == 1

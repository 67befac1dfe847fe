"""Signals that ask a run to stop: noted when they come, answered when a step is done."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
EXIT_PREEMPTED = 75
"""For SIGUSR1, what schedulers send ahead of preemption: "temporary failure, try again" (EX_TEMPFAIL). It tells a
batch script that all is saved, which 128 + 10 would not: a process that the signal has killed gives that, too."""
SECONDS_OF_ONE_REQUEST = 2.0
"""Under torchrun, which passes on what a terminal or a scheduler has sent to every process already."""


class Stopped(Exception):
    """Somebody asked the run to stop; it saved a checkpoint first."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped after {step} steps and saved; the same command goes on from there")
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """What the process ends with."""
        return EXIT_PREEMPTED if self.signal_number == signal.SIGUSR1 else 128 + self.signal_number


class Asked:
    """Which signal asked the run to stop, if any."""

    signal_number: int = 0
    _since: float = 0.0

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: the first is noted, the next leaves at once."""
        if not self.signal_number:
            self.signal_number, self._since = number, time.monotonic()
            log.warning("stopping after this step; once more stops at once")
            return
        repeated = "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self._since < SECONDS_OF_ONE_REQUEST
        if not repeated:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def leave_when_preempted() -> None:
    """Outside of training, where there is nothing to save, SIGUSR1 ends the process at once with its exit code."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(EXIT_PREEMPTED)

    signal.signal(signal.SIGUSR1, leave)


@contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """While it lasts, SIGINT (Ctrl-C), SIGTERM and SIGUSR1 are noted."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield asked
        return
    before = {number: signal.signal(number, asked.note) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

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
SECONDS_TO_UNWIND = 2.0
"""For the main thread, when it shall leave at once."""


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
        if not _passed_on(time.monotonic() - self._since):
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def leave_when_preempted() -> None:
    """Outside of training, where there is nothing to save, SIGUSR1 ends the process at once with its exit code."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(EXIT_PREEMPTED)

    signal.signal(signal.SIGUSR1, leave)


def _passed_on(seconds: float) -> bool:
    """Whether a signal so soon after the first is the same request once more."""
    return "TORCHELASTIC_RUN_ID" in os.environ and seconds < SECONDS_OF_ONE_REQUEST


def _leave_if_stuck(reading: int, left: threading.Event) -> None:
    """End the process at a second signal to which the main thread does not answer.

    Python handles signals between its own instructions, and a thread that waits in C for another process has none.

    Args:
        reading: A pipe into which the interpreter writes the number of every signal that comes.
        left: Set when the main thread has left.
    """
    first = None
    with open(reading, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            now = time.monotonic()
            if number[0] not in SIGNALS or (first is not None and _passed_on(now - first)):
                continue
            if first is None:
                first = now
            elif not left.wait(SECONDS_TO_UNWIND):
                os._exit(128 + number[0])


@contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """While it lasts, SIGINT (Ctrl-C), SIGTERM and SIGUSR1 are noted."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield asked
        return
    before = {number: signal.signal(number, asked.note) for number in SIGNALS}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    wakeup, left = signal.set_wakeup_fd(writing, warn_on_full_buffer=False), threading.Event()
    threading.Thread(target=_leave_if_stuck, args=(reading, left), name="signals", daemon=True).start()
    try:
        yield asked
    finally:
        left.set()
        signal.set_wakeup_fd(wakeup)
        os.close(writing)  # ends the thread
        for number, handler in before.items():
            signal.signal(number, handler)

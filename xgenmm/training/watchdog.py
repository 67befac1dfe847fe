"""Notices that nothing has happened for too long, and tells what the process is doing. It stops nothing unless asked.

A call into C that holds Python's lock cannot be told from here; torch's own operations, and waits for other ranks, let
it go.
"""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from xgenmm.training.ranks import rank

log = logging.getLogger(__name__)

EXIT_HANG = 124
"""As of the command `timeout`."""
SECONDS_TO_WRITE = 10.0
"""How long the file of stacks is waited for."""


class Watchdog:
    """A thread that waits for a deadline; every piece of work sets a new one."""

    def __init__(self, folder: Path, seconds: float, *, leave: bool = False) -> None:
        """Set how long a piece of work may take.

        Args:
            folder: Gets `stacks-RANK.txt` when one takes longer.
            seconds: From its beginning.
            leave: End the process then. The last checkpoint is what is left.
        """
        self.path = folder / f"stacks-{rank()}.txt"
        self._seconds = seconds
        self._leave = leave
        self._changed = threading.Condition()
        self._work: tuple[str, Sequence[str]] | None = None
        self._began = 0.0
        self._deadline: float | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._wait, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def begin(self, what: str, ids: Sequence[str] = ()) -> None:
        """A piece of work begins, and with it the time that it may take.

        Args:
            what: What a message calls it.
            ids: Its samples.
        """
        with self._changed:
            self._work, self._began = (what, ids), time.monotonic()
            self._deadline = self._began + self._seconds
            self._changed.notify()

    def rest(self) -> None:
        """What comes now may take as long as it likes."""
        with self._changed:
            self._work = self._deadline = None

    def _wait(self) -> None:
        with self._changed:
            while not self._closed:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and left <= 0:
                    self._report()
                else:
                    self._changed.wait(left if left is None else min(left, threading.TIMEOUT_MAX))

    def _report(self) -> None:
        assert self._work is not None
        what, ids = self._work
        seconds = time.monotonic() - self._began
        stacks = _stacks()
        log.error(
            "%s takes more than %.1f s. Its samples: %s\nWhat the process is doing (also in %s):\n%s",
            *(what, seconds, ", ".join(ids) or "none yet", self.path, stacks),
        )
        # A disk that answers no more may be why nothing happens: it must not keep this thread, too.
        text = f"{what}, after {seconds:.1f} s; samples: {', '.join(ids)}\n{stacks}"
        writing = threading.Thread(target=self._write, args=(text,), name="watchdog writes", daemon=True)
        writing.start()
        writing.join(SECONDS_TO_WRITE)
        if self._leave:
            log.error("the process ends, as health.hang_exit asks; the same command goes on from the last checkpoint")
            os._exit(EXIT_HANG)
        self._deadline = self._began + 2 * seconds  # again after twice the time, not at every moment

    def _write(self, text: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            log.error("%s cannot be written: %s", self.path, error)


def _stacks() -> str:
    """Where each thread is, the innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"Thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()
    )

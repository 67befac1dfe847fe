"""What a training step spends its time on. Where no clock runs, saying what is done now costs nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, get_args

import torch

Phase = Literal["data_wait", "vision", "lm_forward", "backward", "optimizer", "communication", "other"]
"""Waiting for data; encoder and resampler; the rest of the forward pass, with the loss; the backward pass, with what it
computes again; clip and update; waiting for other processes; whatever else the loop does."""
PHASES: tuple[Phase, ...] = get_args(Phase)

_running: "Clock | None" = None


class Clock:
    """Takes the time of steps by phase. A step is always in one phase: one that begins inside of another takes its time
    away from that one. On a GPU, time is that of its queue, and nothing waits for it before a step's end.
    """

    def __init__(self, device: torch.device) -> None:
        """Make a clock for what is computed on a device."""
        self.seconds = 0.0
        """Of the last step, with its waiting for data."""
        self.phases: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        """The same by phase."""
        self._on_gpu = device.type == "cuda"
        self._open: list[Phase] = []
        self._marks: list[tuple[Phase, Any]] = []
        """Each moment at which the phase changed, and to what."""

    @contextmanager
    def step(self, waited: float) -> Iterator[None]:
        """Around a step that waited so many seconds for its data before it began."""
        global _running
        self._open = ["other"]
        self._marks = []
        _running = self
        began = time.perf_counter()
        self._mark()
        try:
            yield
        finally:
            _running = None
        self._mark()
        if self._on_gpu:
            torch.cuda.current_stream().synchronize()
        self.seconds = time.perf_counter() - began + waited
        self.phases = {**dict.fromkeys(PHASES, 0.0), "data_wait": waited}
        for (name, start), (_, end) in pairwise(self._marks):
            self.phases[name] += start.elapsed_time(end) / 1000 if self._on_gpu else end - start

    def enter(self, name: Phase) -> None:
        """A phase begins."""
        self._open.append(name)
        self._mark()

    def leave(self) -> None:
        """It ends, and the one around it goes on."""
        self._open.pop()
        self._mark()

    def _mark(self) -> None:
        moment: Any = torch.cuda.Event(enable_timing=True) if self._on_gpu else time.perf_counter()
        if self._on_gpu:
            moment.record()
        self._marks.append((self._open[-1], moment))


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Around what belongs to a phase; also as a decorator."""
    clock = _running
    if clock is None:
        yield
        return
    clock.enter(name)
    try:
        yield
    finally:
        clock.leave()

"""How our benchmarks measure: CPU time of one thread, two variants in turn, memory in a process of its own."""

import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xgenmm.training.precision import Precision, autocast, probe

torch.set_num_threads(1)  # whoever imports this measures


@functools.cache
def number_format() -> Precision:
    """What `precision: auto` takes on this machine, here for both variants: where a processor has no instructions for
    bfloat16, a product in it takes a hundred times as long, and nobody would train so.
    """
    found = probe(torch.device("cpu"))
    if found.choice == "float32":
        torch.set_float32_matmul_precision(found.float32)
    return found.choice


def computing(precision: Precision | None = None) -> torch.autocast:
    """Where a forward pass runs whose products are in this format, or in the machine's."""
    return autocast(torch.device("cpu"), precision or number_format())


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times cheaper ours is, and what both cost."""

    peer: float
    """Median CPU seconds."""
    ours: float
    cpu: float
    """Median of the pairs' ratios, in CPU time."""
    wall: float
    """The same in wall time, which other work on the machine disturbs."""

    def __str__(self) -> str:
        return f"peer {self.peer:.3f} s, ours {self.ours:.3f} s: {self.cpu:.2f}x (wall {self.wall:.2f}x)"


def pairwise(peer: Callable[[], Any], ours: Callable[[], Any], pairs: int = 3) -> Ratio:
    """Run both in turn, after one run of each that does not count; what slows the machine down then slows down both."""
    peer()
    ours()
    times = [(_times(peer), _times(ours)) for _ in range(pairs)]
    return Ratio(
        peer=statistics.median(one.cpu for one, _ in times),
        ours=statistics.median(other.cpu for _, other in times),
        cpu=statistics.median(one.cpu / other.cpu for one, other in times),
        wall=statistics.median(one.wall / other.wall for one, other in times),
    )


def cpu_seconds(call: Callable[[], Any]) -> float:
    """Median CPU time of three runs."""
    return statistics.median(_times(call).cpu for _ in range(3))


def best_cpu_seconds(call: Callable[[], Any], runs: int = 20) -> float:
    """CPU time of the fastest of many runs: what a machine can do when nobody disturbs it."""
    return min(_times(call).cpu for _ in range(runs))


@dataclass(frozen=True)
class _Times:
    cpu: float
    wall: float


def _times(call: Callable[[], Any]) -> _Times:
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return _Times(time.process_time() - cpu, time.perf_counter() - wall)


def peak_memory_mb(prepare: Callable[[], Callable[[], Any]]) -> float:
    """By how much the process grows beyond what is prepared, at most, in a fresh process (Linux: the kernel's mark).

    Args:
        prepare: A function of a module, which builds everything that must be there before and gives what is measured.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (prepare,))


def _peak(prepare: Callable[[], Callable[[], Any]]) -> float:
    call = prepare()
    number_format()  # asked now, it takes no memory later
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the mark falls to what is there now
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    """A memory size of this process, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6

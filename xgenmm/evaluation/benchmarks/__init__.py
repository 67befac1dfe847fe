"""Every benchmark by name. A module of this folder with a `BENCHMARKS` tuple is found by itself."""

import importlib
import pkgutil
from functools import cache

from xgenmm.config import ConfigError, nearest
from xgenmm.evaluation.benchmarks.benchmark import Benchmark


@cache
def benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by name, in alphabetical order."""
    found: dict[str, Benchmark] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for benchmark in getattr(importlib.import_module(module.name), "BENCHMARKS", ()):
            if benchmark.name in found:
                raise ValueError(f'two benchmarks are called "{benchmark.name}"')
            found[benchmark.name] = benchmark
    return dict(sorted(found.items()))


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        ConfigError: There is none; the message offers the nearest name.
    """
    known = benchmarks()
    if name not in known:
        raise ConfigError(f'there is no benchmark "{name}"; {nearest(name, known)}')
    return known[name]

"""When the C library gives freed memory back to the system: not after every picture, but between stages."""

import ctypes
import functools
import sys
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of settings in glibc's malloc.h."""
_KEPT = 256 << 20
_OWN_PAGES = 32 << 20
"""Blocks from this size on are always given back: a training step's would leave holes that nothing else fits into."""
_ASKED_AT_ONCE = 16 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Set it for this process, once; whether it could be set (glibc only).

    A decoded picture takes some megabytes. By default each is mapped in, page by page, and unmapped when it is done:
    hundreds of page faults a picture, a quarter of the time of decoding it (benchmarks/loader.py).
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    settings = {_MMAP_THRESHOLD: _OWN_PAGES, _TRIM_THRESHOLD: _KEPT, _TOP_PAD: _ASKED_AT_ONCE}
    return all(mallopt(name, value) == 1 for name, value in settings.items())


def give_back_memory() -> None:
    """Give back what is free: between a stage and the next, whose blocks have other sizes and would not fit into it."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any:
    """A function of the C library; None where it has none of that name (glibc only)."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None

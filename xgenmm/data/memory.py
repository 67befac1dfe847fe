"""Keeps the C library from giving memory back to the system after every picture, only to ask for it again."""

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of settings in glibc's malloc.h."""
_KEPT = 256 << 20
_ASKED_AT_ONCE = 16 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Set it for this process, once; whether it could be set (glibc only).

    A decoded picture takes some megabytes. By default each is mapped in, page by page, and unmapped when it is done:
    hundreds of page faults a picture, a quarter of the time of decoding it (benchmarks/loader.py).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {_MMAP_THRESHOLD: _KEPT, _TRIM_THRESHOLD: _KEPT, _TOP_PAD: _ASKED_AT_ONCE}
    return all(mallopt(name, value) == 1 for name, value in settings.items())

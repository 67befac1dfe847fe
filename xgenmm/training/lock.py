"""One run at a time in a run's folder: the second is told who is there.

Two things must both be free. `flock` on the file `lock`, which the system lets go when its owner dies, however it dies:
on local disks, and on NFS that carries locks. And the file's text, where locks do not reach: who holds it, and by the
file's age whether it still lives, since the owner touches the file again and again. The file stays, empty, when a run
ends: whoever removed it would let two others lock two files of that name.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

NAME = "lock"
SECONDS_BETWEEN_BEATS = 20.0
SECONDS_UNTIL_STALE = 120.0
"""A lock of another machine that was not touched for so long is a dead process's."""
SECONDS_FOR_A_TIE = 1.0
NOT_SUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class LockError(RuntimeError):
    """Somebody else works in the folder; the message says who."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the only one in a folder while it lasts.

    Raises:
        LockError: Somebody else is there.
        OSError: The folder cannot be written.
    """
    path = folder / NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    ended = threading.Event()
    try:
        _take(path, descriptor)
        beats = threading.Thread(target=_beat, args=(descriptor, ended), name="lock", daemon=True)
        beats.start()
        try:
            yield
        finally:
            ended.set()
            beats.join()
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _take(path: Path, descriptor: int) -> None:
    locked = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockError(_refusal(path, _holder(path))) from None
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        locked = False
        log.warning("%s: this file system has no locks (%s); going by what the file says", path, error.strerror)
    holder = _holder(path)
    if holder is not None:
        if _lives(path, holder, locked=locked):
            raise LockError(_refusal(path, holder))
        log.warning("%s: %s is gone; taking over", path, _name(holder))
    ours = _ourselves()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(ours).encode(), 0)
    os.fsync(descriptor)
    if not locked:  # of two that came at the same moment, the one that wrote last stays
        time.sleep(SECONDS_FOR_A_TIE)
        if _holder(path) != ours:
            raise LockError(_refusal(path, _holder(path)))


def _ourselves() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _holder(path: Path) -> dict[str, Any] | None:
    """What the file says; None if it is empty, or was cut off by a crash and so is nobody's."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _lives(path: Path, holder: dict[str, Any], *, locked: bool) -> bool:
    """Whether the process that wrote a lock is still there, as far as one can tell from here.

    If we got the `flock`, no process of this machine has it.
    """
    if holder["host"] == socket.gethostname():
        return not locked and _process_start(holder["pid"]) == holder["process_start"]
    # By the clock of the file system, which is one, and not by those of two machines.
    with tempfile.TemporaryFile(dir=path.parent) as now:
        now.write(b".")
        now.flush()
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime < SECONDS_UNTIL_STALE


def _process_start(pid: int) -> str | None:
    """When a process began, which tells it from a later one with its number; None if there is none."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    stat = Path(f"/proc/{pid}/stat")
    # the name, in brackets, may hold anything; what follows are fields 3 and on, of which 22 is the start
    return stat.read_text().rpartition(")")[2].split()[19] if stat.is_file() else "unknown"


def _beat(descriptor: int, ended: threading.Event) -> None:
    while not ended.wait(SECONDS_BETWEEN_BEATS):
        with suppress(OSError):  # a file server that is away for a moment; the next beat will do
            os.utime(descriptor)


def _refusal(path: Path, holder: dict[str, Any] | None) -> str:
    who = "another process" if holder is None else f"{_name(holder)}, since {holder['since']}"
    return f"{path.parent} is in use by {who}. Wait for it or stop it; or give this run another name (name=...)"


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}"

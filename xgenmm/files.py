"""Files that are there whole or not at all."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk: what says that it is there must not be first."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, or leave what was there: for whoever reads it, whatever kills the process, however full the
    disk is. What is in it is on the disk afterwards.

    Raises:
        OSError: It cannot be written.
    """
    scratch = path.with_name(f"{path.name}.partial")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise

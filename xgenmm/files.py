"""Files that are there whole or not at all."""

import os
from pathlib import Path


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

"""How far long work is: a bar with rate and time left on a terminal, now and then a plain line elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
"""How often work without a terminal says where it is."""


@contextmanager
def progress(title: str, total: int, unit: str, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show the progress of some work; what it gives is called with the number of items that have just been done.

    Args:
        title: What is done.
        total: Number of items.
        unit: What the items are, in the plural.
        done: Items of an earlier start.
    """
    start = last = time.perf_counter()
    count = done

    def rate() -> str:
        seconds = time.perf_counter() - start
        return f"{(count - done) / max(seconds, 1e-9):.1f} {unit}/s"

    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total, completed=done, rate="")

            def show(items: int) -> None:
                nonlocal count
                count += items
                bar.update(task, completed=count, rate=rate())

            yield show
        return

    def tell(items: int) -> None:
        nonlocal count, last
        count += items
        now = time.perf_counter()
        if count < total and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        left = f"  {rate()}  {(now - start) / (count - done) * (total - count):.0f} s left" if count > done else ""
        log.info("%s %d/%d %s%s", title, count, total, unit, left)

    yield tell

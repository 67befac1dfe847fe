"""One process or many: torchrun says so in the environment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

PATIENCE = timedelta(days=1)
"""How long a process that has done its share waits for the others, and for the first one to score."""


@contextmanager
def world_of() -> Iterator[tuple[int, int]]:
    """Number of this process and of all."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()


def gathered(message: str, world: int) -> list[str]:
    """The messages of all processes, which wait for each other; one alone waits for nobody, also where many train."""
    if world == 1:
        return [message]
    found = [""] * world
    dist.all_gather_object(found, message)
    return found


def device() -> str:
    """Where this process computes: from now on also what does not say where."""
    if not torch.cuda.is_available():
        return "cpu"
    chosen = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    torch.cuda.set_device(chosen)
    return chosen

"""One process or many: torchrun says so in the environment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def world_of() -> Iterator[tuple[int, int]]:
    """Number of this process and of all."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()


def together(world: int) -> None:
    """Wait until all processes of an evaluation are here; one alone waits for nobody, also where many train."""
    if world > 1:
        dist.barrier()


def device() -> str:
    """Where this process computes."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"

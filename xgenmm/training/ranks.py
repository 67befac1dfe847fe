"""What the processes of a run tell each other beside gradients: small values, on the CPU. One alone need not ask."""

from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")

PATIENCE = timedelta(hours=12)
"""How long a process waits for another: some work is done by one while all others wait. A step that hangs is the
watchdog's to tell, much earlier.
"""


def rank() -> int:
    """This process's number, 0 if it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def started_by_torchrun() -> bool:
    """Whether there is a group of processes, one alone in it possibly."""
    return dist.is_initialized()


def highest(*values: int) -> list[int]:
    """The highest of each value over all processes, which all get the same answer. All must call it."""
    if not dist.is_initialized():
        return list(values)
    tensor = torch.tensor(values)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=control_group())
    return tensor.tolist()


def gather(value: Value) -> list[Value]:
    """Every process's value, in the order of ranks. All must call it."""
    if not dist.is_initialized():
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value, group=control_group())
    return values


def from_first(value: Value) -> Value:
    """The value that rank 0 has. All must call it."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, src=0, group=control_group())
    return values[0]


def control_group() -> dist.ProcessGroup | None:
    """The group of all processes for such values; None for one alone. All must call it."""
    return _group_in(dist.group.WORLD) if dist.is_initialized() else None


def new_cpu_group() -> dist.ProcessGroup | None:
    """Another group of all, on the CPU whatever the gradients use: a signal must not wait for a GPU's queue."""
    group = dist.new_group(backend="gloo", timeout=PATIENCE) if dist.is_initialized() else None
    assert not isinstance(group, int)
    return group


@cache
def _group_in(_world: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    return new_cpu_group()

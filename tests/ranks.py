"""Runs a function in several processes that make up a process group, on the CPU."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp

# Processes are forked from one that has imported what is slow to import and has started no thread.
multiprocessing.set_forkserver_preload(["torch.distributed.fsdp", "xgenmm.training.trainer", "toy"])


def on_ranks(world: int, work: Callable[..., None], folder: Path, *arguments: object) -> None:
    """Call `work(folder, *arguments)` on every rank. What one raises is raised here."""
    rendezvous = folder / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    mp.start_processes(_body, (world, rendezvous, work, folder, *arguments), nprocs=world, start_method="forkserver")


def _body(rank: int, world: int, rendezvous: Path, work: Callable[..., None], *arguments: object) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    work(*arguments)
    dist.destroy_process_group()

"""Checkpoints that are whole or do not count, written while training goes on.

A checkpoint is a folder `step-N` with what trains, the optimizer's moments and counters, sharded over the ranks that
wrote it; any number of ranks can read it. See `shards` for its files.
"""

import json
import logging
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.optim import Optimizer

from xgenmm.config import Count
from xgenmm.files import sync
from xgenmm.training.ranks import control_group, from_first, gather, new_cpu_group, rank, world_size
from xgenmm.training.shards import MANIFEST, ShardWriter, sha256

log = logging.getLogger(__name__)

# DCP says this of every run of one process. For the whole process, because one thread cannot silence a warning alone.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")

STATE = "state.json"
HASHING_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    every: Count = 500
    """Steps between checkpoints; the last step saves in any case. A crash costs at most these and a twentieth more."""
    keep: Count = 2
    """How many of the newest are kept."""
    keep_every: Count | None = None
    """Those of steps that this divides are kept for good."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says what is still there."""


class Checkpoints:
    """The checkpoints of a stage. One at a time is being written, by a thread, from a copy."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        """Set the folder. All ranks make theirs at the same time.

        Args:
            folder: Where `step-N` folders are.
            config: What to keep.
        """
        self.folder = folder
        self.config = config
        self.newest: int | None = None
        """Step of the checkpoint that was read or begun last."""
        self._writing: Future[None] | None = None
        # Its own group: the thread's messages must not get between those of the steps.
        self._group = new_cpu_group()
        # Pinned memory is dear to get, so it is kept; ordinary memory is given back as soon as it is written.
        self._stager = _new_stager() if torch.cuda.is_available() else None

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Copy what is to be saved and have the copy written, after the one before is on the disk.

        Args:
            step: Number of steps that are done.
            tensors: Kind -> name -> tensor or shard of one, as `training_tensors` gives them.
            state: What else is needed to go on, as JSON; the same on every rank.

        Raises:
            CheckpointError: The one before could not be written.
        """
        self.wait()
        copy = (self._stager or _new_stager()).stage(dict(tensors))
        assert isinstance(copy, dict)
        document = {"step": step, **state}
        self._writing = _in_thread(lambda: self._write(step, copy, document))
        self.newest = step

    def keep_up(self, step: int) -> float:
        """Hold a step that is about to be written down as done, if the disk is behind; gives for how many seconds.

        Until a checkpoint is on the disk, a crash costs all since the one before. So that this stays one interval, as
        good as, training may end no more than a twentieth of another while a checkpoint is being written.

        Raises:
            CheckpointError: As `wait`.
        """
        began = time.perf_counter()
        if self.newest is not None and step > self.newest + self.config.every // 20:
            self.wait()
        return time.perf_counter() - began

    @property
    def failed(self) -> bool:
        """Whether this rank knows that the last one could not be written; then all must `wait`, which raises."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def wait(self) -> None:
        """Wait until the last one is on the disk.

        Raises:
            CheckpointError: The disk is full or the folder cannot be written. Older checkpoints are untouched.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """After an error, finish what has been begun: nothing newer will come. An interrupt does not wait for it."""
        if isinstance(error, Exception) and self._writing is not None:
            try:
                self.wait()
            except CheckpointError as second:
                log.error("%s", second)

    def load(self, model: nn.Module, optimizer: Optimizer) -> tuple[Path, dict[str, Any]] | None:
        """Put the newest sound checkpoint into a model and an optimizer built as when it was written.

        What is damaged is set aside under another name, with a warning. Gives path and `state`; None if there is none.

        Raises:
            CheckpointError: Its parameters are not those that train now; it cannot be read; or all are damaged.
        """
        damaged = []
        while path := from_first(latest_checkpoint(self.folder)):
            faults = _damage(path)
            if not faults:
                state = read_checkpoint(path, model, optimizer)
                self.newest = state["step"]
                return path, state
            damaged += faults
            log.warning("%s; it is set aside as %s.damaged", "; ".join(faults), path.name)
            if rank() == 0:
                aside = path.with_name(f"{path.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
        # Also those of an earlier start: nobody has decided yet that the run is lost.
        aside = from_first([f"{path} was set aside" for path in set_aside(self.folder)])
        if damaged or aside:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is sound: {'; '.join(damaged or aside)}; remove the folder to begin "
                "anew"
            )
        return None

    def _write(self, step: int, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        target = self.folder / f"step-{step}"
        facts = {"step": step, "world_size": world_size(), "torch": torch.__version__}
        writer = ShardWriter(target, {STATE: state}, facts)
        try:
            dcp.save(tensors, storage_writer=writer, process_group=self._group, no_dist=not dist.is_initialized())
        except (CheckpointException, OSError) as error:
            if rank() == 0:
                shutil.rmtree(target, ignore_errors=True)
            last = latest_checkpoint(self.folder)
            left = f"the last good checkpoint is {last}, untouched" if last else "there is no earlier checkpoint"
            raise CheckpointError(f"cannot write the checkpoint {target}: {_reason(error)}; {left}") from error
        if rank() == 0:
            try:
                self._prune()
            except OSError as error:  # costs room, and nothing that is needed
                log.warning("cannot remove older checkpoints: %s", error)

    def _prune(self) -> None:
        """Remove older checkpoints, and what is left of those that a crash cut off."""
        kept = whole_checkpoints(self.folder)[-self.config.keep :]
        every = self.config.keep_every
        for path in self.folder.glob("step-*"):
            number = _step(path)
            if number is None or path in kept or (every and number % every == 0 and (path / MANIFEST).exists()):
                continue
            (path / MANIFEST).unlink(missing_ok=True)  # first, so that a crash leaves nothing that looks whole
            shutil.rmtree(path)
        sync(self.folder)


def training_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
    """What has changed since the stage began: parameters that train and the optimizer's state of each, by name."""
    names: dict[Tensor, str] = {
        parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    moments = {
        f"{names[parameter]}.{key}": value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }
    return {"model": {name: parameter.detach() for parameter, name in names.items()}, "optimizer": moments}


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    whole = whole_checkpoints(folder)
    return whole[-1] if whole else None


def set_aside(folder: Path) -> list[Path]:
    """Checkpoints that were found damaged."""
    return sorted(folder.glob("step-*.damaged"))


def whole_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints whose manifest is there and agrees with the sizes of their files, oldest first."""
    steps = {path: _step(path) for path in folder.glob("step-*")}
    found = [(step, path) for path, step in steps.items() if step is not None and _is_whole(path)]
    return [path for _, path in sorted(found)]


def read_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Put a checkpoint into a model and an optimizer, in whatever way these are sharded; gives its `state`.

    Raises:
        CheckpointError: Its parameters are not those that train now, or it cannot be read.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    reader = dcp.HuggingFaceStorageReader(str(path))
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        stored: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
        _check_fit(path, stored, trainable)
        moments = _empty_moments(stored, trainable)
        targets = {f"model.{name}": parameter for name, parameter in trainable.items()}
        for name, values in moments.items():
            targets |= {f"optimizer.{name}.{key}": value for key, value in values.items()}
        dcp.load(targets, storage_reader=reader, process_group=control_group(), no_dist=not dist.is_initialized())
    except (CheckpointException, OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {_reason(error)}") from error
    for name, values in moments.items():
        optimizer.state[trainable[name]] = values
    return state


def _check_fit(path: Path, stored: Mapping[str, Any], trainable: Mapping[str, nn.Parameter]) -> None:
    then = {name.removeprefix("model."): tuple(m.size) for name, m in stored.items() if name.startswith("model.")}
    now = {name: tuple(parameter.shape) for name, parameter in trainable.items()}
    other = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if other:
        raise CheckpointError(
            f"the checkpoint {path} is of another model or of other trainable parts: {', '.join(other[:3])} …"
        )


def _empty_moments(stored: Mapping[str, Any], trainable: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Tensor]]:
    """The optimizer's state to be filled, by parameter: sharded as the parameter is, where it has its shape."""
    moments: dict[str, dict[str, Tensor]] = {}
    for full_name, facts in stored.items():
        kind, _, rest = full_name.partition(".")
        if kind == "optimizer":
            name, _, key = rest.rpartition(".")
            parameter, dtype = trainable[name], facts.properties.dtype
            alike = tuple(facts.size) == tuple(parameter.shape)
            # The fused AdamW wants its counter of steps, too, where the weights are.
            other = torch.empty(facts.size, dtype=dtype, device=parameter.device)
            moments.setdefault(name, {})[key] = torch.empty_like(parameter, dtype=dtype) if alike else other
    return moments


def _damage(path: Path) -> list[str]:
    """What of a checkpoint is not as its manifest says. The ranks share the work and get the same answer.

    Raises:
        CheckpointError: A file cannot be read, which says nothing about what is in it.
    """
    files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
    ours = sorted(files)[rank() :: world_size()]
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        try:
            hashes = list(pool.map(lambda name: sha256(path / name), ours))
        except OSError as error:
            outcome: list[str] | str = f"cannot read the checkpoint {path}: {error}"
        else:
            outcome = [
                f"{path / name} is damaged: its SHA-256 is {found} and not {files[name]['sha256']}"
                for name, found in zip(ours, hashes, strict=True)
                if found != files[name]["sha256"]
            ]
    outcomes = gather(outcome)
    for one in outcomes:
        if isinstance(one, str):
            raise CheckpointError(one)
    return [fault for faults in outcomes for fault in faults]


def _is_whole(path: Path) -> bool:
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        whole = all(
            (path / name).stat().st_size == file["bytes"] and isinstance(file["sha256"], str)
            for name, file in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # whatever else somebody may have written
        whole = False
    if not whole:
        log.warning("%s is not whole and is ignored", path)
    return whole


def _step(path: Path) -> int | None:
    """The number in a checkpoint's name; None where the name is none of ours."""
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() else None


def _reason(error: BaseException) -> str:
    """What went wrong, without the tracebacks of all ranks that DCP puts into its message."""
    failures = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    return "; ".join(dict.fromkeys(str(f) if isinstance(f, OSError) else repr(f) for f in failures))


def _new_stager() -> DefaultStager:
    cuda = torch.cuda.is_available()
    return DefaultStager(
        StagingOptions(
            use_pinned_memory=cuda, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=cuda
        )
    )


def _in_thread(work: Callable[[], None]) -> Future[None]:
    """Begin some work; its future gives the end or the error. A process that leaves at once does not wait for it."""
    future: Future[None] = Future()

    def body() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised again by whoever asks the future
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=body, name="checkpoint", daemon=True).start()
    return future

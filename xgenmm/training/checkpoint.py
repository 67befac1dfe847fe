"""Checkpoints that are whole or do not count: folders `step-N` of safetensors and JSON, the manifest written last."""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    every: int = 500
    """Steps between checkpoints; the last step saves in any case."""
    keep: int = 2
    """How many of the newest are kept."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says what is still there."""


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], keep: int
) -> Path:
    """Write what has changed since the stage began: parameters that train, the optimizer's moments, counters.

    Args:
        folder: Where `step-N` folders are.
        step: Number of steps that are done.
        model: Its parameters with `requires_grad` are saved.
        optimizer: Over these parameters.
        state: What else is needed to go on, as JSON.
        keep: Older checkpoints beyond this number are removed, after the new one is whole.

    Raises:
        CheckpointError: The disk is full or the folder cannot be written. Older checkpoints are untouched.
    """
    target = folder / f"step-{step}"
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        _write_tensors({name: parameter.detach() for parameter, name in names.items()}, target / "model.safetensors")
        moments = {
            f"{names[parameter]}.{key}": value
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        }
        _write_tensors(moments, target / "optimizer.safetensors")
        _write_json({"step": step, **state}, target / "state.json")
        sizes = {path.name: path.stat().st_size for path in sorted(target.iterdir())}
        _write_json({"files": sizes}, target / MANIFEST)
        _sync(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(target, ignore_errors=True)
        last = latest_checkpoint(folder)
        left = f"the last good checkpoint is {last}, untouched" if last else "there is no earlier checkpoint"
        raise CheckpointError(f"cannot write the checkpoint {target}: {error}; {left}") from error
    for old in _whole_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    whole = _whole_checkpoints(folder)
    return whole[-1] if whole else None


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint into a model and an optimizer that were built as when it was written; gives its `state`.

    Raises:
        CheckpointError: Its parameters are not those that train now, or a file is damaged.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    try:
        values = load_file(path / "model.safetensors")
        moments = load_file(path / "optimizer.safetensors")
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path}: {error}; remove it to go on from an older one"
        ) from error
    if values.keys() != trainable.keys() or any(values[name].shape != p.shape for name, p in trainable.items()):
        other = sorted(values.keys() ^ trainable.keys())[:3]
        raise CheckpointError(
            f"the checkpoint {path} is of another model or of other trainable parts: {', '.join(other)} …"
        )
    by_parameter: dict[Tensor, dict[str, Tensor]] = {}
    for full_name, value in moments.items():
        name, _, key = full_name.rpartition(".")
        # The fused AdamW wants its counter of steps, too, where the weights are.
        by_parameter.setdefault(trainable[name], {})[key] = value.to(trainable[name].device)
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(values[name])
    optimizer.state.update(by_parameter)
    return state


def _whole_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints whose manifest is there and agrees with their files, oldest first."""
    found = [(int(path.name.removeprefix("step-")), path) for path in folder.glob("step-*") if _is_whole(path)]
    return [path for _, path in sorted(found)]


def _is_whole(path: Path) -> bool:
    try:
        sizes = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        whole = all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        log.warning("%s is not whole and is ignored", path)
    return whole


def _write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, path)
    _sync(path)


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    """Written aside and renamed: a manifest is there with all its text or not at all."""
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
    _sync(aside)
    aside.rename(path)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk: the manifest must not be there first."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

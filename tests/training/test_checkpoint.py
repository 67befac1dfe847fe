"""Checkpoints: whole or ignored, never at the cost of an older one, and readable by any number of ranks."""

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import types

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ranks import on_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from xgenmm.config import ConfigError, decode
from xgenmm.training import shards
from xgenmm.training.checkpoint import (
    CheckpointConfig,
    CheckpointError,
    Checkpoints,
    latest_checkpoint,
    training_tensors,
)


def make(seed=0, width=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(width, 2), nn.Linear(2, 1))
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)
    return model, optimizer


def train(model, optimizer, steps=2):
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.full((2, 3), float(step + 1))).square().sum().backward()
        optimizer.step()


def values(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def save(folder, step, model, optimizer, **config):
    checkpoints = Checkpoints(folder, CheckpointConfig(**config))
    checkpoints.save(step, training_tensors(model, optimizer), {"note": step})
    checkpoints.wait()
    return folder / f"step-{step}"


def load(folder, model, optimizer):
    return Checkpoints(folder, CheckpointConfig()).load(model, optimizer)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_loaded_and_trained_on_it_is_as_if_it_had_never_stopped(tmp_path):
    model, optimizer = make()
    train(model, optimizer)
    path = save(tmp_path, 2, model, optimizer)
    train(model, optimizer)
    other, other_optimizer = make(seed=1)
    other[0].bias.data.copy_(model[0].bias.data)  # frozen: not in a checkpoint
    assert load(tmp_path, other, other_optimizer) == (path, {"step": 2, "note": 2})
    train(other, other_optimizer)
    assert equal(values(model), values(other))


def test_training_goes_on_while_it_is_written(tmp_path, monkeypatch):
    """What is written is the moment of the call, however long the disk takes."""
    disk = threading.Event()
    real = shards._write_safetensors
    monkeypatch.setattr(shards, "_write_safetensors", lambda *args: disk.wait(60) and real(*args))
    model, optimizer = make()
    train(model, optimizer)
    then = values(model)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    checkpoints.save(2, training_tensors(model, optimizer), {})
    train(model, optimizer)
    assert latest_checkpoint(tmp_path) is None
    assert not checkpoints.failed
    assert checkpoints.keep_up(2 + 500 // 20) < 0.1
    threading.Timer(0.3, disk.set).start()
    assert checkpoints.keep_up(2 + 500 // 20 + 1) > 0.2
    assert latest_checkpoint(tmp_path) == tmp_path / "step-2"
    assert not equal(values(model), then)
    load(tmp_path, model, optimizer)
    assert equal(values(model), then)


def test_only_what_trains_is_saved(tmp_path):
    from safetensors.torch import load_file

    model, optimizer = make()
    train(model, optimizer)
    path = save(tmp_path, 1, model, optimizer)
    saved = load_file(path / "model-00000.safetensors")
    assert sorted(saved) == ["model.0.weight", "model.1.bias", "model.1.weight"]
    assert torch.equal(saved["model.1.weight"], model[1].weight.detach())
    moments = load_file(path / "optimizer-00000.safetensors")
    assert len(moments) == 3 * 3  # exp_avg, exp_avg_sq and step of each
    assert moments["optimizer.1.bias.step"] == 2


def test_widths_of_types_do_not_get_in_each_others_way(tmp_path):
    tensors = {
        "a": torch.arange(3, dtype=torch.bfloat16),
        "b": torch.arange(5, dtype=torch.float64),
        "c": torch.zeros(0, 4),
        "d": torch.tensor([True]),
        "e": torch.tensor(7),
        "f": torch.arange(6.0).reshape(2, 3).T,
    }
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    checkpoints.save(1, {"model": tensors}, {})
    checkpoints.wait()
    read = {f"model.{name}": torch.zeros_like(value) for name, value in tensors.items()}
    dcp.load(read, storage_reader=dcp.HuggingFaceStorageReader(str(tmp_path / "step-1")), no_dist=True)
    assert all(torch.equal(read[f"model.{name}"], value) for name, value in tensors.items())


def test_nothing_in_it_is_a_pickle(tmp_path):
    model, optimizer = make()
    train(model, optimizer)
    path = save(tmp_path, 1, model, optimizer)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
    assert not any(text[:1] == b"\x80" or b"ctorch" in text for text in contents(path).values())


def test_newest_ones_are_kept_and_every_so_many_for_good(tmp_path):
    model, optimizer = make()
    for step in range(1, 12):
        save(tmp_path, step, model, optimizer, keep=2, keep_every=4)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-11"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-11", "step-4", "step-8"]


NONSENSE = ("null", '{"files": []}', '{"files": {"state.json": 3}}', '{"files": {"state.json": {"bytes": SIZE}}}', "[]")


@pytest.mark.parametrize("text", NONSENSE)
def test_a_manifest_of_another_shape_is_none(tmp_path, text):
    model, optimizer = make()
    train(model, optimizer)
    good, broken = (save(tmp_path, step, model, optimizer) for step in (1, 2))
    size = (broken / "state.json").stat().st_size
    (broken / "manifest.json").write_text(text.replace("SIZE", str(size)))
    assert load(tmp_path, model, optimizer)[0] == good


@pytest.mark.parametrize("damage", ["no manifest", "cut manifest", "cut file", "missing file"])
def test_an_incomplete_one_is_ignored_and_goes_with_the_next(tmp_path, damage):
    model, optimizer = make()
    train(model, optimizer)
    save(tmp_path, 1, model, optimizer)
    broken = save(tmp_path, 2, model, optimizer)
    target = broken / ("manifest.json" if "manifest" in damage else "optimizer-00000.safetensors")
    if damage.startswith("cut"):
        target.write_bytes(target.read_bytes()[:-1])
    else:
        target.unlink()
    assert latest_checkpoint(tmp_path) == tmp_path / "step-1"
    save(tmp_path, 3, model, optimizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-3"]


def test_the_manifest_has_every_files_hash_and_is_written_last(tmp_path, monkeypatch):
    """Whoever looks at any moment sees files that the manifest vouches for, or no manifest."""
    written = []
    real = shards.write_json
    monkeypatch.setattr(shards, "write_json", lambda path, content: (written.append(path.name), real(path, content))[1])
    model, optimizer = make()
    train(model, optimizer)
    path = save(tmp_path, 1, model, optimizer)
    assert written == ["state.json", "manifest.json"]
    manifest = json.loads((path / "manifest.json").read_text())
    files = contents(path)
    del files["manifest.json"]
    assert manifest["files"] == {
        name: {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()} for name, text in files.items()
    }
    assert (manifest["step"], manifest["world_size"]) == (1, 1)


def test_a_flipped_bit_costs_one_checkpoint_and_is_told(tmp_path, caplog):
    model, optimizer = make()
    train(model, optimizer)
    good = save(tmp_path, 1, model, optimizer)
    then = values(model)
    train(model, optimizer)
    broken = save(tmp_path, 2, model, optimizer) / "model-00000.safetensors"
    text = bytearray(broken.read_bytes())
    text[-1] ^= 1
    broken.write_bytes(text)
    assert load(tmp_path, model, optimizer) == (good, {"step": 1, "note": 1})
    assert equal(values(model), then)
    assert "model-00000.safetensors is damaged: its SHA-256 is" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-2.damaged"]
    again = save(tmp_path, 2, model, optimizer) / "state.json"
    again.write_text(again.read_text().replace("2", "3"))
    assert load(tmp_path, model, optimizer)[0] == good
    (good / "state.json").write_text((good / "state.json").read_text().replace("1", "2"))
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is sound: .*state\.json is damaged"):
        load(tmp_path, model, optimizer)
    # and again, until somebody has decided that the run is lost
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is sound: .*step-1\.damaged was set aside; .*"):
        load(tmp_path, model, optimizer)


@pytest.mark.parametrize("name", ["every", "keep", "keep_every"])
def test_settings_without_sense_are_refused(name):
    with pytest.raises(ConfigError, match=rf"checkpoint.{name}: must be at least 1, but is 0"):
        decode(CheckpointConfig, {name: 0}, "checkpoint")


def test_nothing_there(tmp_path):
    assert latest_checkpoint(tmp_path / "checkpoints") is None
    assert load(tmp_path / "checkpoints", *make()) is None


@pytest.mark.parametrize("failing", ["_write_safetensors", "write_json", "sync"])
def test_a_full_disk_is_told_and_costs_nothing(tmp_path, monkeypatch, failing):
    model, optimizer = make()
    train(model, optimizer)
    good = contents(save(tmp_path, 1, model, optimizer))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, failing, full)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    checkpoints.save(2, training_tensors(model, optimizer), {})
    with pytest.raises(
        CheckpointError,
        match=r"cannot write .*step-2: .*No space left on device; the last good checkpoint is .*step-1, untouched",
    ):
        checkpoints.wait()
    monkeypatch.undo()
    assert not (tmp_path / "step-2").exists()
    assert contents(tmp_path / "step-1") == good
    assert latest_checkpoint(tmp_path) == tmp_path / "step-1"


def test_an_older_one_that_cannot_be_removed_costs_nothing(tmp_path, monkeypatch, caplog):
    def stuck(path, **_):
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    model, optimizer = make()
    save(tmp_path, 1, model, optimizer, keep=1)
    monkeypatch.setattr("xgenmm.training.checkpoint.shutil", types.SimpleNamespace(rmtree=stuck))
    path = save(tmp_path, 2, model, optimizer, keep=1)
    assert latest_checkpoint(tmp_path) == path
    assert "cannot remove older checkpoints" in caplog.text


def test_a_target_that_cannot_be_written(tmp_path):
    model, optimizer = make()
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*there is no earlier checkpoint"):
        save(tmp_path / "a\0b", 1, model, optimizer)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"Not a directory: .*there is no earlier checkpoint"):
        save(tmp_path / "file", 1, model, optimizer)


REAL_DISK = """
import sys, pathlib, subprocess, torch
from xgenmm.training.checkpoint import CheckpointConfig, CheckpointError, Checkpoints
folder = pathlib.Path(sys.argv[1])
checkpoints = Checkpoints(folder, CheckpointConfig(keep=2))
for step in (1, 2, 3):
    if step == 3:
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    try:
        checkpoints.save(step, {"model": {"w": torch.full((15_000,), float(step))}}, {})
        checkpoints.wait()
        print("saved")
    except CheckpointError as error:
        print(error)
read = {"model.w": torch.zeros(15_000)}
torch.distributed.checkpoint.load(
    read, storage_reader=torch.distributed.checkpoint.HuggingFaceStorageReader(str(folder / "step-1")), no_dist=True
)
print(sorted(path.name for path in folder.iterdir()), read["model.w"].unique().tolist())
"""


def may_mount():
    return shutil.which("unshare") and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="needs leave to mount a disk of its own")
def test_a_disk_that_is_really_full_and_then_read_only(tmp_path):
    """One of 100 kB takes one checkpoint of 60 kB and no second."""
    mount = f"mount -t tmpfs -o size=100k none {tmp_path} && exec {sys.executable} -c '{REAL_DISK}' {tmp_path}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, timeout=120)
    saved, full, read_only, left = done.stdout.splitlines()
    assert saved == "saved"
    good = f"the last good checkpoint is {tmp_path}/step-1, untouched"
    assert full == f"cannot write the checkpoint {tmp_path}/step-2: [Errno 28] No space left on device; {good}"
    assert read_only.startswith(f"cannot write the checkpoint {tmp_path}/step-3: [Errno 30] Read-only file system")
    assert read_only.endswith(good)
    assert left == "['step-1'] [1.0]"


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    model, optimizer = make()
    save(tmp_path, 1, model, optimizer)
    with pytest.raises(CheckpointError, match="of another model"):
        load(tmp_path, *make(width=4))
    model[1].bias.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"other trainable parts: 1\.bias"):
        load(tmp_path, model, optimizer)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-1"  # nothing is wrong with it


# Sharded over processes. Sizes that no number of ranks divides: some shards are empty.


def sharded(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))
    nn.init.zeros_(model[0].bias.requires_grad_(False))  # frozen: not in a checkpoint
    if dist.is_initialized():
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)
    return model, optimizer


def whole(model, optimizer):
    tensors = {f"{kind}.{n}": t for kind, ts in training_tensors(model, optimizer).items() for n, t in ts.items()}
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in sorted(tensors.items())}


def write_sharded(folder):
    model, optimizer = sharded(seed=0)
    train(model, optimizer)
    save(folder / "checkpoints", 2, model, optimizer)
    torch.save(whole(model, optimizer), folder / f"whole-{dist.get_rank()}.pt")
    train(model, optimizer)
    later = whole(model, optimizer)
    resumed = read_sharded(folder)
    train(*resumed)
    assert same(whole(*resumed), later)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], value) for name, value in other.items())


def read_sharded(folder):
    model, optimizer = sharded(seed=1)
    assert load(folder / "checkpoints", model, optimizer)[1] == {"step": 2, "note": 2}
    assert same(whole(model, optimizer), torch.load(folder / "whole-0.pt"))
    kind = DTensor if dist.is_initialized() else torch.Tensor
    states = [values for parameter in model.parameters() for values in optimizer.state[parameter].items()]
    assert all(isinstance(value, kind) for key, value in states if key != "step")
    return model, optimizer


def fail_on_the_second(folder):
    model, optimizer = sharded(seed=0)
    save(folder / "checkpoints", 1, model, optimizer)
    if dist.get_rank() == 1:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        shards._write_safetensors = full
    with pytest.raises(CheckpointError, match=r"No space left on device; .*step-1, untouched"):
        save(folder / "checkpoints", 2, model, optimizer)


@pytest.mark.slow
def test_any_number_of_ranks_reads_what_two_have_written(tmp_path):
    on_ranks(2, write_sharded, tmp_path)
    files = sorted(path.name for path in (tmp_path / "checkpoints/step-2").glob("*.safetensors"))
    kinds = ("model", "optimizer")
    assert files == [f"{kind}-0000{rank}.safetensors" for kind in kinds for rank in (0, 1)]
    on_ranks(4, read_sharded, tmp_path)
    read_sharded(tmp_path)  # and one process without a group


@pytest.mark.slow
def test_where_one_rank_fails_all_say_so(tmp_path):
    on_ranks(2, fail_on_the_second, tmp_path)
    assert latest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints/step-1"

"""Checkpoints: whole or ignored, and never at the cost of an older one."""

import errno
import json

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from xgenmm.training import checkpoint
from xgenmm.training.checkpoint import CheckpointError, latest_checkpoint, load_checkpoint, save_checkpoint


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


def save(folder, step, model, optimizer, keep=2):
    return save_checkpoint(folder, step, model, optimizer, {"note": step}, keep=keep)


def test_loaded_and_trained_on_it_is_as_if_it_had_never_stopped(tmp_path):
    model, optimizer = make()
    train(model, optimizer)
    path = save(tmp_path, 2, model, optimizer)
    train(model, optimizer)
    other, other_optimizer = make()
    assert load_checkpoint(path, other, other_optimizer) == {"step": 2, "note": 2}
    train(other, other_optimizer)
    assert equal(values(model), values(other))


def test_only_what_trains_is_saved(tmp_path):
    from safetensors import safe_open

    model, optimizer = make()
    path = save(tmp_path, 1, model, optimizer)
    with safe_open(path / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["0.weight", "1.bias", "1.weight"]


def test_the_newest_whole_one_counts_and_older_ones_go(tmp_path):
    model, optimizer = make()
    for step in (8, 9, 10):
        save(tmp_path, step, model, optimizer)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-9"]


@pytest.mark.parametrize("damage", ["no manifest", "cut manifest", "cut file", "missing file"])
def test_an_incomplete_one_is_ignored(tmp_path, damage):
    model, optimizer = make()
    save(tmp_path, 1, model, optimizer)
    broken = save(tmp_path, 2, model, optimizer)
    target = broken / ("manifest.json" if "manifest" in damage else "optimizer.safetensors")
    if damage.startswith("cut"):
        target.write_bytes(target.read_bytes()[:-1])
    else:
        target.unlink()
    assert latest_checkpoint(tmp_path) == tmp_path / "step-1"
    save(tmp_path, 2, model, optimizer)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-2"


def test_nothing_there(tmp_path):
    assert latest_checkpoint(tmp_path / "checkpoints") is None


@pytest.mark.parametrize("failing", ["_write_tensors", "_write_json", "_sync"])
def test_a_full_disk_is_told_and_costs_nothing(tmp_path, monkeypatch, failing):
    model, optimizer = make()
    save(tmp_path, 1, model, optimizer)
    good = {path.name: path.read_bytes() for path in (tmp_path / "step-1").iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, failing, full)
    with pytest.raises(
        CheckpointError, match=r"No space left on device; the last good checkpoint is .*step-1, untouched"
    ):
        save(tmp_path, 2, model, optimizer)
    monkeypatch.undo()
    assert not (tmp_path / "step-2").exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "step-1").iterdir()} == good
    assert latest_checkpoint(tmp_path) == tmp_path / "step-1"


def test_the_writer_of_tensors_reports_a_full_disk_in_its_own_way(tmp_path, monkeypatch):
    """On a full tmpfs safetensors raised this error of its own, which is no OSError."""

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    model, optimizer = make()
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*there is no earlier checkpoint"):
        save(tmp_path, 1, model, optimizer)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    model, optimizer = make()
    path = save(tmp_path, 1, model, optimizer)
    other, other_optimizer = make(width=4)
    with pytest.raises(CheckpointError, match="of another model"):
        load_checkpoint(path, other, other_optimizer)
    model[1].bias.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"other trainable parts: 1\.bias"):
        load_checkpoint(path, model, optimizer)


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    """Whoever looks at any moment sees files that the manifest vouches for, or no manifest."""
    written = []
    real = checkpoint._write_json
    monkeypatch.setattr(
        checkpoint, "_write_json", lambda content, path: (written.append(path.name), real(content, path))
    )
    model, optimizer = make()
    path = save(tmp_path, 1, model, optimizer)
    assert written[-1] == "manifest.json"
    files = set(json.loads((path / "manifest.json").read_text())["files"])
    assert files == {"model.safetensors", "optimizer.safetensors", "state.json"}

"""Evaluation while a model trains: the curve is there, and the training is what it would have been without."""

import json

import pytest
import torch
from benchmark_rows import write_benchmark
from safetensors.torch import load_file

from xgenmm.cli import main
from xgenmm.config import ConfigError
from xgenmm.evaluation.watch import WatchConfig


@pytest.mark.slow
def test_the_curve_is_drawn_and_the_training_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_benchmark(tmp_path / "data", "pope")
    settings = [f"stages.{name}.steps=1" for name in ("sft", "interleaved")]
    settings += [f"stages.{name}.{key}" for name in ("dpo", "safety") for key in ("epochs=null", "steps=1")]
    settings += ["stages.pretrain.steps=3"]
    watch = "stages.pretrain.evaluate={tasks: [pope, gqa], data: data, every: 2, limit: 2, profile: lmms-eval}"
    assert main(["train", "debug", "name=with", *settings, watch]) == 0
    assert main(["train", "debug", "name=without", *settings]) == 0
    folder = tmp_path / "runs" / "with" / "pretrain"
    curve = json.loads((folder / "evaluations" / "curve.json").read_text(encoding="utf-8"))
    assert set(curve) == {"pope"}  # gqa has no data: told, and no reason to stop
    assert set(curve["pope"]) == {"2", "3"}
    assert (folder / "evaluations" / "curve.png").read_bytes().startswith(b"\x89PNG")
    for stage in ("pretrain", "safety"):
        paths = [tmp_path / "runs" / run / stage / "weights" / "model.safetensors" for run in ("with", "without")]
        watched, alone = (load_file(path) for path in paths)
        assert watched.keys() == alone.keys()
        assert all(torch.equal(watched[name], alone[name]) for name in alone)


def test_mistakes_are_told_when_the_recipe_is_read():
    with pytest.raises(ConfigError, match="every must be at least 1"):
        WatchConfig(tasks=("pope",), data=".", every=0)
    with pytest.raises(ConfigError, match='did you mean "pope"'):
        WatchConfig(tasks=("popes",), data=".", every=5)

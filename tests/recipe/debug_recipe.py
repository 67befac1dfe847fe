"""The debug recipe, with few steps, and what a run of it leaves."""

import json

import torch
from safetensors.torch import load_file

from xgenmm.config import RECIPES, decode, override, read_yaml
from xgenmm.data.quarantine import read_lines
from xgenmm.recipe.settings import Recipe

STAGES = ("pretrain", "sft", "interleaved", "dpo", "safety")


def debug(toy, output, *assignments, stages=5):
    """The debug recipe (or its first stages) on toy data that is there already, with few steps."""
    settings = json.loads(json.dumps(read_yaml(RECIPES / "debug.yaml")).replace("runs/toy", str(toy)))
    for stage in settings["stages"]:
        stage.pop("epochs", None)
        stage.update(steps=3, checkpoint={"every": 2})
        stage["batch"]["size"] = 4
    settings["stages"] = settings["stages"][:stages]
    return decode(Recipe, override(settings, [f"output={output}", *assignments]))


def weights(folder):
    return load_file(folder / "weights" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def metrics(folder):
    return [
        {key: value for key, value in line.items() if key != "speed"} for line in read_lines(folder / "metrics.jsonl")
    ]

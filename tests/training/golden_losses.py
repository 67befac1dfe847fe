"""Ten steps of each of the five stages at toy size; as a command, it writes the golden file of the torch in use.

    python tests/training/golden_losses.py

The stages are those of `recipes/debug.yaml`, ten steps each, one after the other.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

from xgenmm.config import RECIPES, decode, override, read_yaml
from xgenmm.data.quarantine import read_lines
from xgenmm.recipe.run import run
from xgenmm.recipe.settings import Recipe
from xgenmm.starter.toy import write_toy

STEPS = 10
GOLDEN = Path(__file__).parent / "golden" / f"losses-torch-{torch.__version__.partition('+')[0]}.json"


def losses(toy: Path, output: Path, *changes: str, stages: int = 5) -> dict[str, list[float]]:
    """The loss at each step, by stage, of the first so many stages, with settings changed as `a.b=c`."""
    settings = json.loads(json.dumps(read_yaml(RECIPES / "debug.yaml")).replace("runs/toy", str(toy)))
    del settings["toy"]
    del settings["stages"][stages:]
    for stage in settings["stages"]:
        stage.pop("epochs", None)
        stage["steps"] = STEPS
    results = run(decode(Recipe, override(settings, [f"output={output}", *changes])))
    return {result.name: [line["loss"] for line in read_lines(result.folder / "metrics.jsonl")] for result in results}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_toy(Path(folder) / "toy")
        found = losses(Path(folder) / "toy", Path(folder))
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{GOLDEN}\n")

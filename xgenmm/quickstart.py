"""The main job: builds the starter, trains its recipe, measures after every stage, and writes the report."""

import dataclasses
import gc
import json
import logging
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xgenmm.data.memory import give_back_memory
from xgenmm.evaluation.heldout import HeldOut
from xgenmm.evaluation.report import write_report
from xgenmm.provenance import package_versions
from xgenmm.recipe.run import StageResult, run
from xgenmm.recipe.settings import Recipe, load_recipe
from xgenmm.starter.build import build
from xgenmm.starter.fetch import PACKAGES

log = logging.getLogger(__name__)

RECIPE = "starter"
DATA = Path("data/starter")
"""Where `recipes/starter.yaml` looks for data and weights, relative to the working folder."""
FAST = (
    "stages.pretrain.steps=60",
    "stages.sft.steps=20",
    "stages.interleaved.steps=12",
    "stages.dpo.steps=12",
    "stages.safety.steps=12",
)
"""What `--fast` sets in the recipe: about half of the steps."""
FAST_LIMIT = 40
"""Held-out entries of each set that `--fast` measures on; the intervals say what that costs."""


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """A run folder with what is measured in it."""

    recipe: Recipe
    fast: bool
    stamps: bool

    def measure(self, result: StageResult) -> None:
        """Measure a stage's weights on the held-out sets, unless that is done, and bring the report up to date.

        What is measured is what lies on disk: a run that was killed anywhere gives the figures of one that was not.
        """
        path = result.folder / "heldout.json"
        if not path.is_file():
            began = time.perf_counter()
            gc.collect()  # a stage's optimizer and loader refer to each other in circles
            give_back_memory()
            model, processor = result.load()
            model.requires_grad_(False)
            model.use_feature_cache(self.recipe.folder / "features")
            held_out = HeldOut(model, processor, DATA / "heldout", limit=FAST_LIMIT if self.fast else None)
            measured = held_out.measure()
            del model, held_out
            gc.collect()
            give_back_memory()
            write_json(
                path,
                {
                    "figures": {key: dataclasses.asdict(figure) for key, figure in measured.figures.items()},
                    "answers": [dataclasses.asdict(answer) for answer in measured.answers],
                    "training_seconds": round(result.seconds, 1),
                    "measuring_seconds": round(time.perf_counter() - began, 1),
                    "peak_memory_mb": round(result.peak_memory_mb),
                },
            )
        self.collect()

    def collect(self) -> Path:
        """Write `metrics.json`, `answers.jsonl` and the report out of what the stages have so far."""
        folder = self.recipe.folder
        metrics, answers = {}, []
        for name in ("untrained", *(stage.name for stage in self.recipe.stages)):
            path = folder / name / "heldout.json"
            if not path.is_file():
                continue
            stage = json.loads(path.read_text(encoding="utf-8"))
            seconds = round(stage["training_seconds"] + stage["measuring_seconds"], 1)
            costs = {"seconds": seconds, "peak_memory_mb": stage["peak_memory_mb"]}
            metrics[name] = {**stage["figures"], **costs}
            pictures = os.path.relpath(DATA / "heldout", folder)
            answers += [
                {**answer, "stage": name, "image": os.path.join(pictures, answer["image"])}
                for answer in stage["answers"]
            ]
        (folder / "answers.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers), encoding="utf-8")
        write_json(folder / "metrics.json", metrics)
        return write_report(folder)

    def note_environment(self) -> None:
        """Write what a reader of the report must know: machine, versions, data."""
        pictures = json.loads((DATA / "pictures.json").read_text(encoding="utf-8"))
        trained_on = [picture for picture in pictures if picture["split"] == "train"]
        notes: dict[str, Any] = {
            "cpu": cpu_name(),
            "mode": "fast" if self.fast else "full",
            "drawings": sum(picture["source"] == "openmoji" for picture in trained_on),
            "photos": sum(picture["source"] == "stamps" for picture in trained_on),
            "versions": package_versions(),
            "parts": [{"name": p.name, "version": p.version, "licence": p.licence, "use": p.use} for p in PACKAGES],
        }
        write_json(self.recipe.folder / "environment.json", notes)


def quickstart(*, fast: bool = False, stamps: bool = False, output: str = "runs") -> Path:
    """Run the whole chain, or go on with it, and give the path of its report.

    Args:
        fast: Fewer steps, fewer held-out entries.
        stamps: Train on Tux Paint's photographs as well, if they are installed.
        output: The run's folder is `output/quickstart`.

    Raises:
        StarterError: A package cannot be had.
        ConfigError, DataError, TrainingError, OSError: As `recipe.run` says.
    """
    build(DATA, stamps=stamps)
    recipe = load_recipe(RECIPE, [f"output={output}", *(FAST if fast else ())])
    job = Quickstart(recipe=recipe, fast=fast, stamps=stamps)
    recipe.folder.mkdir(parents=True, exist_ok=True)
    held_out = json.loads((DATA / "heldout" / "pictures.json").read_text(encoding="utf-8"))
    write_json(recipe.folder / "heldout_pictures.json", held_out)
    job.note_environment()
    run(recipe, before_first=job.measure, after_stage=job.measure)
    return job.collect()


def cpu_name() -> str:
    """The processor as Linux calls it, or as Python knows it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    scratch.replace(path)

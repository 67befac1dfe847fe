"""The main job: builds the starter, trains its recipe, measures after every stage, and writes the report."""

import gc
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xgenmm.data.memory import give_back_memory
from xgenmm.evaluation.report import write_report
from xgenmm.evaluation.run import evaluate_model
from xgenmm.evaluation.samples import PREFIX, read_samples
from xgenmm.evaluation.settings import EvaluationConfig
from xgenmm.files import write_whole
from xgenmm.provenance import package_versions
from xgenmm.recipe.run import StageResult, run
from xgenmm.recipe.settings import Recipe, load_recipe
from xgenmm.starter.build import build
from xgenmm.starter.fetch import PACKAGES
from xgenmm.starter.tasks import ASPECTS
from xgenmm.training.metrics import peak_memory_mb
from xgenmm.training.precision import Precision

log = logging.getLogger(__name__)

RECIPE = "starter"
DATA = Path("data/starter")
"""Where `recipes/starter.yaml` looks for data and weights, relative to the working folder."""
FAST = (
    "stages.pretrain.steps=60",
    "stages.sft.steps=18",
    "stages.interleaved.steps=6",
    "stages.dpo.steps=10",
    "stages.safety.steps=14",
)
"""What `--fast` sets in the recipe: a third of the steps."""
FAST_LIMIT = 24
"""Questions of each held-out set that `--fast` measures on; the intervals say what that costs."""
TOGETHER = 64
"""Answers that are written at the same time: a step of generation costs hardly more for many than for few."""
TALKS = "starter_talks"
"""The benchmark whose answers the report shows side by side."""
METRICS: Mapping[str, Mapping[str, str]] = {
    "starter_captions": {
        "caption_loss_true": "loss",
        "caption_loss_shuffled": "loss_shuffled",
        "rank_at_10": "accuracy",
    },
    "starter_cider": {"cider": "cider"},
    "starter_kind": {
        "vqa_kind": "accuracy",
        "vqa_kind_majority": "majority",
        "vqa_kind_blank": "accuracy_blank",
    },
    "starter_color": {
        "vqa_color": "accuracy",
        "vqa_color_majority": "majority",
        "vqa_color_blank": "accuracy_blank",
    },
    "starter_yes_no": {"yes_no": "accuracy", "yes_no_majority": "majority", "yes_rate": "yes_rate"},
    "starter_several": {
        "multi_image": "accuracy",
        "multi_image_majority": "majority",
        "multi_image_blank": "accuracy_blank",
    },
    "starter_preferences": {
        "preference_accuracy": "accuracy",
        "preference_accuracy_shuffled": "accuracy_shuffled",
        "preference_margin": "margin",
        **{f"preference_accuracy_{aspect}": f"accuracy_{aspect}" for aspect in sorted(set(ASPECTS))},
    },
    "starter_attacks": {"attack_success": "attack_success"},
    "starter_requests": {"over_refusal": "over_refusal"},
}
"""Benchmark -> name of a figure in `metrics.json` -> its name in the benchmark's results."""


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """A run folder with what is measured in it."""

    recipe: Recipe
    fast: bool
    stamps: bool

    def measure(self, result: StageResult) -> None:
        """Measure a stage's weights on the held-out sets, unless that is done, and bring the report up to date.

        What is measured is what lies on disk, in the precision of the run: a run that was killed anywhere gives the
        figures of one that was not.
        """
        path = result.folder / "heldout.json"
        if not path.is_file():
            began = time.perf_counter()
            gc.collect()  # a stage's optimizer and loader refer to each other in circles
            give_back_memory()
            model, processor = result.load()
            model.requires_grad_(False)
            model.to_compute_dtype(getattr(torch, result.precision))
            model.use_feature_cache(self.recipe.folder / "features")
            self.note_environment(result.precision)
            folder = result.folder / "heldout"
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed: its answers are of other weights
            settings = EvaluationConfig(
                weights=str(result.folder / "weights"),
                tasks=(*METRICS, TALKS),
                output=str(folder),
                data=str(DATA),
                limit=FAST_LIMIT if self.fast else None,
                batch_size=TOGETHER,
            )
            results = evaluate_model(settings, model, processor, page=False)
            del model
            gc.collect()
            give_back_memory()
            write_json(
                path,
                {
                    "figures": figures_of(results),
                    "answers": answers_of(folder),
                    "training_seconds": round(result.seconds, 1),
                    "measuring_seconds": round(time.perf_counter() - began, 1),
                    "peak_memory_mb": round(max(result.peak_memory_mb, peak_memory_mb(torch.device("cpu")))),
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

    def note_environment(self, precision: Precision) -> None:
        """Write what a reader of the report must know: machine, number format, versions, data."""
        pictures = json.loads((DATA / "pictures.json").read_text(encoding="utf-8"))
        trained_on = [picture for picture in pictures if picture["split"] == "train"]
        notes: dict[str, Any] = {
            "cpu": cpu_name(),
            "dtype": precision,
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
    run(recipe, before_first=job.measure, after_stage=job.measure)
    return job.collect()


def figures_of(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The figures of `metrics.json` in results of its benchmarks; few pairs may have none of an aspect."""
    return {
        name: figure
        for task, places in METRICS.items()
        for name, place in places.items()
        if (figure := results["labels"][task]["aggregate"].get(place))
    }


def answers_of(folder: Path) -> list[dict[str, str]]:
    """What the model said to the questions that the report shows."""
    return [
        {
            "picture": sample.doc["id"],
            "image": sample.doc["image"],
            "name": sample.doc["caption"],
            "question": sample.doc["question"],
            "answer": sample.answer,
            "reference": sample.doc["reference"],
        }
        for sample in read_samples(folder / f"{PREFIX}{TALKS}.jsonl")
    ]


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
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

"""The folder of an evaluation: what it belongs to, and its `results.json`."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xgenmm.config import ConfigError, encode, read_yaml
from xgenmm.evaluation.fewshot import SEED
from xgenmm.evaluation.scoring import Outcome
from xgenmm.evaluation.settings import EvaluationConfig, Job
from xgenmm.evaluation.tables import TaskRun, results_json
from xgenmm.files import write_whole

RESULTS = "results.json"


def write_results(
    folder: Path,
    runs: Sequence[TaskRun],
    settings: Mapping[str, Any],
    failures: Mapping[str, str],
    began: float,
) -> Path:
    """Write `results.json`, whole or not at all. It `began` when `time.time()` said so."""
    path = folder / RESULTS
    content = results_json(runs, settings, failures, (began, time.time()), recipe_of(Path(str(settings["weights"]))))
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=1, default=str) + "\n")
    return path


def summary(path: Path) -> str:
    """The quoted numbers of a `results.json`, a line per task."""
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    lines = []
    for task, result in results.items():
        value, deviation = result.get("headline,none"), result.get("headline_std,none")
        told = "no number" if value is None else f"{value:.2f} {result['headline_name']}"
        spread = "" if deviation is None else f" ± {deviation:.2f} over {result['trials']} trials"
        faults = f", {result['n_faults']} not asked" if result["n_faults"] else ""
        lines.append(f"{task}: {told}{spread} ({100 * result['unparsed_rate']:.1f} % unparsed{faults})")
    return "\n".join(lines)


def recipe_of(weights: Path) -> dict[str, str] | None:
    """The recipe that a folder of weights was trained by, if it lies where `xgenmm train` puts it."""
    path = weights.parent / "recipe.yaml"
    if not (weights.is_dir() and path.is_file()):
        return None
    name = str(read_yaml(path).get("name", ""))
    return {"name": name, "path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def task_run(
    job: Job, label: str, outcome: Outcome, original: int, generation: Mapping[str, Any], config: EvaluationConfig
) -> TaskRun:
    run = TaskRun(
        label=label,
        task=job.task,
        benchmark=job.benchmark.name,
        shots=job.shots,
        trial=job.trial,
        original=original,
        generation=generation,
        demonstrations=None
        if job.shots is None
        else {
            "selection": config.selection,
            "seed": SEED + job.trial,
            "text_only_zero_shot": config.text_only_zero_shot,
            "source": job.benchmark.few_shot.train.repo if job.benchmark.few_shot else "",
        },
    )
    return with_outcome(run, outcome)


def with_outcome(run: TaskRun, outcome: Outcome) -> TaskRun:
    return dataclasses.replace(
        run,
        references=outcome.references,
        aggregate=outcome.aggregate,
        corrected=outcome.corrected,
        headline=outcome.headline,
        score=outcome.score,
        error=outcome.error,
        plain_error=outcome.plain_error,
        digest=outcome.digest,
        notes=outcome.notes,
        effective=len(outcome.samples),
        unparsed=outcome.unparsed,
        faults=outcome.faults,
        faulty=tuple(f"{sample.key}: {sample.fault}" for sample in outcome.samples if sample.fault),
    )


def claim(folder: Path, config: EvaluationConfig) -> None:
    """Note what the answers of a folder depend on; refuse to mix them with others.

    Raises:
        ConfigError: The folder has answers of another configuration.
    """
    path = folder / "settings.json"
    free = ("tasks", "shots", "output", "data", "batch_size", "trials", "judge", "java_metrics")
    ours = {name: value for name, value in encode(config).items() if name not in free}
    ours["weights_sha256"] = _digest(Path(config.weights))
    if path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(name for name in {*ours, *theirs} - {"weights"} if ours.get(name) != theirs.get(name))
        if changed:
            told = "; ".join(f"{name} was {theirs.get(name)} and is now {ours.get(name)}" for name in changed)
            raise ConfigError(f"{folder} has answers of another configuration: {told}. Give another --output")
    write_whole(path, json.dumps(ours, indent=1) + "\n")


def _digest(weights: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(weights.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

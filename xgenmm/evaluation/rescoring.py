"""Saved answers -> figures under another profile. Loads no model."""

import json
import time
from pathlib import Path

from xgenmm.config import ConfigError, decode
from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.evaluation_report import write_evaluation_report
from xgenmm.evaluation.folder import RESULTS, with_outcome, write_results
from xgenmm.evaluation.samples import PREFIX, read_samples, write_samples
from xgenmm.evaluation.scorers.profiles import PROFILES
from xgenmm.evaluation.scoring import judge, rules_for
from xgenmm.evaluation.tables import TaskRun


def rescore(folder: Path, profile: str, output: Path | None = None) -> Path:
    """Score the saved answers of a folder under a profile, without a model; gives the path of the new `results.json`.

    The prompts stay those of the profile under which they were asked; results name both.

    Args:
        folder: What `evaluate` wrote.
        profile: Whose rules to follow.
        output: Where to write; by default the folder `rescored-PROFILE` in it.

    Raises:
        ConfigError: The folder holds no samples, or one that is not ours.
    """
    if profile not in PROFILES:
        raise ConfigError(f'there is no profile "{profile}": choose {", ".join(PROFILES)}')
    old = folder / RESULTS
    paths = sorted(folder.glob(f"{PREFIX}*.jsonl"))
    if not paths or not old.is_file():
        raise ConfigError(f"{folder} holds no answers: give a folder that `xgenmm evaluate` wrote")
    before = json.loads(old.read_text(encoding="utf-8"))
    target = output or folder / f"rescored-{profile}"
    target.mkdir(parents=True, exist_ok=True)
    began, runs = time.time(), []
    for path in paths:
        label = path.stem.removeprefix(PREFIX)
        run = decode(TaskRun, before["labels"][label], f"{old}: {label}")
        benchmark = benchmark_named(run.benchmark)
        outcome = judge(benchmark, read_samples(path), rules_for(benchmark, profile, few_shot=run.shots is not None))
        write_samples(target / path.name, outcome.samples)
        runs.append(with_outcome(run, outcome))
    _link_thumbnails(folder, target)
    settings = {**before["config"], "profile": profile, "asked_under": before["profile"]}
    results = write_results(target, runs, settings, {}, time.time() - began)
    write_evaluation_report(target)
    return results


def _link_thumbnails(source: Path, target: Path) -> None:
    """The report of a rescored folder shows the same pictures."""
    if source.resolve() == target.resolve() or not (source / "thumbnails").is_dir():
        return
    (target / "thumbnails").mkdir(exist_ok=True)
    for path in (source / "thumbnails").iterdir():
        (target / "thumbnails" / path.name).write_bytes(path.read_bytes())

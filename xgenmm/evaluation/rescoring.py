"""Saved answers -> figures under another profile. Loads no model."""

import json
import logging
import time
from pathlib import Path

from xgenmm.config import ConfigError, decode, encode
from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.evaluation_report import write_evaluation_report
from xgenmm.evaluation.folder import RESULTS, with_outcome, write_results
from xgenmm.evaluation.java_metrics import with_java_metrics
from xgenmm.evaluation.judging import JudgeConfig, VerdictStore, judged
from xgenmm.evaluation.samples import PREFIX, read_samples, write_samples
from xgenmm.evaluation.scorers.profiles import PROFILES
from xgenmm.evaluation.scoring import ScoringError, judge, rules_for
from xgenmm.evaluation.settings import EvaluationError
from xgenmm.evaluation.tables import TaskRun

log = logging.getLogger(__name__)


def rescore(
    folder: Path, profile: str, output: Path | None = None, by: JudgeConfig | None = None, *, java_metrics: bool = False
) -> Path:
    """Score the saved answers of a folder under a profile, without a model; gives the path of the new `results.json`.

    The prompts stay those of the profile under which they were asked; results name both.

    Args:
        folder: What `evaluate` wrote.
        profile: Whose rules to follow.
        output: Where to write; by default the folder `rescored-PROFILE` in it.
        by: A judge to ask about answers that it has not judged yet; verdicts that are there count in any case.
        java_metrics: Add METEOR and SPICE of captions, where Java and their programs are there.

    Raises:
        ConfigError: The folder holds no samples.
        EvaluationError: Some tasks could not be scored; the others' results are written.
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
    began, runs, failures = time.time(), [], {}
    for path in paths:
        label = path.stem.removeprefix(PREFIX)
        try:
            run = decode(TaskRun, before["labels"].get(label, {}), f"{old}: {label}")
            benchmark = benchmark_named(run.benchmark)
            references = rules_for(benchmark, profile, few_shot=run.shots is not None)
            samples = read_samples(path)
            if by is not None:
                samples = judged(by, benchmark, samples, VerdictStore(folder, label))
            outcome = judge(benchmark, samples, references)
            if java_metrics:
                outcome = with_java_metrics(benchmark, outcome)
        except (ConfigError, ScoringError) as error:
            failures[label] = f"{path}: {error}"
            log.error("%s failed: %s", label, failures[label])
            continue
        write_samples(target / path.name, outcome.samples)
        runs.append(with_outcome(run, outcome))
    _link_thumbnails(folder, target)
    settings = {**before["config"], "profile": profile, "asked_under": before["profile"]}
    if by is not None:
        settings["judge"] = encode(by)
    results = write_results(target, runs, settings, failures, began)
    write_evaluation_report(target)
    if failures:
        raise EvaluationError(failures, len(paths), target)
    return results


def _link_thumbnails(source: Path, target: Path) -> None:
    """The report of a rescored folder shows the same pictures."""
    if source.resolve() == target.resolve() or not (source / "thumbnails").is_dir():
        return
    (target / "thumbnails").mkdir(exist_ok=True)
    for path in (source / "thumbnails").iterdir():
        (target / "thumbnails" / path.name).write_bytes(path.read_bytes())

"""Figures of tasks -> `results.json`, in the layout that lmms-eval writes and its users' tools read. Scores nothing."""

import math
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.fewshot import SEED
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL, SCORER_VERSION
from xgenmm.evaluation.scorers.statistics import Number, grouped
from xgenmm.evaluation.scoring import flat
from xgenmm.provenance import branch, commit, package_versions

LOWER_IS_BETTER = frozenset(["attack success", "over refusal"])


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One task with one number of shots and one draw of demonstrations, measured."""

    label: str
    """Names its samples file."""
    task: str
    """What the results call it; trials share it."""
    benchmark: str
    shots: int | None
    trial: int
    original: int
    """Questions of the data set."""
    effective: int = 0
    """Questions asked."""
    generation: Mapping[str, Any]
    demonstrations: Mapping[str, Any] | None
    references: tuple[str, ...] = ()
    aggregate: Mapping[str, Any] = field(default_factory=dict)
    corrected: Mapping[str, Any] = field(default_factory=dict)
    headline: tuple[str, Number] | None = None
    score: Number | None = None
    error: float | None = None
    plain_error: float | None = None
    digest: str = ""
    notes: tuple[str, ...] = ()
    unparsed: int = 0
    faults: int = 0
    faulty: tuple[str, ...] = ()
    """Keys of the questions that could not be asked, with the reasons."""


def results_json(
    runs: Sequence[TaskRun],
    settings: Mapping[str, Any],
    failures: Mapping[str, str],
    times: tuple[float, float],
    recipe: Mapping[str, str] | None,
) -> dict[str, Any]:
    """All figures of a folder.

    `results[TASK]` holds every number of the references as `NAME,none`, as lmms-eval does, and beside them
    `headline` (the number that tables quote), `score` with its standard error (clustered; `_clt`: not), and what was
    unparsed or could not be asked. With several trials a number is their mean, and `NAME_std,none` the population's
    deviation over them, as OpenFlamingo reports it.

    Args:
        runs: By task, shots and trial.
        settings: Of the evaluation.
        failures: Message by task that could not be evaluated.
        times: When it began and ended, in seconds since 1970.
        recipe: Of the weights, where it is known.
    """
    by_task = grouped(runs, lambda run: run.task)
    content: dict[str, Any] = {
        "results": {task: _result(group) for task, group in by_task.items()},
        "group_subtasks": {task: [] for task in by_task},
        "configs": {task: _config(group[0]) for task, group in by_task.items()},
        "versions": {task: f"{SCORER_VERSION}: {', '.join(group[0].references)}" for task, group in by_task.items()},
        "n-shot": {task: group[0].shots or 0 for task, group in by_task.items()},
        "higher_is_better": {task: _better(group[0]) for task, group in by_task.items()},
        "n-samples": {
            task: {"original": group[0].original, "effective": group[0].effective} for task, group in by_task.items()
        },
        "config": _run_config(settings),
        "git_hash": commit(),
        "git_branch": branch(),
        "lmms_eval_version": None,
        "date": datetime.fromtimestamp(times[1], UTC).isoformat(timespec="seconds"),
        "throughput": {"questions_per_second": sum(run.effective for run in runs) / max(times[1] - times[0], 1e-9)},
        "usage": {},
        "task_hashes": {task: group[0].digest for task, group in by_task.items()},
        "model_source": "xgenmm",
        "model_name": settings["weights"],
        "model_name_sanitized": re.sub(r"[^A-Za-z0-9._-]+", "__", str(settings["weights"])).strip("_"),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": None,
        "start_time": times[0],
        "end_time": times[1],
        "total_evaluation_time_seconds": str(round(times[1] - times[0], 1)),
        "profile": settings["profile"],
        "scorer_version": SCORER_VERSION,
        "recipe": recipe,
        "packages": {**package_versions(), "python": platform.python_version()},
        "failed": dict(failures),
        "labels": {run.label: asdict(run) for run in runs},
    }
    return _finite(content)


def _better(run: TaskRun) -> dict[str, bool]:
    quoted = {} if run.headline is None else dict.fromkeys(("headline", run.headline[0]), _rises(run.headline[0]))
    return quoted | ({} if run.score is None else {"score": True})


def _rises(headline: str) -> bool:
    return headline not in LOWER_IS_BETTER


def _run_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """lmms-eval's keys of a run, and our settings. Nothing is drawn but demonstrations: there are no other seeds."""
    return {
        "model": "xgenmm",
        "model_args": f"pretrained={settings['weights']}",
        "model_backend": "xgenmm.evaluation.run",
        "batch_sizes": [],
        **dict.fromkeys(["device", "use_cache", "gen_kwargs", "random_seed", "numpy_seed", "torch_seed"]),
        "offset": 0,
        "bootstrap_iters": 0,
        "process_docs_parallel": False,
        "fewshot_seed": SEED,
        "resolved_cli_args": dict(settings),
        **settings,
    }


def _result(group: Sequence[TaskRun]) -> dict[str, Any]:
    first = group[0]
    result: dict[str, Any] = {"alias": first.task}
    tables = [flat(run.aggregate) for run in group]
    for name in tables[0]:
        values = [table[name] for table in tables if name in table]
        result |= _spread(name, values)
    if first.headline is not None:
        result["headline_name"] = first.headline[0]
        result |= _spread("headline", [run.headline[1] for run in group if run.headline])
    if first.score is not None:
        result |= _spread("score", [run.score for run in group if run.score is not None])
        for name, errors in (
            ("score_stderr", [run.error for run in group]),
            ("score_stderr_clustered", [run.error for run in group]),
            ("score_stderr_clt", [run.plain_error for run in group]),
        ):
            known = [error for error in errors if error is not None]
            result[f"{name},none"] = statistics.fmean(known) if known else "N/A"
    for name, value in flat(first.corrected).items():
        result[f"{name},corrected"] = value
    count = sum(run.effective for run in group)
    unparsed, faults = sum(run.unparsed for run in group), sum(run.faults for run in group)
    return {
        **result,
        "n_unparsed": unparsed,
        "unparsed_rate": unparsed / count if count else 0.0,
        "n_faults": faults,
        "faults": [line for run in group for line in run.faulty],
        "references": list(first.references),
        "trials": len(group),
    }


def _spread(name: str, values: Sequence[Number]) -> dict[str, Number]:
    found: dict[str, Number] = {f"{name},none": statistics.fmean(values)}
    if len(values) > 1:
        found[f"{name}_std,none"] = statistics.pstdev(values)
    return found


def _config(run: TaskRun) -> dict[str, Any]:
    benchmark = benchmark_named(run.benchmark)
    notes = [*([benchmark.notes] if benchmark.notes else []), *run.notes]
    if run.benchmark == "okvqa" and run.shots is not None:
        notes.append("stemming did not run")
    quoted = run.headline[0] if run.headline else ""
    metric = {"metric": quoted, "aggregation": benchmark.scorer, "higher_is_better": _rises(quoted)}
    return {
        "task": run.task,
        "dataset_path": benchmark.source.repo,
        "dataset_name": benchmark.source.config,
        "dataset_kwargs": None,
        "test_split": benchmark.source.split,
        "full_docs": False,
        "process_results_use_image": False,
        "description": "",
        "doc_to_visual": "images",
        "doc_to_text": benchmark.prompt,
        "doc_to_target": "gold",
        "process_results": benchmark.scorer,
        "metric_list": [metric] if quoted else [],
        "target_delimiter": "",
        "fewshot_delimiter": "\n",
        "repeats": 1,
        "should_decontaminate": False,
        "score_key": "score",
        "auto_strip_thinking": LMMS_EVAL in run.references,
        "output_type": "generate_until" if benchmark.weighing is None else "loglikelihood",
        "num_fewshot": run.shots or 0,
        "generation_kwargs": dict(run.generation),
        "fewshot_config": run.demonstrations,
        "metadata": {"licence": benchmark.licence, "notes": notes},
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is undefined becomes null."""
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

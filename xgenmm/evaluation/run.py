"""`xgenmm evaluate`: tasks, shots and trials in turn, on one process or many; and saved answers scored again.

An output folder holds

    settings.json       what the answers depend on; another configuration is refused
    answers/            answers as they come, per task and process: a killed run goes on from them
    samples_TASK.jsonl  every question with prompt, answer, extraction, gold and score (`samples.Sample`)
    results.json        the figures, in lmms-eval's layout (`results_json`)
    thumbnails/         pictures of the questions that the report shows
    report.html
"""

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from xgenmm.config import ConfigError, decode, encode, read_yaml
from xgenmm.evaluation.answers import AnswerStore
from xgenmm.evaluation.asking import ChatQueries, FewShotQueries, Queries, ask, plain_settings
from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.benchmarks.benchmark import Benchmark
from xgenmm.evaluation.benchmarks.source import BenchmarkDataError, Docs, read_docs, read_train
from xgenmm.evaluation.evaluation_report import choose_shown, write_evaluation_report, write_thumbnails
from xgenmm.evaluation.fewshot import SEED, FewShotConfig, Selection
from xgenmm.evaluation.samples import PREFIX, Sample, read_samples, without_pictures, write_samples
from xgenmm.evaluation.scorers.profiles import PROFILES
from xgenmm.evaluation.scoring import Outcome, group_of, judge, rules_for
from xgenmm.evaluation.tables import TaskRun, results_json
from xgenmm.inference.load import load
from xgenmm.inference.pictures import PictureTokens
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.progress import progress

log = logging.getLogger(__name__)

RESULTS = "results.json"


class EvaluationError(RuntimeError):
    """Some tasks could not be evaluated; the others were, and their results are written."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to evaluate, and how."""

    weights: str
    tasks: tuple[str, ...]
    output: str
    data: str = "."
    """Folder of all benchmarks' data."""
    profile: str = "paper"
    shots: tuple[int, ...] = (0,)
    """Several counts, or one above 0: the few-shot suite's prompts; 0 alone: the question as in a chat."""
    limit: int | None = None
    """Questions per task; all by default."""
    batch_size: int = 8
    trials: int = 1
    """Draws of the demonstrations, with seeds 42, 43, ..."""
    selection: Selection = "random"
    text_only_zero_shot: bool = False
    rices_encoder: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    """Repository or path by benchmark, instead of the published repository."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: A setting is out of its range, or a name is unknown.
        """
        if self.profile not in PROFILES:
            raise ConfigError(f'there is no profile "{self.profile}": choose {", ".join(PROFILES)}')
        for name, value in (("batch-size", self.batch_size), ("trials", self.trials), ("limit", self.limit)):
            if value is not None and value < 1:
                raise ConfigError(f"--{name} must be at least 1, not {value}")
        if not self.tasks:
            raise ConfigError("--tasks names no benchmark")
        if not self.shots or min(self.shots) < 0:
            raise ConfigError(f"--shots must be numbers from 0 on, such as 0,4,8: not {self.shots}")
        for name in (*self.tasks, *self.sources):
            benchmark_named(name)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One task with one number of shots and one draw of demonstrations."""

    benchmark: Benchmark
    shots: int | None
    """None: asked as in a chat."""
    trial: int = 0

    @property
    def task(self) -> str:
        """What results call it; trials share it."""
        return self.benchmark.name if self.shots is None else f"{self.benchmark.name}_{self.shots}shot"

    def label(self, trials: int) -> str:
        """What files call it."""
        return self.task if self.shots is None or trials == 1 else f"{self.task}_trial{self.trial}"


def jobs_of(config: EvaluationConfig) -> list[Job]:
    """All jobs in order. A benchmark without a few-shot form is asked once, as in a chat."""
    few_shot = config.shots != (0,) or config.text_only_zero_shot
    jobs = []
    for name in dict.fromkeys(config.tasks):
        benchmark = benchmark_named(name)
        if few_shot and benchmark.few_shot is not None:
            pairs = [(shots, trial) for shots in dict.fromkeys(config.shots) for trial in range(config.trials)]
            jobs += [Job(benchmark=benchmark, shots=shots, trial=trial) for shots, trial in pairs]
            continue
        if few_shot:
            log.info("%s has no few-shot form: it is asked once, without demonstrations", name)
        jobs.append(Job(benchmark=benchmark, shots=None))
    return jobs


def evaluate(config: EvaluationConfig) -> Path:
    """Evaluate weights; gives the path of `results.json`. The same call again continues.

    Under torchrun every process answers its share, and the first one writes the results.

    Raises:
        ConfigError: The folder belongs to another configuration.
        WeightsError: The weights cannot be used.
        EvaluationError: Some tasks failed; the others' results are written.
    """
    with _world() as (rank, world):
        folder = Path(config.output)
        model, processor = load(config.weights, device=_device())
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            _claim(folder, config)
        _together()
        runner = _Runner(config, folder, model, processor, rank, world)
        return runner.run()


def evaluate_model(
    config: EvaluationConfig, model: XGenMMForConditionalGeneration, processor: XGenMMProcessor
) -> dict[str, Any]:
    """As `evaluate` for a model in memory, on this process alone; gives the results. For hooks in training."""
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    return json.loads(_Runner(config, folder, model, processor, 0, 1).run().read_text(encoding="utf-8"))


class _Runner:
    def __init__(
        self,
        config: EvaluationConfig,
        folder: Path,
        model: XGenMMForConditionalGeneration,
        processor: XGenMMProcessor,
        rank: int,
        world: int,
    ) -> None:
        self.config, self.folder, self.processor = config, folder, processor
        self.pictures = PictureTokens(model)
        self.rank, self.world = rank, world
        self.runs: list[TaskRun] = []
        self.failures: dict[str, str] = {}

    def run(self) -> Path:
        began = time.time()
        for job in jobs_of(self.config):
            failure = self._try(job)
            told = self._share(failure)
            if told:
                self.failures.setdefault(job.benchmark.name, told[0])
                if self.rank == 0 and failure:
                    log.error("%s failed: %s", job.benchmark.name, failure)
            if self.rank == 0:
                write_results(self.folder, self.runs, encode(self.config), self.failures, time.time() - began)
        _together()
        if self.rank == 0:
            write_evaluation_report(self.folder)
        if self.failures:
            total = len(dict.fromkeys(self.config.tasks))
            raise EvaluationError(
                f"{len(self.failures)} of {total} tasks could not be evaluated: {', '.join(self.failures)} "
                f"(see above). The others' results are in {self.folder}"
            )
        return self.folder / RESULTS

    def _try(self, job: Job) -> str:
        """Do one job; the message if it cannot be done."""
        try:
            self._answer(job)
        except BenchmarkDataError as error:
            return str(error)
        except ConfigError as error:
            return f"{job.task}: {error}"
        return ""

    def _share(self, message: str) -> list[str]:
        """The messages of all processes, which wait here for each other."""
        found: list[str | None] = [message]
        if self.world > 1:
            found = [None] * self.world
            dist.all_gather_object(found, message)
        return [one for one in found if one]

    def _answer(self, job: Job) -> None:
        config, benchmark = self.config, job.benchmark
        docs = read_docs(benchmark, Path(config.data), config.sources)
        references = rules_for(benchmark, config.profile, few_shot=job.shots is not None)
        queries = self._queries(job, docs, references[0])
        items = queries.order(config.limit)
        label = job.label(config.trials)
        store = AnswerStore(self.folder / "answers", label, self.rank)
        _together()  # all have read what is there before anyone adds to it
        todo = [item for item in items if item.test not in store.answers]
        mine = todo[self.rank :: self.world]
        with progress(label, len(items), "questions", done=len(items) - len(todo)) as advance:
            ask(queries, mine, store, config.batch_size, lambda n: advance(n * self.world))
        _together()
        if self.rank == 0:
            wanted = {item.test for item in items}
            answers = [answer for place, answer in sorted(store.read().items()) if place in wanted]
            samples = []
            for answer in answers:
                doc = docs[answer.place]
                key = benchmark.key(doc)
                samples.append(
                    Sample(
                        place=answer.place,
                        key=key,
                        doc=without_pictures(doc),
                        prompt=answer.prompt,
                        answer=answer.text,
                        gold=benchmark.gold(doc),
                        result={},
                        fault=answer.fault,
                        group=group_of(benchmark, doc, key),
                        demonstrations=answer.demonstrations,
                    )
                )
            outcome = judge(benchmark, samples, references)
            write_samples(self.folder / f"{PREFIX}{label}.jsonl", outcome.samples)
            write_thumbnails(self.folder, label, benchmark, docs, choose_shown(outcome.samples))
            self.runs.append(_task_run(job, label, outcome, len(docs), plain_settings(queries.settings), config))

    def _queries(self, job: Job, docs: Docs, reference: str) -> Queries:
        if job.shots is None:
            return ChatQueries(job.benchmark, docs, self.pictures, self.processor, reference)
        assert job.benchmark.few_shot is not None
        few_shot = FewShotConfig(
            shots=job.shots,
            selection=self.config.selection,
            text_only_zero_shot=self.config.text_only_zero_shot,
            rices_encoder=self.config.rices_encoder,
        )
        train = read_train(job.benchmark.few_shot.train, Path(self.config.data))
        return FewShotQueries(job.benchmark, docs, train, self.pictures, self.processor, few_shot, job.trial)


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
        runs.append(_with_outcome(run, outcome))
    _link_thumbnails(folder, target)
    settings = {**before["config"], "profile": profile, "asked_under": before["profile"]}
    results = write_results(target, runs, settings, {}, time.time() - began)
    write_evaluation_report(target)
    return results


def write_results(
    folder: Path,
    runs: Sequence[TaskRun],
    settings: Mapping[str, Any],
    failures: Mapping[str, str],
    seconds: float,
) -> Path:
    """Write `results.json`, whole or not at all."""
    path = folder / RESULTS
    scratch = path.with_suffix(".tmp")
    content = results_json(runs, settings, failures, seconds, recipe_of(Path(str(settings["weights"]))))
    scratch.write_text(json.dumps(content, ensure_ascii=False, indent=1, default=str) + "\n", encoding="utf-8")
    scratch.replace(path)
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


def _task_run(
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
    return _with_outcome(run, outcome)


def _with_outcome(run: TaskRun, outcome: Outcome) -> TaskRun:
    return dataclasses.replace(
        run,
        references=outcome.references,
        aggregate=outcome.aggregate,
        corrected=outcome.corrected,
        headline=outcome.headline,
        score=outcome.score,
        error=outcome.error,
        effective=len(outcome.samples),
        unparsed=outcome.unparsed,
        faults=outcome.faults,
        faulty=tuple(f"{sample.key}: {sample.fault}" for sample in outcome.samples if sample.fault),
    )


def _claim(folder: Path, config: EvaluationConfig) -> None:
    """Note what the answers of a folder depend on; refuse to mix them with others.

    Raises:
        ConfigError: The folder has answers of another configuration.
    """
    path = folder / "settings.json"
    free = ("tasks", "shots", "output", "data", "batch_size", "trials")
    ours = {name: value for name, value in encode(config).items() if name not in free}
    ours["weights_sha256"] = _digest(Path(config.weights))
    if path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(name for name in {*ours, *theirs} - {"weights"} if ours.get(name) != theirs.get(name))
        if changed:
            told = "; ".join(f"{name} was {theirs.get(name)} and is now {ours.get(name)}" for name in changed)
            raise ConfigError(f"{folder} has answers of another configuration: {told}. Give another --output")
    path.write_text(json.dumps(ours, indent=1) + "\n", encoding="utf-8")


def _digest(weights: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(weights.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _link_thumbnails(source: Path, target: Path) -> None:
    """The report of a rescored folder shows the same pictures."""
    if source.resolve() == target.resolve() or not (source / "thumbnails").is_dir():
        return
    (target / "thumbnails").mkdir(exist_ok=True)
    for path in (source / "thumbnails").iterdir():
        (target / "thumbnails" / path.name).write_bytes(path.read_bytes())


# ---- processes ----


@contextmanager
def _world() -> Iterator[tuple[int, int]]:
    """Number of this process and of all; torchrun says so in the environment."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()


def _together() -> None:
    if dist.is_initialized():
        dist.barrier()


def _device() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"

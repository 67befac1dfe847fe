"""`xgenmm evaluate`: tasks, shots and trials in turn, on one process or many.

An output folder holds

    settings.json       what the answers depend on; another configuration is refused
    answers/            answers as they come, per task and process: a killed run goes on from them
    verdicts/           a judge's words on them, if one was asked
    samples_TASK.jsonl  every question with prompt, answer, extraction, gold and score (`samples.Sample`)
    results.json        the figures, in lmms-eval's layout (`results_json`)
    thumbnails/         pictures of the questions that the report shows
    report.html
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from xgenmm.config import ConfigError, encode
from xgenmm.evaluation.answers import AnswerStore
from xgenmm.evaluation.asking import ChatQueries, FewShotQueries, Queries, ask, plain_settings
from xgenmm.evaluation.benchmarks.source import BenchmarkDataError, Docs, read_docs, read_train
from xgenmm.evaluation.evaluation_report import choose_shown, write_evaluation_report, write_thumbnails
from xgenmm.evaluation.fewshot import FewShotConfig
from xgenmm.evaluation.folder import RESULTS, claim, task_run, write_results
from xgenmm.evaluation.java_metrics import with_java_metrics
from xgenmm.evaluation.judging import VerdictStore, judged
from xgenmm.evaluation.processes import device, gathered, world_of
from xgenmm.evaluation.samples import PREFIX, write_samples
from xgenmm.evaluation.scorers.fewshot import FewShotItem
from xgenmm.evaluation.scoring import ScoringError, judge, rules_for, sample_of
from xgenmm.evaluation.settings import EvaluationConfig, EvaluationError, Job, jobs_of
from xgenmm.evaluation.tables import TaskRun
from xgenmm.evaluation.weighing import weigh
from xgenmm.inference.load import load
from xgenmm.inference.pictures import PictureTokens
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.progress import progress

log = logging.getLogger(__name__)

T = TypeVar("T")


def evaluate(config: EvaluationConfig) -> Path:
    """Evaluate weights; gives the path of `results.json`. The same call again continues.

    Under torchrun every process answers its share, and the first one writes the results.

    Raises:
        ConfigError: The folder belongs to another configuration.
        WeightsError: The weights cannot be used.
        EvaluationError: Some tasks failed; the others' results are written.
    """
    with world_of() as (rank, world):
        folder = Path(config.output)
        model, processor = load(config.weights, device=device())
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            claim(folder, config)
        gathered("", world)
        runner = _Runner(config, folder, model, processor, rank, world)
        return runner.run()


def evaluate_model(
    config: EvaluationConfig, model: XGenMMForConditionalGeneration, processor: XGenMMProcessor, *, page: bool = True
) -> dict[str, Any]:
    """As `evaluate` for a model in memory, on this process alone; gives the results. For hooks in training.

    Args:
        config: What to evaluate; `weights` is only what the results call the model.
        model: Evaluated as it is.
        processor: The model's.
        page: Whether `report.html` is written, too.
    """
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    runner = _Runner(config, folder, model, processor, 0, 1, page=page)
    return json.loads(runner.run().read_text(encoding="utf-8"))


class _TaskError(Exception):
    """One task could not be evaluated."""


class _Runner:
    def __init__(
        self,
        config: EvaluationConfig,
        folder: Path,
        model: XGenMMForConditionalGeneration,
        processor: XGenMMProcessor,
        rank: int,
        world: int,
        *,
        page: bool = True,
    ) -> None:
        self.config, self.folder, self.processor, self.page = config, folder, processor, page
        self.pictures = PictureTokens(model)
        self.rank, self.world = rank, world
        self.runs: list[TaskRun] = []
        self.failures: dict[str, str] = {}

    def run(self) -> Path:
        began = time.time()
        for job in jobs_of(self.config):
            try:
                self._answer(job)
            except _TaskError as error:
                self.failures.setdefault(job.benchmark.name, str(error))
                if self.rank == 0:
                    log.error("%s failed: %s", job.benchmark.name, error)
            if self.rank == 0:
                write_results(self.folder, self.runs, encode(self.config), self.failures, began)
        if self.rank == 0 and self.page:
            write_evaluation_report(self.folder)
        if self.failures:
            raise EvaluationError(self.failures, len(dict.fromkeys(self.config.tasks)), self.folder)
        return self.folder / RESULTS

    def _answer(self, job: Job) -> None:
        """One task: open its data, answer its questions, score the answers. Every step waits for all processes."""
        docs, queries, items, store = self._on_all(job, lambda: self._open(job))
        self._on_all(job, lambda: self._ask(job, queries, items, store))
        self._on_all(job, lambda: self._score(job, docs, queries, items, store) if self.rank == 0 else None)

    def _on_all(self, job: Job, step: Callable[[], T]) -> T:
        """Do a step on every process. What fails on one fails on all: nobody waits for one that has gone on.

        Raises:
            _TaskError: It failed.
        """
        outcome, message = None, ""
        try:
            outcome = step()
        except BenchmarkDataError as error:
            message = str(error)
        except ConfigError as error:
            message = f"{job.task}: {error}"
        told = [one for one in gathered(message, self.world) if one]
        if told:
            raise _TaskError(told[0])
        return cast(T, outcome)

    def _open(self, job: Job) -> tuple[Docs, Queries, list[FewShotItem], AnswerStore]:
        docs = read_docs(job.benchmark, Path(self.config.data), self.config.sources)
        queries = self._queries(job, docs, self._references(job)[0])
        items = queries.order(self.config.limit)
        return docs, queries, items, AnswerStore(self.folder / "answers", job.label(self.config.trials), self.rank)

    def _ask(self, job: Job, queries: Queries, items: Sequence[FewShotItem], store: AnswerStore) -> None:
        todo = [item for item in items if item.test not in store.answers]
        done, size = len(items) - len(todo), self.config.batch_size
        with progress(job.label(self.config.trials), len(items), "questions", done=done) as advance:
            if job.benchmark.weighing is None:
                ask(queries, todo[self.rank :: self.world], store, size, lambda n: advance(n * self.world))
            else:
                weigh(queries, items, store, size, (self.rank, self.world), lambda n: advance(n * self.world))

    def _score(self, job: Job, docs: Docs, queries: Queries, items: Sequence[FewShotItem], store: AnswerStore) -> None:
        benchmark, label = job.benchmark, job.label(self.config.trials)
        wanted = {item.test for item in items}
        answers = [answer for place, answer in sorted(store.read().items()) if place in wanted]
        try:
            samples = [sample_of(benchmark, docs[answer.place], answer) for answer in answers]
            if self.config.judge is not None:
                samples = judged(self.config.judge, benchmark, samples, VerdictStore(self.folder, label))
            outcome = judge(benchmark, samples, self._references(job))
            if self.config.java_metrics:
                outcome = with_java_metrics(benchmark, outcome)
        except ScoringError as error:
            raise BenchmarkDataError(f"{docs.where}: {error}. {docs.advice}") from error
        write_samples(self.folder / f"{PREFIX}{label}.jsonl", outcome.samples)
        if self.page:
            write_thumbnails(self.folder, label, benchmark, docs, choose_shown(outcome.samples))
        generation = {} if benchmark.weighing else plain_settings(queries.settings)
        self.runs.append(task_run(job, label, outcome, len(docs), generation, self.config))

    def _references(self, job: Job) -> tuple[str, ...]:
        return rules_for(job.benchmark, self.config.profile, few_shot=job.shots is not None)

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

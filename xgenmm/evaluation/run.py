"""`xgenmm evaluate`: tasks, shots and trials in turn, on one process or many.

An output folder holds

    settings.json       what the answers depend on; another configuration is refused
    answers/            answers as they come, per task and process: a killed run goes on from them
    samples_TASK.jsonl  every question with prompt, answer, extraction, gold and score (`samples.Sample`)
    results.json        the figures, in lmms-eval's layout (`results_json`)
    thumbnails/         pictures of the questions that the report shows
    report.html
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from xgenmm.config import ConfigError, encode
from xgenmm.evaluation.answers import AnswerStore
from xgenmm.evaluation.asking import ChatQueries, FewShotQueries, Queries, ask, plain_settings
from xgenmm.evaluation.benchmarks.source import BenchmarkDataError, Docs, read_docs, read_train
from xgenmm.evaluation.evaluation_report import choose_shown, write_evaluation_report, write_thumbnails
from xgenmm.evaluation.fewshot import FewShotConfig
from xgenmm.evaluation.folder import RESULTS, claim, task_run, write_results
from xgenmm.evaluation.processes import device, together, world_of
from xgenmm.evaluation.samples import PREFIX, Sample, without_pictures, write_samples
from xgenmm.evaluation.scoring import group_of, judge, rules_for
from xgenmm.evaluation.settings import EvaluationConfig, Job, jobs_of
from xgenmm.evaluation.tables import TaskRun
from xgenmm.inference.load import load
from xgenmm.inference.pictures import PictureTokens
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.progress import progress

log = logging.getLogger(__name__)


class EvaluationError(RuntimeError):
    """Some tasks could not be evaluated; the others were, and their results are written."""


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
        together(world)
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
        together(self.world)
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
        together(self.world)  # all have read what is there before anyone adds to it
        todo = [item for item in items if item.test not in store.answers]
        mine = todo[self.rank :: self.world]
        with progress(label, len(items), "questions", done=len(items) - len(todo)) as advance:
            ask(queries, mine, store, config.batch_size, lambda n: advance(n * self.world))
        together(self.world)
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
            self.runs.append(task_run(job, label, outcome, len(docs), plain_settings(queries.settings), config))

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

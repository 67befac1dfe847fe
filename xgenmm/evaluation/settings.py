"""What to evaluate, and the jobs that follow from it. Loads nothing."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xgenmm.config import ConfigError
from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.benchmarks.benchmark import Benchmark
from xgenmm.evaluation.fewshot import Selection
from xgenmm.evaluation.judging import JudgeConfig
from xgenmm.evaluation.scorers.profiles import PROFILES

log = logging.getLogger(__name__)


class EvaluationError(RuntimeError):
    """Some tasks could not be evaluated; the others were, and their results are written."""

    def __init__(self, failed: Iterable[str], total: int, folder: Path) -> None:
        names = list(failed)
        super().__init__(
            f"{len(names)} of {total} tasks could not be evaluated: {', '.join(names)} (see above). "
            f"The others' results are in {folder}"
        )


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
    judge: JudgeConfig | None = None
    """Asked about the answers to benchmarks that have questions for a judge."""
    java_metrics: bool = False
    """METEOR and SPICE of captions, where Java and their programs are there."""

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

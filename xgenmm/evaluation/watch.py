"""Benchmarks during training: every N steps on the same few questions, as a curve. Changes nothing in the training."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.utils.tensorboard import SummaryWriter

from xgenmm.config import Count
from xgenmm.evaluation.run import evaluate_model
from xgenmm.evaluation.settings import EvaluationConfig, EvaluationError
from xgenmm.files import write_whole
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.processor import XGenMMProcessor

log = logging.getLogger(__name__)

FOLDER = "evaluations"


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What is evaluated while a stage trains."""

    tasks: tuple[str, ...]
    """Names of benchmarks."""
    data: str
    """Folder of their data."""
    every: Count
    """Steps between evaluations; the last step is always evaluated."""
    limit: Count = 64
    """Questions per task, always the same ones."""
    profile: str = "paper"
    """Whose prompts and rules."""
    batch_size: Count = 8
    """Questions at a time."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: A name is unknown.
        """
        self.evaluation("")

    def evaluation(self, output: str) -> EvaluationConfig:
        """The settings of one evaluation."""
        return EvaluationConfig(
            weights="model in training",
            tasks=self.tasks,
            output=output,
            data=self.data,
            profile=self.profile,
            limit=self.limit,
            batch_size=self.batch_size,
        )


class Watch:
    """Evaluates a model at some steps of its training."""

    def __init__(self, config: WatchConfig, folder: Path, steps: int, *, writes: bool = True) -> None:
        """Note where the results go.

        Args:
            config: What, and how often.
            folder: The stage's; gets `evaluations/`.
            steps: Of the whole stage.
            writes: Whether this process is the one that keeps them. Processes may share a model out among them, so all
                of them must ask it the same, in the same order.
        """
        self.config, self.folder, self.steps, self.writes = config, folder, steps, writes

    def is_due(self, step: int) -> bool:
        """Whether the model is evaluated after so many steps."""
        return step % self.config.every == 0 or step == self.steps

    def evaluate(self, step: int, model: XGenMMForConditionalGeneration, processor: XGenMMProcessor) -> None:
        """Evaluate and draw the curve. A task that fails is told and stops nothing.

        Args:
            step: How many are done.
            model: Evaluated as it is; goes back to the mode of training it was in.
            processor: The model's.
        """
        was_training = model.training
        cache, model.feature_cache = model.feature_cache, None  # its file is of training pictures only
        try:
            with self._output(step) as output:
                evaluate_model(self.config.evaluation(str(output)), model, processor)
        except EvaluationError as error:
            log.warning("after step %d: %s", step, error)
        finally:
            model.feature_cache = cache
            model.train(was_training)
        if self.writes:
            self._draw(step)

    @contextmanager
    def _output(self, step: int) -> Iterator[Path]:
        """An empty folder: no answer is taken from a run that was stopped here, for not all processes would have it."""
        if self.writes:
            path = self.folder / FOLDER / f"step-{step}"
            shutil.rmtree(path, ignore_errors=True)
            yield path
        else:
            with TemporaryDirectory() as scratch:
                yield Path(scratch)

    def _draw(self, step: int) -> None:
        curve = read_curve(self.folder)
        write_whole(self.folder / FOLDER / "curve.json", json.dumps(curve, indent=1) + "\n")
        # In a folder of its own: who reads while training writes goes on to a folder's next file and never back.
        with SummaryWriter(log_dir=str(self.folder / "tensorboard" / "evaluation")) as board:
            for task, points in curve.items():
                if str(step) in points:
                    board.add_scalar(f"evaluation/{task}", points[str(step)], step)
        if not curve:
            return  # no task could be evaluated
        self._draw_curve(curve)

    def _draw_curve(self, curve: Mapping[str, Mapping[str, float]]) -> None:
        from matplotlib.figure import Figure  # half a second, for which most training would not have waited
        from matplotlib.ticker import MaxNLocator

        titles = _titles(self.folder)
        figure = Figure(figsize=(6.4, 2.4 * len(curve)))
        axes = figure.subplots(len(curve), 1, squeeze=False, sharex=True)
        for axis, (task, points) in zip(axes[:, 0], curve.items(), strict=True):
            axis.plot([int(one) for one in points], list(points.values()), marker="o", markersize=4, color="#0f6b74")
            axis.set_title(titles[task], fontsize=9, loc="left")
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[-1, 0].set_xlabel("step")
        figure.tight_layout()
        figure.savefig(self.folder / FOLDER / "curve.png", dpi=120)


def _titles(folder: Path) -> dict[str, str]:
    """What each task's numbers are: `pope: F1, 64 questions`."""
    found = {}
    for path in (folder / FOLDER).glob("step-*/results.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for task, result in content["results"].items():
            count = content["n-samples"][task]["effective"]
            found[task] = f"{task}: {result.get('headline_name', '')}, {count} questions"
    return found


def read_curve(folder: Path) -> Mapping[str, dict[str, float]]:
    """Task -> step -> quoted number, of a stage's folder."""
    curve: dict[str, dict[str, float]] = {}
    paths = (folder / FOLDER).glob("step-*/results.json")
    for path in sorted(paths, key=lambda path: int(path.parent.name.removeprefix("step-"))):
        step = path.parent.name.removeprefix("step-")
        for task, result in json.loads(path.read_text(encoding="utf-8"))["results"].items():
            if result.get("headline,none") is not None:
                curve.setdefault(task, {})[step] = result["headline,none"]
    return curve

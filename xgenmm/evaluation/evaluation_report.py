"""The page of an evaluation folder: figures beside the published ones, plots by category, and answers to look at.

One HTML file that needs no network. Reads `results.json`, the samples and the thumbnails; runs no model.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from markupsafe import Markup

from xgenmm.data.quarantine import BadSample
from xgenmm.evaluation.benchmarks import benchmark_named
from xgenmm.evaluation.benchmarks.benchmark import Benchmark
from xgenmm.evaluation.benchmarks.source import Docs
from xgenmm.evaluation.charts import Line, gauge, stages_chart
from xgenmm.evaluation.published import published_rows
from xgenmm.evaluation.samples import PREFIX, Sample, read_samples
from xgenmm.evaluation.scorers.statistics import grouped
from xgenmm.evaluation.scoring import beside
from xgenmm.evaluation.statistics import Figure, mean
from xgenmm.files import write_whole
from xgenmm.pages.templates import page_template
from xgenmm.processor.images import ImageError, open_image

THUMBNAIL = 256
"""Longest side of a picture on the page, in pixels."""
SHOWN = {"unparsed": 20, "wrong": 40, "right": 20, "fault": 20}
"""Answers of each kind on the page, per task."""
PICTURES = 4
"""Pictures of one question on the page."""
CATEGORIES = (
    *(
        "harmful_category",
        "l2_category",
        "l2-category",
        "L2-category",
        "category",
        "sub_task",
        "task",
        "topic",
        "aspect",
    ),
    *("question_type", "subcategory", "subset", "answer_type", "type"),
)
"""Columns that sort questions into kinds, the most telling first."""
MOST_CATEGORIES = 24
THUMBNAILS = "thumbnails"
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Models against tasks: ours first, then what was published."""

    title: str
    tasks: list[str]
    rows: list[tuple[str, bool, list[str]]]
    """Model, whether it is ours, and a cell per task."""


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """One line of the table of tasks."""

    task: str
    title: str
    metric: str
    value: str
    score: str
    n: int
    unparsed: str
    faults: int
    rules: str
    numbers: list[str]
    """Further numbers that belong beside the value."""
    corrected: list[str]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Scores by kind of question."""

    task: str
    column: str
    bars: list[tuple[str, Markup, str, int]]
    """Kind, bar, value, questions."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An answer to look at."""

    task: str
    kind: str
    sample: Sample
    pictures: list[str]
    score: str
    weighed: list[tuple[str, list[str]]]
    """Given answers, and their log-probabilities under the names in `Sample.logps`."""


def kind_of(sample: Sample) -> str:
    """fault, unparsed, wrong or right."""
    if sample.fault:
        return "fault"
    if sample.unparsed:
        return "unparsed"
    return "right" if sample.score is not None and sample.score >= 0.5 else "wrong"


def choose_shown(samples: Sequence[Sample]) -> list[int]:
    """Places of the answers that the page shows: some of each kind, spread over the set."""
    places = []
    for kind, group in grouped(samples, kind_of).items():
        step = max(1, len(group) // SHOWN[kind])
        places += [sample.place for sample in group[::step][: SHOWN[kind]]]
    return sorted(places)


def write_thumbnails(folder: Path, label: str, benchmark: Benchmark, docs: Docs, places: Sequence[int]) -> None:
    """Write small pictures of some questions; what cannot be opened is left out."""
    target = folder / THUMBNAILS
    target.mkdir(exist_ok=True)
    for place in places:
        try:
            for number, picture in enumerate(benchmark.images(docs[place])[:PICTURES]):
                image = open_image(picture)
                image.thumbnail((THUMBNAIL, THUMBNAIL))
                image.save(target / f"{label}-{place}-{number}.jpg", quality=80)
        except (BadSample, ImageError):
            continue  # the page says of these that their picture could not be read


def write_evaluation_report(folder: Path) -> Path:
    """Write `report.html` into a folder that `xgenmm evaluate` wrote, and return its path."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    runs = results["labels"]
    samples = {label: read_samples(folder / f"{PREFIX}{label}.jsonl") for label in runs}
    answers = [
        _answered(folder, label, run, sample)
        for label, run in runs.items()
        for sample in _of_places(samples[label], choose_shown(samples[label]))
    ]
    page = page_template("xgenmm.evaluation", "evaluation.html").render(
        model=Path(results["config"]["weights"]).as_posix(),
        results=results,
        tables=compared(results),
        facts=[task_facts(task, results) for task in results["results"]],
        curves=curves(results),
        plots=[plot for label, run in runs.items() if (plot := by_category(run, samples[label]))],
        answers=answers,
        total=sum(len(group) for group in samples.values()),
        kinds={kind: sum(answer.kind == kind for answer in answers) for kind in SHOWN},
        tasks=list(dict.fromkeys(run["task"] for run in runs.values())),
    )
    path = folder / "report.html"
    write_whole(path, page)
    return path


def compared(results: Mapping[str, Any]) -> list[Compared]:
    """A table per way of asking: as in a chat, and for each number of shots."""
    ours = {task: result.get("headline,none") for task, result in results["results"].items()}
    configs = {run["task"]: run for run in results["labels"].values()}
    found = []
    for shots, group in grouped(configs.items(), lambda item: item[1]["shots"]).items():
        names = {task: run["benchmark"] for task, run in group}
        model = Path(results["config"]["weights"]).as_posix()
        rows = [(model, True, [_cell(ours[task]) for task in names])]
        for other, row in published_rows(shots).items():
            cells = [row.get(name) for name in names.values()]
            if any(cell is not None for cell in cells):
                rows.append((other, False, [_cell(cell) for cell in cells]))
        title = "Asked as in a chat" if shots is None else f"{shots} shots"
        found.append(Compared(title=title, tasks=[benchmark_named(name).title for name in names.values()], rows=rows))
    return found


def task_facts(task: str, results: Mapping[str, Any]) -> TaskFacts:
    """What stands in the results about one task, in words."""
    result = results["results"][task]
    run = next(run for run in results["labels"].values() if run["task"] == task)
    error, deviation = result.get("score_stderr,none"), result.get("headline_std,none")
    spread = f" ± {deviation:.2f} over {result['trials']} trials" if deviation is not None else ""
    score = result.get("score,none")
    interval = f" ± {100 * error:.1f}" if isinstance(error, float) else ""
    return TaskFacts(
        task=task,
        title=benchmark_named(run["benchmark"]).title,
        metric=result.get("headline_name", ""),
        value=_cell(result.get("headline,none")) + spread,
        score=NOTHING if score is None else f"{100 * score:.1f}{interval}",
        n=results["n-samples"][task]["effective"],
        unparsed=f"{100 * result['unparsed_rate']:.1f} %",
        faults=result["n_faults"],
        rules=", ".join(result["references"]),
        numbers=[
            f"{name.removesuffix('.value')} {value:.4g}" for name, value in further_numbers(task, results).items()
        ],
        corrected=[
            f"{name.removesuffix(',corrected')} {value:.4g}"
            for name, value in result.items()
            if name.endswith(",corrected") and isinstance(value, int | float)
        ],
        notes=results["configs"][task]["metadata"]["notes"],
    )


def further_numbers(task: str, results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a task that belong beside the quoted one."""
    run = next(run for run in results["labels"].values() if run["task"] == task)
    found = {
        name.removesuffix(",none"): value
        for name, value in results["results"][task].items()
        if name.endswith(",none") and isinstance(value, int | float)
    }
    return beside(benchmark_named(run["benchmark"]), found)


def curves(results: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Headline against shots, for benchmarks that were asked with several numbers of shots."""
    found = []
    runs = {run["task"]: run for run in results["labels"].values() if run["shots"] is not None}
    for name, group in grouped(runs.values(), lambda run: run["benchmark"]).items():
        if len(group) < 2:
            continue
        points = []
        for run in sorted(group, key=lambda run: run["shots"]):
            value = results["results"][run["task"]]["headline,none"]
            spread = results["results"][run["task"]].get("headline_std,none", 0.0)
            points.append(Figure(value=value, low=value - spread, high=value + spread, n=run["effective"]))
        shots = [str(run["shots"]) for run in sorted(group, key=lambda run: run["shots"])]
        title = f"{benchmark_named(name).title} by shots"
        chart = stages_chart(title, shots, [Line("model", points, "model")], [], lambda value: f"{value:.1f}")
        found.append((title, Markup(chart)))
    return found


def by_category(run: Mapping[str, Any], samples: Sequence[Sample]) -> Plot | None:
    """Mean scores by the most telling column that sorts the questions into a few kinds."""
    scored = [sample for sample in samples if sample.score is not None]
    for column in CATEGORIES:
        groups = grouped([s for s in scored if s.doc.get(column)], lambda s, column=column: str(s.doc[column]))
        if 1 < len(groups) <= MOST_CATEGORIES:
            bars = []
            for kind, group in sorted(groups.items()):
                figure = mean([sample.score for sample in group if sample.score is not None])
                bar = gauge(f"{kind}: {figure.value}", figure, None, (0.0, max(1.0, figure.high)))
                bars.append((kind, Markup(bar), f"{100 * figure.value:.1f}", len(group)))
            return Plot(task=run["label"], column=column, bars=bars)
    return None


def _of_places(samples: Sequence[Sample], places: Sequence[int]) -> list[Sample]:
    wanted = set(places)
    return [sample for sample in samples if sample.place in wanted]


def _answered(folder: Path, label: str, run: Mapping[str, Any], sample: Sample) -> Answered:
    paths = sorted((folder / THUMBNAILS).glob(f"{label}-{sample.place}-*.jpg"))
    return Answered(
        task=run["task"],
        kind=kind_of(sample),
        sample=sample,
        pictures=[f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}" for path in paths],
        score="" if sample.score is None else f"{sample.score:.2f}".rstrip("0").rstrip("."),
        weighed=_weighed(benchmark_named(run["benchmark"]), sample),
    )


def _weighed(benchmark: Benchmark, sample: Sample) -> list[tuple[str, list[str]]]:
    if benchmark.weighing is None or not sample.logps:
        return []
    columns = zip_longest(*sample.logps.values())  # a control may weigh fewer
    return [
        (text, [NOTHING if value is None else f"{value:.2f}" for value in row])
        for text, row in zip(benchmark.weighing.candidates(sample.doc), columns, strict=True)
    ]


def _cell(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"

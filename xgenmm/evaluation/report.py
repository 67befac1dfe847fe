"""The page that a quickstart run ends with: one HTML file that needs no network. Runs no model."""

import base64
import io
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from statistics import median

from markupsafe import Markup
from PIL import Image

from xgenmm.evaluation.charts import Level, Line, gauge, stages_chart
from xgenmm.evaluation.claims import Claim, clear_of, is_right, is_shown, tell, words_of
from xgenmm.evaluation.results import Run, read_run
from xgenmm.evaluation.statistics import Figure
from xgenmm.evaluation.words import CONTROLS, METRICS, Metric, control_key, metric_words, show, show_range, stage_words
from xgenmm.files import write_whole
from xgenmm.pages.charts import loss_chart
from xgenmm.pages.templates import page_template

THUMBNAIL = 224
"""Longest side of a picture on the page, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one stage answered."""

    stage: str
    pieces: list[tuple[str, bool]]
    """The answer in pieces, and whether each is a word of the reference that tells this picture from the others."""
    gist: str
    """The answer in brief: without the words that all references begin with, up to the first full stop."""
    right: bool


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A held-out picture with the questions asked about it."""

    name: str
    uri: str
    questions: list[tuple[str, str, list[Said]]]
    """Question, reference, answers in the order of the stages."""

    @property
    def last(self) -> Said:
        """The last answer to the first question."""
        return self.questions[0][2][-1]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A small chart with its title and what it says beneath."""

    title: str
    note: str
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure before and after a stage."""

    name: str
    before: str
    after: str
    clear: bool
    """Better by more than both intervals."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What one stage of training did and cost."""

    name: str
    lesson: str
    chart: Markup | None
    changes: list[Change]
    worse: list[Change]
    facts: list[str]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Time and memory of one stage, with the length of its bar in per cent of the longest."""

    name: str
    time: str
    memory: str
    bar: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure in the table."""

    value: str
    interval: str
    shown: bool
    target: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """A metric or one of its controls, over the stages."""

    name: str
    control: bool
    n: int
    cells: list[Cell | None]


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Reads `metrics.json` ({stage: {metric: {value, low, high, n}, seconds, peak_memory_mb}}), `answers.jsonl` (picture,
    image, name, question, stage, answer, reference), `environment.json` and each stage's `metrics.jsonl`. Only the
    first must be there; stages that have not run are left out, so a page can be written after every stage.

    All that `environment.json` says is optional: cpu, dtype, mode (fast or full), drawings and photos (how
    many were trained on), versions {package: version}, and parts, a list of {name, version, licence, use}: the packages
    that weights and data came from.

    Raises:
        FileNotFoundError: The folder has no `metrics.json`, or a picture that `answers.jsonl` names is missing.
    """
    run = read_run(run_folder)
    story = tell(run)
    page = page_template("xgenmm.evaluation", "report.html").render(
        headline=story.headline,
        learnt=gauges(story.learnt),
        not_learnt=gauges(story.not_learnt),
        run=run,
        facts=facts(run),
        pictures=pictures(run, run_folder),
        charts=charts(run),
        lessons=lessons(run),
        costs=costs(run),
        stages=[stage_words(stage) for stage in run.figures],
        table=table(run),
        meanings=[METRICS[key] for key in ordered(run) if key in METRICS],
        commands=commands(run, run_folder),
    )
    path = run_folder / "report.html"
    write_whole(path, page)
    return path


def ordered(run: Run) -> list[str]:
    """Keys of all metrics measured anywhere, without the controls: those with words first, each beside its parts."""
    seen = list(dict.fromkeys(key for figures in run.figures.values() for key in figures))
    held = {control_key(key, end) for key in seen for end in CONTROLS}
    groups = [*dict.fromkeys(words.group for words in METRICS.values()), metric_words("").group]
    places = [*METRICS, *seen]
    return sorted(
        (key for key in seen if key not in held),
        key=lambda key: (groups.index(metric_words(key).group), places.index(key)),
    )


def facts(run: Run) -> list[str]:
    """The line under the headline: where, how long, on what."""
    notes = run.environment
    found = []
    seconds = sum(cost.get("seconds", 0.0) for cost in run.costs.values())
    if seconds:
        found.append(duration(seconds))
    if "cpu" in notes:
        found.append(str(notes["cpu"]))
    if "dtype" in notes:
        found.append(str(notes["dtype"]))
    counts = [f"{notes[what]:,} {what}" for what in ("drawings", "photos") if notes.get(what)]
    if counts:
        found.append(" and ".join(counts))
    peaks = [cost["peak_memory_mb"] for cost in run.costs.values() if "peak_memory_mb" in cost]
    if peaks:
        found.append(f"at most {max(peaks) / 1000:.1f} GB of memory")
    return found


def gauges(claims: Sequence[Claim]) -> list[tuple[Claim, Markup]]:
    """Each claim with a bar that shows its figure beside what it is held against; nothing for claims without one."""
    found = []
    for claim in claims:
        if not claim.figure:
            found.append((claim, Markup("")))
            continue
        top = max(claim.figure.high, claim.against or 0.0)
        limits = (0.0, 1.0 if top <= 1 else 1.1 * top)
        found.append((claim, Markup(gauge(claim.skill, claim.figure, claim.against, limits))))
    return found


def figure_before(run: Run, key: str, stage: str | None) -> Figure | None:
    """A metric's figure before a stage; None for the first stage."""
    stages = list(run.figures)
    place = stages.index(stage) if stage else 0
    return run.figures[stages[place - 1]].get(key) if place else None


def pictures(run: Run, folder: Path) -> list[Shown]:
    """The held-out pictures with what every stage answered."""
    references: dict[str, set[str]] = {}
    for entry in run.answers:
        references.setdefault(entry["question"], set()).add(entry["reference"])
    by_picture: dict[str, list[Mapping[str, str]]] = {}
    for entry in run.answers:
        by_picture.setdefault(entry["picture"], []).append(entry)
    found = []
    for entries in by_picture.values():
        questions = []
        for question in dict.fromkeys(entry["question"] for entry in entries):
            asked = {entry["stage"]: entry for entry in entries if entry["question"] == question}
            answers = [said(asked[stage], references[question]) for stage in run.figures if stage in asked]
            questions.append((question, next(iter(asked.values()))["reference"], answers))
        found.append(Shown(name=entries[0]["name"], uri=data_uri(folder / entries[0]["image"]), questions=questions))
    return found


def said(entry: Mapping[str, str], references: Set[str]) -> Said:
    """One answer; `references` are those of all pictures that the question was asked about."""
    worded = [words_of(reference) for reference in references]
    shared = set.intersection(*map(set, worded)) if len(worded) > 1 else set()
    telling = set(words_of(entry["reference"])) - shared
    answer = entry["answer"].strip()
    # re.split with a group keeps what it splits at: words and what stands between them, in turn
    pieces = [(piece, piece.casefold() in telling) for piece in re.split(r"(\w+)", answer) if piece]
    columns = zip(*worded, strict=False) if len(worded) > 1 else ()
    opening = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    begins = re.match(r"\W*".join([*opening, ""]), answer, re.IGNORECASE)
    gist = answer[begins.end() :] if begins else answer
    return Said(
        stage=stage_words(entry["stage"]).name, pieces=pieces, gist=gist.partition(".")[0], right=is_right(entry)
    )


def data_uri(path: Path) -> str:
    """A picture, small, as an address that needs no file."""
    small = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        image.save(small, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"


def charts(run: Run) -> list[Chart]:
    """Every metric that a stage trains for, over the stages, with its control and its guess."""
    stages = list(run.figures)
    found = []
    for key, words in METRICS.items():
        points = [run.figures[stage].get(key) for stage in stages]
        if words.stage is None or not any(points):
            continue
        lines = [Line(words.name, points, "model")]
        levels = []
        for end, name in CONTROLS.items():
            held = [run.figures[stage].get(control_key(key, end)) for stage in stages]
            measured = [figure for figure in held if figure]
            if measured and end == "majority":  # does not depend on the model, so it is no series
                levels.append(Level("commonest", measured[-1].value))
            elif measured:
                lines.append(Line(name, held, "control"))
        if words.chance is not None and not levels:
            levels.append(Level("guess", words.chance))
        found.append(
            Chart(
                title=words.name,
                note=f"{words.better} is better" + ("; nats per token" if words.unit == "nats" else ""),
                svg=Markup(
                    stages_chart(
                        words.name,
                        [stage_words(stage).short for stage in stages],
                        lines,
                        levels,
                        lambda value, words=words: show(words, value),
                        (0.0, 1.0) if words.unit == "share" else None,
                        stages.index(words.stage) if words.stage in stages else None,
                    )
                ),
            )
        )
    return found


def lessons(run: Run) -> list[Lesson]:
    """What each stage of training did to the figures, and what it cost."""
    found = []
    for stage in list(run.figures)[1:]:
        words = stage_words(stage)
        log = run.logs[stage]
        told = []
        if log:
            speed = median(entry["speed"]["tokens_per_second"] for entry in log)
            told = [f"{log[-1]['step'] + 1:,} steps", f"{speed:,.0f} tokens/s"]
        changes, worse = [], []
        for key in ordered(run):
            before, after, metric = figure_before(run, key, stage), run.figures[stage].get(key), metric_words(key)
            if before is None or after is None or metric.better is None:
                continue
            change = Change(
                name=metric.name,
                before=show(metric, before.value),
                after=show(metric, after.value),
                clear=clear_of(metric, after, before),
            )
            if metric.stage == stage:
                changes.append(change)
            elif key in METRICS and clear_of(metric, before, after):
                worse.append(change)
        losses = [(entry["step"] + 1, entry["loss"]) for entry in log if entry["loss"] is not None]
        chart = loss_chart(f"Loss of {words.name}", losses) if losses else None
        found.append(
            Lesson(
                name=words.name,
                lesson=words.lesson,
                chart=Markup(chart) if chart else None,
                changes=changes,
                worse=worse,
                facts=told,
            )
        )
    return found


def costs(run: Run) -> list[Cost]:
    """Time and peak memory, stage by stage."""
    spent = {stage: cost for stage, cost in run.costs.items() if cost.get("seconds")}
    longest = max((cost["seconds"] for cost in spent.values()), default=0.0)
    return [
        Cost(
            name=stage_words(stage).name,
            time=duration(cost["seconds"]),
            memory=f"{cost['peak_memory_mb'] / 1000:.1f} GB" if "peak_memory_mb" in cost else "",
            bar=round(100 * cost["seconds"] / longest, 1),
        )
        for stage, cost in spent.items()
    ]


def duration(seconds: float) -> str:
    """A time span as people say it.

    >>> duration(75.2), duration(9.0)
    ('1 min 15 s', '9 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def table(run: Run) -> list[tuple[str, list[Row]]]:
    """All figures: group -> rows, each metric followed by its controls."""
    stages = list(run.figures)

    def row(key: str, name: str, words: Metric, *, control: bool) -> Row:
        cells: list[Cell | None] = []
        for stage in stages:
            figure = run.figures[stage].get(key)
            if figure is None:
                cells.append(None)
                continue
            cells.append(
                Cell(
                    value=show(words, figure.value),
                    interval=show_range(words, figure),
                    shown=not control and is_shown(run.figures[stage], key),
                    target=not control and words.stage == stage,
                )
            )
        n = max(run.figures[stage][key].n for stage in stages if key in run.figures[stage])
        return Row(name=name, control=control, n=n, cells=cells)

    found = []
    for group, keys in groupby(ordered(run), key=lambda key: metric_words(key).group):
        rows = []
        for key in keys:
            words = metric_words(key)
            rows.append(row(key, words.name, words, control=False))
            for end, name in CONTROLS.items():
                held = control_key(key, end)
                if any(held in figures for figures in run.figures.values()):
                    rows.append(row(held, name, words, control=True))
        found.append((group, rows))
    return found


def commands(run: Run, folder: Path) -> list[tuple[str, str]]:
    """What to do next, as commands to be typed where the run was started."""
    where = Path(os.path.relpath(folder)).as_posix()
    stage, xgenmm = f"{where}/{run.last_stage}", program("xgenmm")
    found = [("Look at every step of every stage", f"{program('tensorboard')} --logdir {where}")]
    if run.last_stage in list(run.figures)[1:]:
        found = [
            ("Talk to it about your own pictures", f"{xgenmm} chat {stage}/weights"),
            ("Ask one question", f'{xgenmm} generate {stage}/weights --image PICTURE "What is this?"'),
            ("Change a setting and train again", f"{xgenmm} train {stage}/recipe.yaml name=mine seed=1"),
            *found,
        ]
    return found


def program(name: str) -> str:
    """How to call a program of this environment: by its name if the shell finds it, else by its place."""
    beside = Path(sys.executable).with_name(name)
    return name if shutil.which(name) or not beside.is_file() else os.path.relpath(beside)

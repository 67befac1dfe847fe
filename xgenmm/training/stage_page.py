"""A stage's `report.html`: its curves on one page that needs no network, while it trains and when it is done."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from markupsafe import Markup

from xgenmm.data.quarantine import read_lines
from xgenmm.files import write_whole
from xgenmm.pages.curves import Curve, layers_chart, lines_chart, smoothed
from xgenmm.pages.templates import page_template
from xgenmm.phases import PHASES
from xgenmm.training.metrics import METRICS, StepRecord

log = logging.getLogger(__name__)

REPORT = "report.html"
SECONDS_BETWEEN_PAGES = 60.0
SHARE_OF_TIME = 0.005
"""A page grows with the run; it is written so seldom that it costs no more than this."""
COLOURS = 12
"""Classes c0, c1, ... of the style sheet."""

Record = Mapping[str, Any]
"""A line of the metrics."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with what stands over it."""

    title: str
    note: str
    curves: Sequence[Curve]
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class Group:
    """Charts that belong together."""

    title: str
    anchor: str
    charts: Sequence[Chart]


class StagePage:
    """Brings a stage's page up to date now and then, and at the end."""

    def __init__(self, folder: Path) -> None:
        """Of the stage in this folder, whose metrics are written before this is called."""
        self._folder = folder
        self._due = time.perf_counter() + SECONDS_BETWEEN_PAGES

    def write(self, record: StepRecord) -> None:  # noqa: ARG002  (the page reads it where it was written)
        """Write the page, if that is due."""
        if time.perf_counter() >= self._due:
            self.close()

    def close(self) -> None:
        """Write the page. Where it cannot be written, the run has worse to tell, and tells it itself."""
        began = time.perf_counter()
        try:
            write_stage_page(self._folder)
        except OSError as error:
            log.warning("%s is not up to date: %s", self._folder / REPORT, error)
        took = time.perf_counter() - began
        self._due = time.perf_counter() + max(SECONDS_BETWEEN_PAGES, took / SHARE_OF_TIME)


def write_stage_page(folder: Path) -> Path | None:
    """Write `report.html` from `metrics.jsonl`, beside it; None if there is no step yet."""
    records = list(read_lines(folder / METRICS))
    if not records:
        return None
    page = page_template("xgenmm.training", "training.html").render(
        title=f"{folder.parent.name} · {folder.name}",
        sums=_sums(records),
        groups=_groups(records),
        incidents=_incidents(records),
    )
    write_whole(folder / REPORT, page)
    return folder / REPORT


def _sums(records: Sequence[Record]) -> list[tuple[str, str]]:
    """What all steps come to."""
    seconds = [record["speed"]["seconds"] for record in records]
    tokens, total = sum(record["tokens"] for record in records), sum(seconds)
    vision, supervised = (sum(record[f"{kind}_tokens"] for record in records) for kind in ("vision", "supervised"))
    losses = [record["loss"] for record in records if record["loss"] is not None]
    last = losses[-max(1, len(losses) // 20) :]
    phases = {name: sum(record["speed"]["phases"][name] for record in records) for name in PHASES}
    shares = ", ".join(f"{name.replace('_', ' ')} {value / total:.1%}" for name, value in phases.items() if value)
    found = [
        ("steps", f"{records[0]['step'] + 1:,} to {records[-1]['step'] + 1:,}"),
        ("loss", f"{sum(last) / len(last):.4f}, mean of the last {len(last):,}" if last else "no data"),
        ("tokens", f"{tokens:,}: {tokens - vision:,} text, {vision:,} vision; {supervised:,} supervised"),
        ("time in steps", f"{total:,.1f} s, a step {median(seconds):.3f} s (median)"),
        ("of it", shares),
        ("tokens/s", f"{tokens / total:,.0f}"),
        ("fill of packed rows", f"{sum(record['fill'] for record in records) / len(records):.1%}"),
        ("largest memory", f"{max(record['speed']['memory_mb'] for record in records) / 1000:.2f} GB"),
    ]
    told = [record["speed"]["utilisation"] for record in records if record["speed"]["utilisation"]]
    if told:
        mfu, hfu, peak = (median(one[name] for one in told) for name in ("mfu", "hfu", "peak_tflops"))
        found.append(("MFU (median)", f"{mfu:.1%} of {peak:,.3g} TFLOP/s; {hfu:.1%} with what is computed again"))
    return found


def _groups(records: Sequence[Record]) -> list[Group]:
    losses, note = _by_name(records, "source_loss"), "running mean"
    if len(losses) > 1:
        losses = {"all": [record["loss"] for record in records], **losses}
        note = "of all and of each source, running mean"
    learning = [
        _lines("Loss", note, records, losses, smooth=True),
        _lines("Learning rate", "of each part", records, _by_name(records, "lr")),
        _lines("Gradient norm", "before clipping", records, {"norm": [record["grad_norm"] for record in records]}),
        *(
            _lines(name.replace("_", " "), "", records, {name: values}, smooth=True)
            for name, values in _by_name(records, "figures").items()
        ),
    ]
    of_speed: Callable[[str], list[float]] = lambda name: [record["speed"][name] for record in records]  # noqa: E731
    rates = {kind: of_speed(f"{kind}_tokens_per_second") for kind in ("text", "vision", "supervised")}
    phases = {name: [record["speed"]["phases"][name] for record in records] for name in PHASES}
    speed = [
        _layers("Time of a step", "seconds", records, {name: v for name, v in phases.items() if any(v)}),
        _lines("Tokens a second", "supervised ones are text, too", records, rates, smooth=True),
    ]
    told = [record["speed"]["utilisation"] for record in records]
    if any(told):
        names = dict.fromkeys(name for one in told if one for name in one["parts"])
        parts = {name: [one["parts"].get(name) if one else None for one in told] for name in names}
        again = [one["hfu"] - one["mfu"] if one else None for one in told]
        layers = {**parts, **({"computed again": again} if any(value and value > 1e-6 for value in again) else {})}
        speed.append(_layers("Share of the machine's peak", "MFU by part", records, layers, percent=True))
    fill = {"fill": [record["fill"] for record in records]}
    speed += [
        _lines("Fill of packed rows", "", records, fill, percent=True),
        _lines("Memory", "GB, the process at most", records, {"memory": [mb / 1000 for mb in of_speed("memory_mb")]}),
    ]
    return [
        Group(title="Learning", anchor="learning", charts=learning),
        Group(title="Speed", anchor="speed", charts=speed),
    ]


def _by_name(records: Sequence[Record], field: str) -> dict[str, list[float | None]]:
    """The values of a field that holds some by name, as a list for each name that occurs."""
    names = sorted({name for record in records for name in record[field]})
    return {name: [record[field].get(name) for record in records] for name in names}


def _curves(values: Mapping[str, Sequence[float | None]]) -> list[Curve]:
    return [
        Curve(name=name.replace("_", " "), style=f"c{number % COLOURS}", values=one)
        for number, (name, one) in enumerate(values.items())
    ]


def _lines(
    title: str,
    note: str,
    records: Sequence[Record],
    values: Mapping[str, Sequence[float | None]],
    *,
    smooth: bool = False,
    percent: bool = False,
) -> Chart:
    curves = _curves({name: smoothed(one) if smooth else one for name, one in values.items()})
    svg = lines_chart(title, [record["step"] for record in records], curves, percent=percent)
    return Chart(title=title, note=note, curves=curves, svg=Markup(svg))


def _layers(
    title: str,
    note: str,
    records: Sequence[Record],
    values: Mapping[str, Sequence[float | None]],
    *,
    percent: bool = False,
) -> Chart:
    curves = _curves(values)
    svg = layers_chart(title, [record["step"] for record in records], curves, percent=percent)
    return Chart(title=title, note=note, curves=curves, svg=Markup(svg))


def _incidents(records: Sequence[Record]) -> list[tuple[int, str]]:
    """What was wrong or odd, step by step."""
    found = []
    for record in records:
        if (incident := record["incident"]) is None:
            continue
        if incident["skipped"]:
            said = f"loss {incident['loss']} or gradient norm {incident['grad_norm']} was not finite: no update"
        else:
            said = f"the loss lay {incident['spike']:.1f} robust standard deviations above the last ones"
        found.append((record["step"], said))
    return found

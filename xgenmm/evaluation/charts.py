"""Small charts as inline SVG: marks and text only. Colours belong to the page's style sheet, figures to the caller."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, floor, log10

from xgenmm.evaluation.statistics import Figure

WIDTH, HEIGHT = 340, 196
LEFT, RIGHT, TOP, BOTTOM = 38, 64, 12, 24
LINE = 12
"""Height of a line of the charts' text: labels closer than this are pushed apart."""


@dataclass(frozen=True)
class Line:
    """A series over the stages: one figure per stage, None where nothing was measured."""

    name: str
    points: Sequence[Figure | None]
    style: str
    """Its class in the style sheet: `model` or `control`."""


@dataclass(frozen=True)
class Level:
    """A constant that the series is judged against, such as chance."""

    name: str
    value: float


def scale(value: float, bottom: float, top: float) -> float:
    """Height of a value in the drawing, in SVG units from the top edge.

    >>> scale(0.5, 0.0, 1.0) == (TOP + HEIGHT - BOTTOM) / 2
    True
    """
    return TOP + (HEIGHT - TOP - BOTTOM) * (top - value) / (top - bottom)


def ticks(bottom: float, top: float, count: int = 4) -> list[float]:
    """Round numbers that enclose a range: steps of 1, 2 or 5 times a power of ten.

    >>> ticks(2.1, 4.9)
    [2.0, 3.0, 4.0, 5.0]
    """
    raw = max(top - bottom, 1e-9) / count
    power = 10.0 ** floor(log10(raw))
    step = power * next((m for m in (1.0, 2.0, 5.0) if m * power >= raw), 10.0)
    first, last = floor(bottom / step + 1e-9), ceil(top / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def spread(heights: list[float]) -> list[float]:
    """Move labels apart until none lies closer than one line to the next; their order stays.

    >>> spread([50.0, 52.0])
    [45.0, 57.0]
    """
    moved = list(heights)
    order = sorted(range(len(moved)), key=lambda i: moved[i])
    for _ in order:  # pushing one pair apart may push a neighbour: as many rounds as labels settle all of them
        for above, below in pairwise(order):
            overlap = max(0.0, LINE - (moved[below] - moved[above]))
            moved[above] -= overlap / 2
            moved[below] += overlap / 2
    return moved


def stages_chart(
    title: str,
    stages: Sequence[str],
    lines: Sequence[Line],
    levels: Sequence[Level],
    show: Callable[[float], str],
    limits: tuple[float, float] | None = None,
    target: int | None = None,
) -> str:
    """Dots with interval bars over the stages.

    Args:
        title: What a screen reader says of the chart.
        stages: Short stage names, in order.
        lines: The model's series and its controls', each as long as `stages`.
        levels: Constants drawn across.
        show: Writes a value as text.
        limits: Fixed ends of the axis; else round numbers around the values.
        target: Index of the stage that trains for this metric; shaded.
    """
    values = [v for line in lines for p in line.points if p for v in (p.low, p.high)] + [v.value for v in levels]
    grid = ticks(*limits) if limits else ticks(min(values), max(values))
    bottom, top = grid[0], grid[-1]
    slot = (WIDTH - LEFT - RIGHT) / len(stages)
    xs = [LEFT + slot * (i + 0.5) for i in range(len(stages))]

    out = [_open(title)]
    if target is not None:
        out.append(
            f'<rect class="target" x="{xs[target] - slot / 2:.1f}" y="{TOP}" width="{slot:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>'
        )
    out += [_grid_line(tick, scale(tick, bottom, top), show(tick) if limits else f"{tick:g}") for tick in grid]
    for x, stage in zip(xs, stages, strict=True):
        out.append(f'<text class="axis" x="{x:.1f}" y="{HEIGHT - 7}" text-anchor="middle">{escape(stage)}</text>')
    for level in levels:
        y = scale(level.value, bottom, top)
        out.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')

    ends: list[tuple[float, str, str]] = [(scale(v.value, bottom, top), v.name, "level-name") for v in levels]
    for line in reversed(lines):  # the model's own line is drawn last, on top of its controls'
        drawn = [(x, p) for x, p in zip(xs, line.points, strict=True) if p]
        if not drawn:
            continue
        path = " ".join(f"{x:.1f},{scale(p.value, bottom, top):.1f}" for x, p in drawn)
        out.append(f'<g class="{line.style}"><polyline points="{path}"/>')
        for x, p in drawn:
            y = scale(p.value, bottom, top)
            low, high = scale(p.low, bottom, top), scale(p.high, bottom, top)
            out.append(f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
            note = f"{line.name}: {show(p.value)} ({show(p.low)} to {show(p.high)})"
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4"><title>{escape(note)}</title></circle>')
        out.append("</g>")
        ends.append((scale(drawn[-1][1].value, bottom, top), show(drawn[-1][1].value), f"{line.style}-name"))
    for y, (_, text, style) in zip(spread([end[0] for end in ends]), ends, strict=True):
        out.append(f'<text class="{style}" x="{WIDTH - RIGHT + 3}" y="{y + 3.5:.1f}">{escape(text)}</text>')
    return "".join(out) + "</svg>"


def loss_chart(title: str, losses: Sequence[tuple[int, float]]) -> str:
    """Loss of each (step, loss), thin, under its running mean, thick."""
    every = max(1, len(losses) // 240)  # more points than pixels only make the page heavy
    smooth = running_mean([loss for _, loss in losses], max(1, len(losses) // 20))
    first, last = losses[0][0], losses[-1][0]
    # A single step far above its neighbours leaves the drawing at the top.
    grid = ticks(min(loss for _, loss in losses), max(smooth))
    bottom, top = grid[0], grid[-1]

    def points(values: Sequence[tuple[int, float]]) -> str:
        xs = [LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / max(last - first, 1) for step, _ in values]
        ys = [scale(min(value, top), bottom, top) for _, value in values]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))

    means = [(step, mean) for (step, _), mean in zip(losses, smooth, strict=True)]
    out = [_open(title)]
    out += [_grid_line(tick, scale(tick, bottom, top), f"{tick:g}") for tick in grid]
    out.append(f'<polyline class="raw" points="{points(losses[::every])}"/>')
    out.append(f'<g class="model"><polyline points="{points(means[::every])}"/></g>')
    y = scale(smooth[-1], bottom, top)
    out.append(f'<text class="model-name" x="{WIDTH - RIGHT + 3}" y="{y + 3.5:.1f}">{smooth[-1]:.2f}</text>')
    out.append(f'<text class="axis" x="{LEFT}" y="{HEIGHT - 7}">step {first}</text>')
    out.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 7}" text-anchor="end">{last}</text>')
    return "".join(out) + "</svg>"


def gauge(title: str, figure: Figure, against: float | None, limits: tuple[float, float]) -> str:
    """One horizontal bar: where the value lies between two ends, its interval, and what it is held against."""
    low, high = limits

    def at(value: float) -> float:
        return 100 * (min(max(value, low), high) - low) / (high - low)

    out = [
        f'<svg class="gauge" viewBox="0 0 100 10" preserveAspectRatio="none" role="img"><title>{escape(title)}</title>',
        '<rect class="track" x="0" y="4" width="100" height="2"/>',
        f'<rect class="value" x="0" y="4" width="{at(figure.value):.1f}" height="2"/>',
        f'<rect class="range" x="{at(figure.low):.1f}" y="2.5" '
        f'width="{at(figure.high) - at(figure.low):.1f}" height="5"/>',
    ]
    if against is not None:
        out.append(f'<line class="against" x1="{at(against):.1f}" x2="{at(against):.1f}" y1="0" y2="10"/>')
    return "".join(out) + "</svg>"


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and up to `width - 1` before it.

    >>> running_mean([1.0, 3.0, 5.0], 2)
    [1.0, 2.0, 4.0]
    """
    means = []
    for i in range(len(values)):
        window = values[max(0, i - width + 1) : i + 1]
        means.append(sum(window) / len(window))
    return means


def _open(title: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>'


def _grid_line(tick: float, y: float, text: str) -> str:
    style = "grid zero" if tick == 0 else "grid"
    return (
        f'<line class="{style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{escape(text)}</text>'
    )

"""Charts of measured figures with their intervals, as inline SVG."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from xgenmm.evaluation.statistics import Figure
from xgenmm.pages.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, grid_line, open_chart, scale, spread, ticks


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

    out = [open_chart(title)]
    if target is not None:
        out.append(
            f'<rect class="target" x="{xs[target] - slot / 2:.1f}" y="{TOP}" width="{slot:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>'
        )
    out += [grid_line(tick, scale(tick, bottom, top), show(tick) if limits else f"{tick:g}") for tick in grid]
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

"""Charts of what changes over the steps of a run, as inline SVG: several lines, or shares stacked on each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from xgenmm.pages.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    grid_line,
    open_chart,
    running_mean,
    scale,
    short,
    spread,
    ticks,
)

POINTS = 240
"""More points than pixels only make a page heavy."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of a chart, or a layer of one."""

    name: str
    style: str
    """Class in the style sheet, which has its colour."""
    values: Sequence[float | None]
    """One for each step; None where the step has none."""


def thin(values: Sequence[float | None], points: int = POINTS) -> list[float | None]:
    """At most so many values, each the mean of as many neighbours; None where all of them are None.

    >>> thin([1.0, 3.0, None, 5.0, None, None], 3)
    [2.0, 5.0, None]
    """
    size = max(1, -(-len(values) // points))
    groups = [[value for value in values[i : i + size] if value is not None] for i in range(0, len(values), size)]
    return [sum(group) / len(group) if group else None for group in groups]


def smoothed(values: Sequence[float | None]) -> list[float | None]:
    """Running mean over a twentieth of the steps; None stays None."""
    known = [value for value in values if value is not None]
    means = iter(running_mean(known, max(1, len(known) // 20)))
    return [None if value is None else next(means) for value in values]


def lines_chart(title: str, steps: Sequence[int], curves: Sequence[Curve], *, percent: bool = False) -> str:
    """Lines over steps, each with its last value at its end; their names belong in a legend.

    Args:
        title: What a screen reader says of the chart.
        steps: At which the values were taken.
        curves: The lines; the first one is drawn on top.
        percent: Values are shares.
    """
    factor, unit = (100.0, " %") if percent else (1.0, "")
    found = [(curve, [None if v is None else factor * v for v in thin(curve.values)]) for curve in curves]
    known = [value for _, values in found for value in values if value is not None]
    grid = ticks(min([*known, 0.0] if percent or not known else known), max(known, default=1.0))
    bottom, top = grid[0], grid[-1]
    out = [open_chart(title), *(grid_line(tick, scale(tick, bottom, top), short(tick) + unit) for tick in grid)]
    ends = []
    for curve, values in reversed(found):
        points = [(x, scale(v, bottom, top)) for x, v in zip(_places(values), values, strict=True) if v is not None]
        if not points:
            continue
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<g class="{curve.style}"><polyline points="{line}"/></g>')
        last = next(v for v in reversed(values) if v is not None)
        ends.append((points[-1][1], short(last) + unit, curve.style))
    for y, (_, text, style) in zip(spread([end[0] for end in ends]), ends, strict=True):
        out.append(f'<text class="{style} name" x="{WIDTH - RIGHT + 3}" y="{y + 3.5:.1f}">{escape(text)}</text>')
    return "".join([*out, *_axis(steps)]) + "</svg>"


def layers_chart(title: str, steps: Sequence[int], layers: Sequence[Curve], *, percent: bool = False) -> str:
    """Amounts over steps, stacked: what they add up to, and how much of it is whose.

    Args:
        title: What a screen reader says of the chart.
        steps: At which the amounts were taken.
        layers: From below.
        percent: Amounts are shares.
    """
    factor, unit = (100.0, " %") if percent else (1.0, "")
    found = [(layer, [factor * (v or 0.0) for v in thin(layer.values)]) for layer in layers]
    sums = [sum(column) for column in zip(*(values for _, values in found), strict=True)]
    grid = ticks(0.0, max(sums, default=0.0) or 1.0)
    top = grid[-1]
    out = [open_chart(title), *(grid_line(tick, scale(tick, 0.0, top), short(tick) + unit) for tick in grid)]
    below = [0.0] * len(sums)
    xs = _places(sums)
    for layer, values in found:
        above = [low + value for low, value in zip(below, values, strict=True)]
        there = [f"{x:.1f},{scale(y, 0.0, top):.1f}" for x, y in zip(xs, above, strict=True)]
        back = [f"{x:.1f},{scale(y, 0.0, top):.1f}" for x, y in zip(reversed(xs), reversed(below), strict=True)]
        note = f"<title>{escape(layer.name)}</title>"
        out.append(f'<polygon class="layer {layer.style}" points="{" ".join(there + back)}">{note}</polygon>')
        below = above
    return "".join([*out, *_axis(steps)]) + "</svg>"


def _places(values: Sequence[float | None]) -> list[float]:
    return [LEFT + (WIDTH - LEFT - RIGHT) * number / max(len(values) - 1, 1) for number in range(len(values))]


def _axis(steps: Sequence[int]) -> list[str]:
    y = HEIGHT - BOTTOM + 17
    return [
        f'<text class="axis" x="{LEFT}" y="{y}">step {steps[0]}</text>',
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{y}" text-anchor="end">{steps[-1]}</text>',
    ]

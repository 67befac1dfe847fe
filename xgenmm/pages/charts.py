"""Small charts as inline SVG: marks and text only. Colours belong to the style sheet, figures to the caller."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from math import ceil, floor, log10

WIDTH, HEIGHT = 340, 196
LEFT, RIGHT, TOP, BOTTOM = 38, 64, 12, 24
LINE = 12
"""Height of a line of the charts' text: labels closer than this are pushed apart."""


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
    # What hardly changes is a level line: with an axis of its last digits, all numbers beside it would look the same.
    raw = max(top - bottom, 0.04 * max(abs(bottom), abs(top)), 1e-9) / count
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
    out = [open_chart(title)]
    out += [grid_line(tick, scale(tick, bottom, top), f"{tick:g}") for tick in grid]
    out.append(f'<polyline class="raw" points="{points(losses[::every])}"/>')
    out.append(f'<g class="model"><polyline points="{points(means[::every])}"/></g>')
    y = scale(smooth[-1], bottom, top)
    out.append(f'<text class="model-name" x="{WIDTH - RIGHT + 3}" y="{y + 3.5:.1f}">{smooth[-1]:.2f}</text>')
    out.append(f'<text class="axis" x="{LEFT}" y="{HEIGHT - 7}">step {first}</text>')
    out.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 7}" text-anchor="end">{last}</text>')
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


def open_chart(title: str) -> str:
    """The beginning of a chart; the title is what a screen reader says of it."""
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>'


def grid_line(tick: float, y: float, text: str) -> str:
    """A horizontal line with its value beside it."""
    style = "grid zero" if tick == 0 else "grid"
    return (
        f'<line class="{style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{escape(text)}</text>'
    )


def share_chart(
    title: str, steps: Sequence[int], series: Sequence[tuple[str, str, Sequence[float]]], levels: Sequence[float]
) -> str:
    """Shares over the steps of a run, in per cent, each named at its end.

    Args:
        title: What a screen reader says of the chart.
        steps: At which the shares were taken.
        series: Name, class in the style sheet, and a share for each step.
        levels: For each step the share that was wanted; drawn dashed.
    """
    values = [100 * value for _, _, shares in series for value in shares] + [100 * value for value in levels]
    grid = ticks(0.0, max(values, default=0.0) or 1.0)
    bottom, top = grid[0], grid[-1]
    first, last = steps[0], steps[-1]
    xs = [LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / max(last - first, 1) for step in steps]

    def points(shares: Sequence[float]) -> str:
        return " ".join(f"{x:.1f},{scale(100 * y, bottom, top):.1f}" for x, y in zip(xs, shares, strict=True))

    out = [open_chart(title)]
    out += [grid_line(tick, scale(tick, bottom, top), f"{tick:g} %") for tick in grid]
    out.append(f'<polyline class="level" points="{points(levels)}"/>')
    ends = []
    for name, style, shares in series:
        out.append(f'<g class="{style}"><polyline points="{points(shares)}"/></g>')
        ends.append((scale(100 * shares[-1], bottom, top), name, style))
    for y, (_, name, style) in zip(spread([end[0] for end in ends]), ends, strict=True):
        out.append(f'<text class="{style}-name" x="{WIDTH - RIGHT + 3}" y="{y + 3.5:.1f}">{escape(name)}</text>')
    out.append(f'<text class="axis" x="{LEFT}" y="{HEIGHT - 7}">step {first}</text>')
    out.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 7}" text-anchor="end">{last}</text>')
    return "".join(out) + "</svg>"


def histogram(title: str, counts: Sequence[int], borders: Sequence[str]) -> str:
    """Counts of classes as bars; the classes' borders stand below, as many as there is room for.

    Args:
        title: What a screen reader says of the chart.
        counts: Of each class.
        borders: One more than classes.
    """
    grid = ticks(0.0, float(max(counts, default=0) or 1))
    bottom, top = grid[0], grid[-1]
    slot = (WIDTH - LEFT - RIGHT / 4) / max(len(counts), 1)
    every = max(1, -(-len(borders) // 9))
    out = [open_chart(title)]
    out += [grid_line(tick, scale(tick, bottom, top), short(tick)) for tick in grid]
    for number, count in enumerate(counts):
        y = scale(float(count), bottom, top)
        note = f"{borders[number]} to {borders[number + 1]}: {count:,}"
        out.append(
            f'<rect class="column" x="{LEFT + slot * number + 1:.1f}" y="{y:.1f}" width="{slot - 2:.1f}" '
            f'height="{scale(0.0, bottom, top) - y:.1f}"><title>{escape(note)}</title></rect>'
        )
    for number in range(0, len(borders), every):
        x = LEFT + slot * number
        out.append(
            f'<text class="axis" x="{x:.1f}" y="{HEIGHT - 7}" text-anchor="middle">{escape(borders[number])}</text>'
        )
    return "".join(out) + "</svg>"


def short(value: float) -> str:
    """A number in few letters.

    >>> short(12_000.0), short(2_500_000.0), short(7.0), short(0.000025), short(1234.5), short(3.14159)
    ('12k', '2.5M', '7', '2.5e-05', '1.23k', '3.14')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"

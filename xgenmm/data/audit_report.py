"""A stage's audit as a table for the terminal, and all stages' as `data_report.html`: one file, no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from xgenmm.data.audit import Segment, SourceAudit, StageAudit
from xgenmm.files import write_whole
from xgenmm.pages.charts import histogram, share_chart
from xgenmm.pages.templates import page_template

COLOURS = 12
"""Colours that the style sheet has for sources."""
UNITS = (("samples", "model"), ("tokens", "second"), ("loss_tokens", "third"))
"""Units of shares, and their classes in the style sheet."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its title."""

    title: str
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A segment of a packed row as it is drawn: in shares of the row, from the left."""

    segment: Segment
    colour: int
    left: float
    width: float
    vision: float
    loss: float


def audit_text(stage: StageAudit) -> str:
    """A stage's audit for the terminal."""
    of = "" if stage.of_steps in (None, stage.steps) else f" of {stage.of_steps:,}"
    lines = [f"{stage.name}: {stage.steps:,} steps{of} planned, the mixture in {_words(stage.unit)}", ""]
    lines += aligned([_HOLDS, *(_holds(source) for source in stage.sources)])
    lines += [
        f"  {source.name}: dropped {reasons_text(source.quarantined)}" for source in stage.sources if source.quarantined
    ]
    lines += ["", *aligned([_GIVES, *(_gives(source) for source in stage.sources)]), ""]
    if stage.rows is not None and stage.rows.rows:
        rows = stage.rows
        lines.append(
            f"packing: {rows.rows:,} rows of at most {stage.capacity:,} tokens, {100 * stage.fill:.2f} % full, "
            f"{rows.documents / rows.rows:.1f} documents and {rows.tiles / rows.rows:.1f} tiles a row"
        )
        if rows.tile_bound > rows.rows / 2:
            lines.append("most rows are full of tiles before they are full of tokens: raise batch.tiles")
    lines += [
        f"longest sample of {source.name}: {source.longest:,} tokens, {source.longest_id}"
        for source in stage.sources
        if source.longest
    ]
    return "\n".join(lines + [f"NOT USABLE: {fault}" for fault in stage.faults])


_HOLDS = ("source", "records", "dropped", "usable", "supervised")
_GIVES = (
    *("source", "samples", "text tokens", "vision tokens", "loss tokens", "cut", "epochs"),
    *("target", "samples", "tokens", "loss tokens"),
)


def _holds(source: SourceAudit) -> tuple[str, ...]:
    dropped = sum(source.quarantined.values())
    return (
        source.name,
        f"{source.records:,}",
        f"{dropped:,}",
        f"{source.usable:,}",
        f"{100 * source.supervised_share:.1f} %",
    )


def _gives(source: SourceAudit) -> tuple[str, ...]:
    numbers = (source.samples, source.text_tokens, source.vision_tokens, source.loss_tokens, source.cut)
    shares = (source.target, *(source.shares[unit] for unit, _ in UNITS))
    return (
        source.name,
        *(f"{number:,}" for number in numbers),
        f"{source.epochs:.2f}",
        *(f"{100 * share:.2f} %" for share in shares),
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, figures to the right.

    >>> aligned([["source", "rows"], ["a", "12"]])
    ['source  rows', 'a         12']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [
            first.ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def write_data_report(path: Path, title: str, stages: Sequence[StageAudit]) -> None:
    """Write the page.

    Args:
        path: Where to; its folder is made.
        title: The recipe's name.
        stages: In order.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = {source: number % COLOURS for number, source in enumerate(_names(stages))}
    page = page_template("xgenmm.data", "data_report.html").render(
        title=title,
        stages=[(stage, _tables(stage), _charts(stage), _rows(stage, colours)) for stage in stages],
        holds=_HOLDS[1:],
        gives=_GIVES[1:],
        words=_words,
        colours=colours,
    )
    write_whole(path, page)


def _names(stages: Sequence[StageAudit]) -> list[str]:
    return list(dict.fromkeys(source.name for stage in stages for source in stage.sources))


def _tables(stage: StageAudit) -> list[tuple[SourceAudit, tuple[str, ...], tuple[str, ...], str]]:
    return [
        (source, _holds(source)[1:], _gives(source)[1:], reasons_text(source.quarantined)) for source in stage.sources
    ]


def _charts(stage: StageAudit) -> dict[str, list[Chart]]:
    shares, lengths = [], []
    for source in stage.sources:
        if len(stage.seen_at) > 1:
            series = [(_words(unit), style, stage.shares[source.name][unit]) for unit, style in UNITS]
            svg = share_chart(f"Share of {source.name}", stage.seen_at, series, stage.targets[source.name])
            shares.append(Chart(title=source.name, svg=Markup(svg)))
        if source.samples:
            lengths.append(Chart(title=source.name, svg=Markup(_length_chart(source))))
    fills = []
    if stage.rows is not None and stage.rows.rows:
        counts = stage.rows.fills
        borders = [f"{100 * number / len(counts):.0f} %" for number in range(len(counts) + 1)]
        fills = [Chart(title="Rows by fill", svg=Markup(histogram("Rows by fill", counts, borders)))]
    return {"shares": shares, "fills": fills, "lengths": lengths}


def _length_chart(source: SourceAudit) -> str:
    """From the first class with a sample to the last one."""
    used = [number for number, count in enumerate(source.lengths) if count]
    first, stop = used[0], used[-1] + 1
    borders = [str(2 ** max(number - 1, 0)) for number in range(first, stop + 1)]
    return histogram(f"Samples of {source.name} by tokens", source.lengths[first:stop], borders)


def _rows(stage: StageAudit, colours: Mapping[str, int]) -> list[list[Drawn]]:
    drawn = []
    width = max((sum(segment.tokens for segment in row) for row in stage.examples), default=0)
    capacity = max(stage.capacity, width, 1)
    for row in stage.examples:
        left, segments = 0, []
        for segment in row:
            segments.append(
                Drawn(
                    segment=segment,
                    colour=colours[segment.source],
                    left=1000 * left / capacity,
                    width=1000 * segment.tokens / capacity,
                    vision=1000 * segment.vision_tokens / capacity,
                    loss=1000 * segment.loss_tokens / capacity,
                )
            )
            left += segment.tokens
        drawn.append(segments)
    return drawn


def reasons_text(reasons: Mapping[str, int]) -> str:
    """Reasons with their numbers, the most frequent first.

    >>> reasons_text({"text_empty": 1, "no_image": 2})
    '2 no_image, 1 text_empty'
    """
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {reason}" for reason, number in ordered)


def _words(unit: str) -> str:
    return unit.replace("_", " ")

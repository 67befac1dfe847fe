"""A plan as text: tables that fit a terminal. No arithmetic but sums and shares."""

from collections.abc import Iterable, Sequence

from xgenmm.budget.growth import (
    CORES,
    DISK,
    GPU_HOURS_BETWEEN_FAILURES,
    HOURS,
    HOURS_BETWEEN_SAVES,
    HOURS_TO_RESTART,
    TILE_SECONDS,
    Grown,
    Limit,
)
from xgenmm.budget.plan import Fleet, StagePlan
from xgenmm.budget.view import RecipeView
from xgenmm.costs.gpus import Gpu
from xgenmm.costs.shapes import Amount

NAMES = {
    "vision": "vision encoder",
    "resampler": "resampler",
    "linear": "language model, matrices",
    "attention": "language model, attention",
    "head": "head, loss",
    "lora": "LoRA adapters",
    "reference": "reference answers",
}
SHARES = (1.0, 0.5, 0.4)
"""Utilisations for which hours are shown beside the assumed one."""


def render(recipe: RecipeView, notes: Sequence[str], stages: Sequence[StagePlan], larger: Sequence[Grown]) -> str:
    """All of a plan."""
    device = recipe.device
    lines = [f"{recipe.name}: what it will take, by arithmetic", ""]
    lines += _assumptions(recipe, device, notes, stages)
    for stage in stages:
        lines += ["", f"stage {stage.name}", "=" * (6 + len(stage.name)), ""]
        lines += [*_parameters(stage), "", *_step(stage), "", *_operations(stage), "", *_hours(recipe, stage, device)]
        lines += ["", *_fleets(stage, device)]
        shown = stage.chosen or min(stage.fleets, key=lambda fleet: fleet.memory.sum)
        lines += ["", *_memory(shown, device, recipe.plan.reserve)]
    lines += ["", *_growth(larger, device)]
    return "\n".join(lines)


def _assumptions(recipe: RecipeView, device: Gpu, notes: Sequence[str], stages: Sequence[StagePlan]) -> list[str]:
    settings = recipe.plan
    lines = ["Assumed (give plan.NAME=VALUE to change it):"]
    assumed = [stage.name for stage in stages if stage.drawn is None]
    if assumed:
        where = "" if len(assumed) == len(stages) else f" in {', '.join(assumed)}, whose data nobody has indexed"
        lines += [
            f"  documents of {settings.document_tokens:,} tokens, {settings.vision_share:.0%} of them vision tokens, "
            f"{settings.supervised_share:.0%} of the text supervised (document_tokens, vision_share, supervised_share)"
            f"{where}",
            f"  packed rows filled to {settings.fill:.0%} (fill)",
        ]
    lines += [
        f"  {device.name}: {device.tflops:,g} TFLOP/s in {recipe.computes_in}, {device.memory:g} GB less "
        f"{settings.reserve:g} GB for others, {device.link:g} GB/s to its {device.per_machine - 1} neighbours, "
        f"{device.network:g} GB/s beyond",
        f"  {100 * settings.mfu:.3g}% of that speed while nobody waits (mfu), ${device.price:g} an hour a GPU (price)",
    ]
    return [*lines, *(f"Note: {note}" for note in notes)]


def _parameters(stage: StagePlan) -> list[str]:
    rows = {part: (c.trained, c.frozen, c.trained + c.frozen) for part, c in stage.counts.items()}
    total = tuple(sum(column) for column in zip(*rows.values(), strict=True))
    body = [(name, *(f"{number:,}" for number in numbers)) for name, numbers in {**rows, "total": total}.items()]
    return table(("parameters", "train", "frozen", "all"), body)


def _step(stage: StagePlan) -> list[str]:
    work, step = stage.step.work, stage.step
    whole = "" if stage.steps is None else f"; {stage.steps:,} steps are {_big(work.tokens * stage.steps)} tokens"
    lines = [
        f"A step: {step.rows:,} packed rows, {work.tokens:,.0f} tokens in documents of {stage.documents.tokens:,.0f}, "
        f"{work.tiles:,.0f} tiles, {work.targets:,.0f} supervised{whole}."
    ]
    if (drawn := stage.drawn) is not None:
        of = "" if drawn.of_steps in (None, drawn.steps) else f" of {drawn.of_steps:,}"
        lines.append(
            f"From the data's index: {drawn.steps:,} planned steps{of}, {drawn.documents:,} documents, rows filled to "
            f"{drawn.fill:.1%}; at most {drawn.largest.tiles:,} tiles in a row."
        )
    return lines


def _operations(stage: StagePlan) -> list[str]:
    parts = {name: (p.forward, p.backward, p.again) for name, p in stage.flops.parts.items()}
    if stage.reference:
        parts["reference"] = (stage.reference, 0.0, 0.0)
    sums = tuple(sum(values) for values in zip(*parts.values(), strict=True))
    size, prefix = _prefix(sum(sums))
    size_each, prefix_each = _prefix(sum(sums) / stage.step.work.tokens)
    body = []
    for name, passes in {**parts, "total": sums}.items():
        each = sum(passes) / stage.step.work.tokens / size_each
        share = sum(passes) / stage.performed
        body.append((NAMES.get(name, name), *(f"{p / size:,.1f}" for p in passes), f"{share:.1%}", f"{each:,.2f}"))
    head = (f"{prefix}FLOP of a step", "forward", "backward", "again", "share", f"{prefix_each}FLOP a token")
    return table(head, body)


def _hours(recipe: RecipeView, stage: StagePlan, device: Gpu) -> list[str]:
    shares = sorted({*SHARES, recipe.plan.mfu}, reverse=True)
    amounts = {"100 B tokens": 1e11 / stage.step.work.tokens}
    if stage.steps is not None:
        amounts = {"the stage": float(stage.steps), **amounts}
    body = []
    for name, steps in amounts.items():
        operations = stage.performed * steps + (stage.before if name == "the stage" else 0.0)
        hours = (operations / (device.tflops * 1e12 * share) / 3600 for share in shares)
        body.append((name, f"{operations:.3g}", *map(_round, hours)))
    lines = table((f"{device.name}-hours at", "FLOP", *(f"{100 * share:.3g}%" for share in shares)), body)
    if stage.before:
        once = stage.before / (device.tflops * 1e12 * recipe.plan.mfu) / 3600
        lines.append(f"Of these, {_round(once)} are the reference's answers, written down before the first step.")
    if stage.steps is None:
        lines.append("How many steps the stage has depends on data that is not there or not indexed: xgenmm data index")
    return lines


def _fleets(stage: StagePlan, device: Gpu) -> list[str]:
    size, prefix = _prefix(max(fleet.memory.sum for fleet in stage.fleets), largest=1e9)
    body = [
        (
            f"{'>' if fleet is stage.chosen else ' '} {fleet.world}",
            "all everywhere" if not fleet.mesh.splits else f"{fleet.mesh.replicas} x {fleet.mesh.shards}",
            str(fleet.passes),
            f"{fleet.memory.sum / size:,.1f}",
            "yes" if fleet.fits else "no",
            f"{fleet.traffic.sum / 1e9:.1f}",
            f"{fleet.compute:.3g}",
            f"{fleet.waiting:.3g}",
            "?" if fleet.hours is None else _round(fleet.hours),
            "?" if fleet.dollars is None else f"{fleet.dollars:,.0f}",
        )
        for fleet in stage.fleets
    ]
    head = (
        "GPUs",
        "copies x shards",
        "passes",
        f"{prefix}B",
        "fits",
        "GB sent",
        "s computing",
        "s waiting",
        "hours",
        "$",
    )
    return [*table(head, body), *_verdict(stage, device)]


def _verdict(stage: StagePlan, device: Gpu) -> list[str]:
    """How few GPUs do, and what each of them must be fed with."""
    found = [f"{number} {how}" for how, number in stage.smallest.items() if number is not None]
    if not found:
        # Live answers of a model that trains as a whole come from a copy, which one GPU must hold beside it.
        copied = stage.reference and True in (stage.trained.vision, stage.trained.resampler, stage.trained.language)
        first = "objective.reference=cached or LoRA adapters only" if copied else "parallel.offload=true"
        advice = f"{first}, shorter rows (batch.tokens), fewer of them at once (batch.micro)"
        return [f"No number of {device.name} that was looked at fits. What helps: {advice}."]
    lines = [f"Smallest number of {device.name} that fits: {'; '.join(found)}."]
    if stage.chosen is not None:
        work, seconds = stage.step.work, (stage.chosen.compute + stage.chosen.waiting) * stage.chosen.world
        rates = f"{work.tokens / seconds:,.0f} tokens and {work.tiles / seconds:,.1f} tiles a second"
        lines.append(f"Each of {stage.chosen.world} then goes through {rates}: what the loader must deliver.")
    return lines


def _memory(fleet: Fleet, device: Gpu, reserve: Amount) -> list[str]:
    names = {"copies": "weights in use", "vision": "kept: vision", "resampler": "kept: resampler"}
    names |= {"language": "kept: language model", "head": "kept: head, loss"}
    kinds = {names.get(name, name): value for name, value in vars(fleet.memory).items()}
    size, prefix = _prefix(fleet.memory.sum, largest=1e9)
    body = [(name, f"{value / size:,.2f}") for name, value in {**kinds, "sum": fleet.memory.sum}.items()]
    left = device.memory - reserve - fleet.memory.sum / 1e9
    said = f"{left:.1f} GB to spare" if left >= 0 else f"{-left:.1f} GB too much"
    return [*table((f"{prefix}B of a GPU, of {fleet.world}", ""), body), f"{said} of {device.memory:g} GB."]


def _growth(larger: Sequence[Grown], device: Gpu) -> list[str]:
    """What is needed of each thing, and of how much, as the stage grows; what there is too little of is marked."""

    def cell(limit: Limit) -> str:
        mark = "! " if limit.load > 1 else ""
        return f"{mark}{_few(limit.needed)} of {_few(limit.there)} {limit.unit}".rstrip()

    rows = [
        (limit.name, *(cell(one.limits[number]) for one in larger)) for number, limit in enumerate(larger[0].limits)
    ]
    facts = [
        ("tokens", *(_big(one.tokens) for one in larger)),
        ("parameters", *(_big(one.parameters) for one in larger)),
        (f"{device.name} for {HOURS / 24:g} days", *(f"{one.gpus:,}" for one in larger)),
    ]
    title = "What breaks first"
    lines = [title, "=" * len(title), "", *table(("", *(one.name for one in larger)), [*facts, *rows])]
    for one in larger:
        broken = ", then ".join(f"{limit.name} ({_few(limit.load)} times what there is)" for limit in one.broken)
        lines.append(f"{one.name}: {broken or 'nothing breaks'}.")
    lines += [
        f"Taken: {CORES} cores beside a GPU, {1000 * TILE_SECONDS:g} ms of a core a tile, {DISK:g} GB/s a machine to "
        "the disk,",
        f"a checkpoint every {60 * HOURS_BETWEEN_SAVES:g} minutes, {60 * HOURS_TO_RESTART:g} minutes to start again, a "
        f"failure in {GPU_HOURS_BETWEEN_FAILURES:,.0f} GPU-hours.",
    ]
    return lines


def _few(number: Amount) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Columns under a head: the first one to the left, figures to the right."""
    rows = [tuple(head), *map(tuple, body)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths, strict=True)] for row in rows)
    ]
    return [lines[0].rstrip(), "-" * (sum(widths) + 2 * (len(widths) - 1)), *(line.rstrip() for line in lines[1:])]


def _round(hours: Amount) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _big(number: Amount) -> str:
    size, prefix = _prefix(number)
    return f"{number / size:,.3g} {prefix}".rstrip().replace("G", "B")


def _prefix(number: Amount, largest: Amount = 1e12) -> tuple[Amount, str]:
    """A unit in which a number is neither long nor 0."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size and size <= largest:
            return size, prefix
    return 1.0, ""

"""A stage in figures: what one step is, what it costs, and what that means on so many GPUs. Arithmetic only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from xgenmm.budget.settings import PlanConfig
from xgenmm.budget.view import DpoView, RecipeView, StageView
from xgenmm.config import ConfigError
from xgenmm.costs.flops import Flops, Trained, Work, step_flops
from xgenmm.costs.gpus import Gpu
from xgenmm.costs.memory import Count, Memory, counts, split_parameters, step_memory
from xgenmm.costs.shapes import Amount, ModelShape
from xgenmm.costs.sharding import Mesh, ParallelConfig, Recompute, Traffic, mesh_of, traffic

MOST = 512
"""GPUs that a plan looks at."""


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Means over a stage's documents."""

    tokens: Amount
    tiles: Amount
    targets: Amount
    pairs: Amount
    indexed: bool = False
    """Measured, and not assumed."""

    def work(self, number: Amount) -> Work:
        """So many documents."""
        return Work(
            tiles=self.tiles * number,
            tokens=self.tokens * number,
            pairs=self.pairs * number,
            targets=self.targets * number,
        )


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """What one optimizer step holds, over all GPUs."""

    work: Work
    rows: int
    """Packed rows."""
    micro: int
    """Of these, how many go through the model at once."""
    largest: Work
    """Of the forward pass that holds most."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The first steps of a stage as they are planned from its data's index."""

    steps: int
    """So many of them were looked at."""
    of_steps: int | None
    """So many the stage has; None: nobody has counted."""
    documents: int
    rows: int
    work: Work
    """Of all of them together."""
    largest: Work
    """Most of each in one row."""
    fill: float
    """Share of the rows' positions that hold a token."""

    def means(self) -> Documents:
        """Over their documents."""
        each = {name: value / self.documents for name, value in vars(self.work).items()}
        return Documents(**each, indexed=True)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A stage on a number of GPUs."""

    mesh: Mesh
    passes: int
    """Forward passes of a GPU in a step."""
    memory: Memory
    fits: bool
    traffic: Traffic
    compute: Amount
    """Seconds of a step in which a GPU computes."""
    sending: Amount
    """Seconds of a step in which the network is busy."""
    waiting: Amount
    """Seconds of a step that the network needs beyond that: what a pass's collectives take longer than its work."""
    hours: Amount | None
    """Of the whole stage; None where the number of steps is not known."""
    dollars: Amount | None

    @property
    def world(self) -> int:
        """Number of GPUs."""
        return self.mesh.world


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Everything about a stage."""

    name: str
    steps: int | None
    trained: Trained
    counts: dict[str, Count]
    documents: Documents
    drawn: Drawn | None
    """None: nobody has indexed the data, so the documents are assumed."""
    step: StepSize
    flops: Flops
    """Of a step, over all GPUs."""
    reference: Amount
    """Operations of a step for a second opinion: what a preference objective compares with."""
    before: Amount
    """Operations before the first step: a reference's answers that are written down, once for every pair."""
    fleets: tuple[Fleet, ...]
    smallest: dict[str, int | None]
    """Smallest number of GPUs that fits, as the recipe is and with more computed again."""
    chosen: Fleet | None
    """The number of GPUs that was asked for, or the smallest that fits."""

    @property
    def useful(self) -> Amount:
        """Operations of a step that count for utilisation."""
        return self.flops.sum.useful + self.reference

    @property
    def performed(self) -> Amount:
        """Operations of a step that are made."""
        return self.flops.sum.total + self.reference


def plan_stage(recipe: RecipeView, stage: StageView, shape: ModelShape, drawn: Drawn | None = None) -> StagePlan:
    """Work out a stage.

    Args:
        recipe: The recipe.
        stage: Its stage.
        shape: The model.
        drawn: What its data's index says of its steps; without it, documents are as the settings assume them.

    Raises:
        ConfigError: The plan's settings name no GPU, or the strategy does not fit the number of GPUs.
    """
    objective = stage.objective_view()
    preferences = isinstance(objective, DpoView)
    trained = Trained(
        **vars(stage.train), rank=stage.lora.rank, recompute=recipe.parallel.recompute, by_position=preferences
    )
    length = row_length(recipe, stage)
    documents = assumed_documents(recipe.plan, shape.resampler.latents, length) if drawn is None else drawn.means()
    step = step_size(recipe, stage, documents, drawn)
    steps = number_of_steps(stage, step, documents) if drawn is None else drawn.of_steps
    flops = step_flops(shape, step.work, trained)
    asked = 0.0  # what it takes to ask the reference about a step's pairs; its adapters are off, if it has any
    if isinstance(objective, DpoView):
        asked = float(sum(passes.forward for name, passes in flops.parts.items() if name != "lora"))
    compares = isinstance(objective, DpoView) and objective.reference == "live"
    draft = StagePlan(
        name=stage.name,
        steps=steps,
        trained=trained,
        counts=counts(shape, trained),
        documents=documents,
        drawn=drawn,
        step=step,
        flops=flops,
        reference=asked if compares else 0.0,
        before=0.0 if compares else asked * steps_of_an_epoch(stage, step, documents, steps),
        fleets=(),
        smallest={},
        chosen=None,
    )
    wanted, worlds = recipe.plan.gpus, numbers_of_gpus(step.rows, recipe.device.per_machine)
    if wanted is not None and wanted > step.rows:
        raise ConfigError(f"plan.gpus: {wanted} GPUs, but a step of {stage.name} has only {step.rows} rows")
    if compares and stage.trains_whole:
        if wanted not in (None, 1) or recipe.parallel.offload:
            raise ConfigError(f"recipe.stages.{stage.name}.objective.reference: {NO_COPY}")
        worlds = worlds[:1]

    def fleets(parallel: ParallelConfig) -> dict[int, Fleet]:
        spread = replace(recipe, parallel=parallel)
        return {world: plan_fleet(spread, stage, shape, draft, world) for world in {*worlds, wanted or 1}}

    found = fleets(recipe.parallel)
    smallest = {"as it is": _smallest(found)}
    kinds: tuple[Recompute, ...] = ("selective", "full")
    for kind in kinds:
        again: dict[str, Recompute] = {**recipe.parallel.recompute, "language": kind, "resampler": kind}
        if again != recipe.parallel.recompute:
            smallest[f"with parallel.recompute {kind}"] = _smallest(fleets(replace(recipe.parallel, recompute=again)))
    number = wanted or smallest["as it is"]
    # Of all that were looked at, one for every doubling stands in the table, beside those that matter.
    shown = {*doublings(recipe.device.per_machine), number}
    return replace(
        draft,
        fleets=tuple(fleet for world, fleet in sorted(found.items()) if world in shown),
        smallest=smallest,
        chosen=None if number is None else found[number],
    )


NO_COPY = (
    "processes of torchrun share the weights and keep no copy of them as they were; "
    "set cached, or train LoRA adapters only"
)
"""Why they cannot compare with live answers of a model that trains as a whole."""


def numbers_of_gpus(rows: int, per_machine: int) -> list[int]:
    """Those that can be had, and can be given a row each: any number of one machine's, then whole machines.

    >>> numbers_of_gpus(20, 6)
    [1, 2, 3, 4, 5, 6, 12, 18]
    """
    every = [*range(1, per_machine), *range(per_machine, MOST + 1, per_machine)]
    return [number for number in every if number <= min(rows, MOST)]


def doublings(per_machine: int) -> set[int]:
    """Twice as many each time, up to a machine's and from there.

    >>> sorted(doublings(6))
    [1, 2, 4, 6, 12, 24, 48, 96, 192, 384]
    """
    few = {2**power for power in range(per_machine.bit_length()) if 2**power < per_machine}
    return few | {per_machine * 2**power for power in range(10) if per_machine * 2**power <= MOST}


def _smallest(fleets: Mapping[int, Fleet]) -> int | None:
    return min((world for world, fleet in fleets.items() if fleet.fits), default=None)


def plan_fleet(recipe: RecipeView, stage: StageView, shape: ModelShape, plan: StagePlan, world: int) -> Fleet:
    """A stage on so many GPUs. A step takes as long as the one that has most rows."""
    parallel, device = recipe.parallel, recipe.device
    mesh = mesh_of(parallel, world, device.per_machine)
    rows = math.ceil(plan.step.rows / world)
    micro = min(plan.step.micro, rows)
    passes = math.ceil(rows / micro)
    memory = step_memory(
        shape,
        replace(plan.trained, recompute=parallel.recompute),
        plan.step.largest.times(micro / plan.step.micro),
        parallel=parallel,
        mesh=mesh,
        precision=recipe.computes_in,
        several=passes > 1,
        average=stage.optim.ema is not None,
        copied=bool(plan.reference) and stage.trains_whole,
    )
    learns = sum(count.trained for count in plan.counts.values())
    sent = traffic(
        parallel,
        mesh,
        split=split_parameters(shape, plan.trained),
        trained=learns,
        passes=passes,
        weight_bytes=4 if recipe.computes_in == "float32" else 2,
        compares=bool(plan.reference),
    )
    speed = device.tflops * 1e12 * recipe.plan.mfu
    compute = plan.performed * rows / plan.step.rows / speed
    sending = _seconds(sent, mesh, device)
    waiting = max(0.0, sending - compute)
    hours = None if plan.steps is None else (plan.steps * (compute + waiting) + plan.before / world / speed) / 3600
    return Fleet(
        mesh=mesh,
        passes=passes,
        memory=memory,
        fits=memory.sum / 1e9 + recipe.plan.reserve <= device.memory,
        traffic=sent,
        compute=compute,
        sending=sending,
        waiting=waiting,
        hours=hours,
        dollars=None if hours is None else hours * world * device.price,
    )


def row_length(recipe: RecipeView, stage: StageView) -> int:
    """Positions of a packed row.

    Raises:
        ConfigError: Nothing says it.
    """
    length = stage.batch.tokens or stage.processor.max_tokens or recipe.processor.max_tokens
    if length is None:
        raise ConfigError(
            f"recipe.stages.{stage.name}.batch.tokens: nothing says how long a row is; set it, or processor.max_tokens"
        )
    return length


def step_size(recipe: RecipeView, stage: StageView, documents: Documents, drawn: Drawn | None) -> StepSize:
    """What a step holds: what was drawn; or so many samples, or so many rows as full as packing makes them."""
    batch = stage.batch
    if drawn is not None:
        rows = math.ceil(drawn.rows / drawn.steps)
        micro = min(batch.micro, rows)
        return StepSize(
            work=drawn.work.times(1 / drawn.steps), rows=rows, micro=micro, largest=drawn.largest.times(micro)
        )
    filled = row_length(recipe, stage) * recipe.plan.fill
    if batch.tiles is not None and documents.tiles:
        filled = min(filled, batch.tiles * documents.tokens / documents.tiles)
    if batch.rows is not None:
        rows, work = batch.rows, documents.work(batch.rows * filled / documents.tokens)
    else:
        assert batch.size is not None
        work = documents.work(batch.size)
        rows = max(1, math.ceil(work.tokens / filled))
    micro = min(batch.micro, rows)
    return StepSize(work=work, rows=rows, micro=micro, largest=work.times(micro / rows))


def number_of_steps(stage: StageView, step: StepSize, documents: Documents) -> int | None:
    """Steps of a stage; None where a recipe gives epochs and its sources do not say how many samples they have."""
    samples = _samples(stage)
    if stage.steps is not None or stage.epochs is None or samples is None:
        return stage.steps
    return math.ceil(stage.epochs * samples * documents.tokens / step.work.tokens)


def steps_of_an_epoch(stage: StageView, step: StepSize, documents: Documents, steps: int | None) -> Amount:
    """So many steps go once through the data, or through what the stage sees of them; 0 where nobody knows."""
    if stage.epochs is not None:
        return 0.0 if steps is None else steps / max(stage.epochs, 1.0)
    samples = _samples(stage)
    whole = float("inf") if samples is None else samples * documents.tokens / step.work.tokens
    return float(min(steps or 0, whole))


def _samples(stage: StageView) -> int | None:
    """Of all sources; None where one of them does not say."""
    known = [source.samples for source in stage.data if source.samples is not None]
    return sum(known) if len(known) == len(stage.data) else None


def assumed_documents(settings: PlanConfig, latents: int, longest: int | None) -> Documents:
    """Documents as the settings assume them: all alike, and no longer than a row."""
    tokens = min(settings.document_tokens, longest or settings.document_tokens)
    vision = settings.vision_share * tokens
    return Documents(
        tokens=float(tokens),
        tiles=vision / latents,
        targets=(tokens - vision) * settings.supervised_share,
        pairs=tokens * (tokens + 1) / 2,
    )


def _seconds(sent: Traffic, mesh: Mesh, device: Gpu) -> Amount:
    """What a step's collectives take: along a row of the mesh over the slower of both ways, if it leaves a machine."""
    within = device.link if mesh.shards <= device.per_machine else device.network
    between = device.link if mesh.world <= device.per_machine else device.network
    return ((sent.gather + sent.reduce) / within + sent.replicate / between) / 1e9

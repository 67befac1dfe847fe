"""What breaks first when a stage grows: more tokens, then a larger model on more tokens, in the same time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from xgenmm.budget.plan import Fleet, StagePlan, plan_fleet, plan_stage
from xgenmm.budget.view import RecipeView, StageView
from xgenmm.costs.gpus import Gpu
from xgenmm.costs.shapes import Amount, ModelShape

TOKENS = 1e11
"""What a stage is taken to train on before it grows: as much as the paper pre-trains on."""
HOURS = 168.0
"""How long it may take, however large it is."""
CORES = 12
"""Cores of the CPU beside a GPU: 96 in a machine of eight."""
TILE_SECONDS = 0.006
"""Of a core, to read and decode a tile: the reading of any-resolution JPEGs that `benchmarks/loader.py` measures."""
DISK = 2.0
"""GB/s with which a machine writes a checkpoint to shared storage."""
GPU_HOURS_BETWEEN_FAILURES = 50_000.0
"""arXiv 2407.21783, section 3.3.4: 419 unexpected interruptions in 54 days on 16,384 H100s."""
HOURS_BETWEEN_SAVES, HOURS_TO_RESTART = 0.5, 0.2
TOLERABLE_LOSS = 0.05
"""Share of the time that failures may cost."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Something that there is only so much of."""

    name: str
    needed: Amount
    there: Amount
    unit: str

    @property
    def load(self) -> float:
        """How often what is needed fits into what is there, upside down: above 1 it does not."""
        return float("inf") if not self.there else self.needed / self.there


@dataclass(frozen=True, kw_only=True)
class Grown:
    """A stage that has grown."""

    name: str
    tokens: Amount
    parameters: int
    gpus: int
    limits: tuple[Limit, ...]

    @property
    def broken(self) -> list[Limit]:
        """What there is too little of, the worst first."""
        return sorted((limit for limit in self.limits if limit.load > 1), key=lambda limit: -limit.load)


def growth(recipe: RecipeView, stage: StageView, shape: ModelShape, plan: StagePlan) -> tuple[Grown, ...]:
    """The stage as it is, on ten times the tokens, and as a ten times larger model on these."""
    wide = grown(shape, 10.0)
    return (
        _scenario("1x", recipe, stage, shape, plan, TOKENS),
        _scenario("10x", recipe, stage, shape, plan, 10 * TOKENS),
        _scenario("100x", recipe, stage, wide, plan_stage(recipe, stage, wide, plan.drawn), 10 * TOKENS),
    )


def grown(shape: ModelShape, factor: float) -> ModelShape:
    """A model whose language model has about so many times the parameters in its blocks, deeper and wider alike."""
    blocks = shape.language.blocks
    side = factor ** (1 / 3)
    kv_heads = max(1, round(side * blocks.kv_heads))
    wider = kv_heads / blocks.kv_heads  # of all widths, so that heads stay as wide as they are
    layers = round(factor / wider**2 * blocks.layers)
    language = replace(
        shape.language,
        blocks=replace(
            blocks,
            layers=layers,
            width=round(wider * blocks.width),
            heads=round(wider * blocks.heads),
            kv_heads=kv_heads,
            linears=tuple(
                replace(linear, inputs=round(wider * linear.inputs), outputs=round(wider * linear.outputs))
                for linear in blocks.linears
            ),
            others=round(wider * blocks.others),
        ),
        others=round(wider * shape.language.others),
    )
    return replace(shape, language=language, resampler=replace(shape.resampler, width_out=round(wider * blocks.width)))


def _scenario(
    name: str, recipe: RecipeView, stage: StageView, shape: ModelShape, plan: StagePlan, tokens: Amount
) -> Grown:
    device = recipe.device
    speed = device.tflops * 1e12 * recipe.plan.mfu
    hours = plan.performed * tokens / plan.step.work.tokens / speed / 3600
    gpus = _enough(hours, plan.step.rows, device.per_machine)
    fleet = plan_fleet(recipe, stage, shape, plan, gpus)
    return Grown(
        name=name,
        tokens=tokens,
        parameters=sum(shape.parameters.values()),
        gpus=gpus,
        limits=tuple(_limits(recipe, plan, fleet, device)),
    )


def _enough(hours: Amount, rows: int, per_machine: int) -> int:
    """GPUs of whole machines that do so many GPU-hours in time, although a step waits for those with most rows.

    With more GPUs than rows, those that it would take if rows could be divided: they are what there is too little of.
    """
    gpus = math.ceil(hours / HOURS / per_machine) * per_machine
    while gpus < rows and hours * math.ceil(rows / gpus) / rows > HOURS:
        gpus += per_machine
    return gpus


def _limits(recipe: RecipeView, plan: StagePlan, fleet: Fleet, device: Gpu) -> Sequence[Limit]:
    tiles = plan.step.work.tiles / fleet.compute
    saved = 12 * sum(count.trained for count in plan.counts.values()) / 1e9
    machines = fleet.world / device.per_machine
    between = GPU_HOURS_BETWEEN_FAILURES / fleet.world
    return [
        Limit(
            name="memory of a GPU", needed=fleet.memory.sum / 1e9, there=device.memory - recipe.plan.reserve, unit="GB"
        ),
        Limit(name="rows of a step, one for each GPU", needed=fleet.world, there=plan.step.rows, unit=""),
        Limit(name="network, beside a step's computing", needed=fleet.sending, there=fleet.compute, unit="s"),
        Limit(name="cores that decode tiles", needed=tiles * TILE_SECONDS, there=CORES * fleet.world, unit=""),
        Limit(
            name="writing a checkpoint, between two",
            needed=saved / DISK / machines,
            there=3600 * HOURS_BETWEEN_SAVES,
            unit="s",
        ),
        Limit(
            name="time lost to failures",
            needed=100 * (HOURS_BETWEEN_SAVES / 2 + HOURS_TO_RESTART) / between,
            there=100 * TOLERABLE_LOSS,
            unit="%",
        ),
    ]

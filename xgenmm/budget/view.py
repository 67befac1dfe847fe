"""The settings of a recipe that decide what it costs, read without importing what they set, which would take seconds.

Other settings pass through unread, but for their names: an unknown one is found here too, at every level. Tests compare
the names with those of the real settings.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from glob import glob
from typing import Annotated, Any, Literal

from xgenmm.budget.settings import PlanConfig
from xgenmm.config import (
    Bounds,
    ConfigError,
    Count,
    Keys,
    NotNegative,
    Positive,
    SmallCount,
    decode,
    decode_named,
    nearest,
    read_recipe,
)
from xgenmm.costs.flops import Mode
from xgenmm.costs.gpus import Gpu
from xgenmm.costs.sharding import ParallelConfig


@dataclass(frozen=True, kw_only=True)
class ResamplerView:
    """Of `ResamplerConfig`, with the same defaults."""

    latents: Count = 128
    depth: SmallCount = 6
    heads: Count = 16
    head_dim: Count = 96
    ff_mult: Count = 4


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """Of `ModelConfig`."""

    vision: str
    language: str
    resampler: ResamplerView = field(default_factory=ResamplerView)
    regroup: Any = None
    attention: Any = None


@dataclass(frozen=True, kw_only=True)
class ProcessorView:
    """Of `ProcessorConfig`, less what encoder and resampler say."""

    prompt: Any = None
    mean: Any = None
    std: Any = None
    grids: Any = None
    max_tokens: Count | None = None
    system: Any = None
    document_prefix: Any = None


ADAPTERS: Mapping[str, Keys] = {
    "caption_pairs": Keys(("prefix", "every")),
    "caption_rows": Keys(("prefix",)),
    "kale": Keys(("prefix",)),
    "ocr": Keys(("levels", "raw_caption", "remove_filler")),
    "grounding": Keys(("levels",)),
    "visual_genome": Keys(()),
    "mint": Keys(("max_images",)),
    "interleaved_rows": Keys(("max_images",)),
    "llava": Keys(("max_images", "independent")),
    "messages": Keys(("max_images",)),
    "cauldron": Keys(("max_images",)),
    "instructions": Keys(()),
    "preference": Keys(()),
    "vlfeedback": Keys(()),
    "vlguard": Keys(()),
}
"""The options of every adapter."""


@dataclass(frozen=True, kw_only=True)
class SourceView:
    """Of `SourceConfig`."""

    name: str
    adapter: str
    path: str | tuple[str, ...]
    images: Any = None
    weight: NotNegative | None = None
    samples: Count | None = None
    at_end: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f'data set "{self.name}"'
        if self.adapter not in ADAPTERS:
            raise ConfigError(f'{where}: unknown adapter "{self.adapter}"; {nearest(self.adapter, ADAPTERS)}')
        ADAPTERS[self.adapter].check(self.options, f"{where}: options")

    @property
    def patterns(self) -> tuple[str, ...]:
        """`path` as a list, whatever it was written as."""
        return (self.path,) if isinstance(self.path, str) else self.path


@dataclass(frozen=True, kw_only=True)
class BatchView:
    """Of `BatchConfig`."""

    size: Count | None = None
    rows: Count | None = None
    tokens: Count | None = None
    tiles: Count | None = None
    micro: Count = 1
    max_bad: Any = None
    warn_bad: Any = None

    def __post_init__(self) -> None:
        if (self.size is None) == (self.rows is None):
            raise ConfigError("batch: give either size (samples of a step) or rows (packed rows of a step)")


@dataclass(frozen=True, kw_only=True)
class TrainView:
    """Of `TrainConfig`, with the same defaults."""

    vision: Mode = False
    resampler: Mode = True
    language: Mode = True


@dataclass(frozen=True, kw_only=True)
class LoraView:
    """Of `LoraConfig`, with the same defaults."""

    rank: Count = 16
    alpha: Any = None
    dropout: Any = None


@dataclass(frozen=True, kw_only=True)
class OptimView:
    """Of `OptimConfig`."""

    lr: Any
    part_lr: Any = None
    layer_decay: Any = None
    schedule: Any = None
    warmup_steps: Any = None
    decay_steps: Any = None
    floor: Any = None
    weight_decay: Any = None
    betas: Any = None
    eps: Any = None
    clip: Any = None
    ema: Annotated[float, Bounds(least=0, below=1)] | None = None


@dataclass(frozen=True, kw_only=True)
class NextTokenView:
    """Of `NextTokenConfig`."""


@dataclass(frozen=True, kw_only=True)
class DpoView:
    """Of `DpoConfig`."""

    loss: Any = None
    beta: Any = None
    label_smoothing: Any = None
    nll_weight: Any = None
    reference: Literal["live", "cached"] = "live"


OBJECTIVES: Mapping[str, type[NextTokenView] | type[DpoView]] = {"next_token": NextTokenView, "dpo": DpoView}


@dataclass(frozen=True, kw_only=True)
class WatchView:
    """Of `WatchConfig`."""

    tasks: Any
    data: Any
    every: Any
    limit: Any = None
    profile: Any = None
    batch_size: Any = None


@dataclass(frozen=True, kw_only=True)
class NoisedView:
    """Of `NoisedConfig`."""

    noise: Annotated[dict[str, Any], Keys(("step", "steps", "schedule"))] = field(default_factory=dict)
    max_new_tokens: Any = None
    batch_size: Any = None


MIXTURE = Keys(("unit", "normalise", "at_end", "schedule", "mix_shards"))
CHECKPOINT = Keys(("every", "keep", "keep_every"))
HEALTH = Keys(("skip_in_row", "skip_in_all", "spike", "spike_window", "hang_seconds", "hang_exit"))
READING = Keys(("threads", "prefetch_mb", "decode", "slow_seconds", "index"))


@dataclass(frozen=True, kw_only=True)
class StageView:
    """Of `StageConfig`."""

    name: str
    init: str | None = None
    data: tuple[SourceView, ...]
    mixture: Annotated[dict[str, Any], MIXTURE] = field(default_factory=dict)
    batch: BatchView
    steps: Count | None = None
    epochs: Positive | None = None
    train: TrainView = field(default_factory=TrainView)
    lora: LoraView = field(default_factory=LoraView)
    objective: dict[str, Any] = field(default_factory=lambda: {"name": "next_token"})
    optim: OptimView
    checkpoint: Annotated[dict[str, Any], CHECKPOINT] = field(default_factory=dict)
    health: Annotated[dict[str, Any], HEALTH] = field(default_factory=dict)
    processor: ProcessorView = field(default_factory=ProcessorView)
    feature_cache: Any = None
    evaluate: WatchView | None = None
    noised: NoisedView | None = None

    def __post_init__(self) -> None:
        where = f"recipe.stages.{self.name}"
        names = [source.name for source in self.data]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{where}.data: needs at least one source, and each its own name, but has {names}")
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError(f"{where}: give either steps or epochs")
        if not any((self.train.vision, self.train.resampler, self.train.language)):
            raise ConfigError(f"{where}.train: nothing trains; set vision, resampler or language")
        self.objective_view()

    @property
    def trains_whole(self) -> bool:
        """Whether anything trains but adapters."""
        return True in vars(self.train).values()

    def objective_view(self) -> NextTokenView | DpoView:
        """The objective's settings.

        Raises:
            ConfigError: There is no such objective, or it has no such setting.
        """
        return decode_named(OBJECTIVES, self.objective, f"recipe.stages.{self.name}.objective", "objective")


@dataclass(frozen=True, kw_only=True)
class RecipeView:
    """Of `Recipe`."""

    name: str
    output: str = "runs"
    seed: Any = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    model: ModelView | None = None
    processor: ProcessorView = field(default_factory=ProcessorView)
    reading: Annotated[dict[str, Any], READING] = field(default_factory=dict)
    feature_cache: Any = None
    stages: tuple[StageView, ...]
    toy: str | None = None
    trackers: Any = None
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"recipe.stages: at least one, each with a name of its own, not {names}")

    @property
    def computes_in(self) -> Literal["float32", "bfloat16"]:
        """The format on a GPU: what is measured at a run's start there is bfloat16."""
        return "float32" if self.precision == "float32" else "bfloat16"

    @property
    def device(self) -> Gpu:
        """The GPU that the plan is for.

        Raises:
            ConfigError: See `PlanConfig.device`.
        """
        return self.plan.device(self.computes_in)

    @property
    def data_are_here(self) -> bool:
        """Whether any stage has all of its data on this machine; addresses elsewhere count as if they were here."""
        return any(
            all("://" in pattern or glob(pattern) for source in stage.data for pattern in source.patterns)
            for stage in self.stages
        )


def load_view(name: str, assignments: Iterable[str] = ()) -> RecipeView:
    """Read what decides a recipe's costs, with `a.b=c` applied.

    Raises:
        ConfigError: There is no such recipe, or it does not decode.
    """
    return decode(RecipeView, read_recipe(name, assignments))

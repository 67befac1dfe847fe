"""The settings of a recipe that decide what it costs, read without importing what they set, which would take seconds.

Other settings pass through unread; but an unknown one is found here too, at every level that is read. Tests compare the
names with those of the real settings.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from glob import glob
from typing import Any, Literal

from xgenmm.budget.settings import PlanConfig
from xgenmm.config import ConfigError, decode, read_recipe
from xgenmm.costs.flops import Mode
from xgenmm.costs.sharding import ParallelConfig


@dataclass(frozen=True, kw_only=True)
class ResamplerView:
    """Of `ResamplerConfig`, with the same defaults."""

    latents: int = 128
    depth: int = 6
    heads: int = 16
    head_dim: int = 96
    ff_mult: int = 4


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """Of `ModelConfig`."""

    vision: str
    language: str
    resampler: ResamplerView = field(default_factory=ResamplerView)
    regroup: Any = None
    attention: Any = None


@dataclass(frozen=True, kw_only=True)
class SourceView:
    """Of `SourceConfig`."""

    name: str
    adapter: Any
    path: str | tuple[str, ...]
    images: Any = None
    weight: float | None = None
    samples: int | None = None
    at_end: Any = None
    options: Any = None

    @property
    def patterns(self) -> tuple[str, ...]:
        """`path` as a list, whatever it was written as."""
        return (self.path,) if isinstance(self.path, str) else self.path


@dataclass(frozen=True, kw_only=True)
class BatchView:
    """Of `BatchConfig`."""

    size: int | None = None
    rows: int | None = None
    tokens: int | None = None
    tiles: int | None = None
    micro: int = 1
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

    rank: int = 16
    alpha: Any = None
    dropout: Any = None


@dataclass(frozen=True, kw_only=True)
class StageView:
    """Of `StageConfig`."""

    name: str
    init: str | None = None
    data: tuple[SourceView, ...]
    mixture: Any = None
    batch: BatchView
    steps: int | None = None
    epochs: float | None = None
    train: TrainView = field(default_factory=TrainView)
    lora: LoraView = field(default_factory=LoraView)
    objective: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any]
    checkpoint: Any = None
    health: Any = None
    processor: dict[str, Any] = field(default_factory=dict)
    feature_cache: Any = None
    evaluate: Any = None
    noised: Any = None


@dataclass(frozen=True, kw_only=True)
class RecipeView:
    """Of `Recipe`."""

    name: str
    output: str = "runs"
    seed: Any = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    model: ModelView | None = None
    processor: dict[str, Any] = field(default_factory=dict)
    reading: Any = None
    feature_cache: Any = None
    stages: tuple[StageView, ...]
    toy: str | None = None
    trackers: Any = None
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)

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

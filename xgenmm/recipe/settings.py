"""A whole run as a recipe says it: its own settings, and those of the parts under the parts' names."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xgenmm.budget.settings import PlanConfig
from xgenmm.config import Count, Positive, decode, decode_named, read_recipe, shipped_recipes
from xgenmm.costs.sharding import ParallelConfig
from xgenmm.data.loader import ReadConfig
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.planner import BatchConfig
from xgenmm.data.source import SourceConfig
from xgenmm.engines.noised_preferences import NoisedConfig
from xgenmm.evaluation.watch import WatchConfig
from xgenmm.model.lora import LoraConfig
from xgenmm.model.weights import ModelConfig
from xgenmm.objectives import OBJECTIVES
from xgenmm.objectives.dpo import DpoConfig
from xgenmm.objectives.next_token import NextTokenConfig
from xgenmm.training.checkpoint import CheckpointConfig
from xgenmm.training.health import HealthConfig
from xgenmm.training.optim import OptimConfig
from xgenmm.training.precision import Precision
from xgenmm.training.trackers import TrackerName


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What of each part of the model a stage trains: all of it, nothing, or LoRA adapters on its linear layers."""

    vision: bool | Literal["lora"] = False
    resampler: bool | Literal["lora"] = True
    language: bool | Literal["lora"] = True
    """With its embeddings, unless it is LoRA."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of a run. Stages differ in their settings; they are all the same code."""

    name: str
    """Its folder's name."""
    init: str | None = None
    """Folder of weights to start from. By default those of the stage before; for the first one, `model`'s parts."""
    data: tuple[SourceConfig, ...]
    """The data sets of the mixture."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """How they share the steps."""
    batch: BatchConfig
    steps: Count | None = None
    """Optimizer steps. Either this or `epochs`."""
    epochs: Positive | None = None
    """Passes over the data; not with weights, which say how often a source comes without regard to its size."""
    train: TrainConfig = field(default_factory=TrainConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Size of the adapters, where `train` asks for some."""
    objective: dict[str, Any] = field(default_factory=lambda: {"name": "next_token"})
    """`name`, a key of `OBJECTIVES`, and its settings."""
    optim: OptimConfig
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    processor: dict[str, Any] = field(default_factory=dict)
    """What this stage sets differently from the recipe's `processor`."""
    feature_cache: bool | None = None
    """Keep features of the frozen vision encoder; by default as the recipe says."""
    evaluate: WatchConfig | None = None
    """Benchmarks that are run on the model while it trains."""
    noised: NoisedConfig | None = None
    """For preferences: before the stage, its model answers every prompt while it looks at a picture under noise, and
    that answer takes the place of the dispreferred one."""

    @property
    def compares(self) -> bool:
        """Whether the model as it was is asked again at every step."""
        objective = self.objective_config()
        return isinstance(objective, DpoConfig) and objective.reference == "live"

    def objective_config(self) -> NextTokenConfig | DpoConfig:
        """The objective's settings as their dataclass.

        Raises:
            ConfigError: There is no such objective, or it has no such setting.
        """
        return decode_named(OBJECTIVES, self.objective, f"recipe.stages.{self.name}.objective", "objective")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run."""

    name: str
    """The run's folder is `output/name`."""
    output: str = "runs"
    seed: int = 0
    precision: Literal["auto"] | Precision = "auto"
    """Of computation; what trains is kept in float32. `auto`: bfloat16 if a probe finds it faster here and accurate."""
    model: ModelConfig | None = None
    """What a new model is made of; needed unless the first stage has `init`."""
    processor: dict[str, Any] = field(default_factory=dict)
    """Fields of `ProcessorConfig`, less `tile` and `tokens_per_tile`, which encoder and resampler say."""
    reading: ReadConfig = field(default_factory=ReadConfig)
    """How the machine reads data."""
    feature_cache: bool = False
    """Compute the frozen vision encoder's features of a tile once and keep them in the run's folder."""
    stages: tuple[StageConfig, ...]
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How the work is spread over processes."""
    trackers: tuple[TrackerName, ...] = ()
    """Services that get the numbers of every step, beside files and TensorBoard; their packages must be installed."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """What `xgenmm plan` assumes; training does not read it."""
    toy: str | None = None
    """For `recipes/debug.yaml`: where `xgenmm train` first writes toy weights and data, if the folder is not there."""

    @property
    def folder(self) -> Path:
        """Where the run keeps everything."""
        return Path(self.output) / self.name


def load_recipe(name: str, assignments: Iterable[str] = ()) -> Recipe:
    """Read a recipe by its path, or one of ours by its name (`debug`, `paper/sft`), with `a.b=c` applied.

    Raises:
        ConfigError: There is none, or it does not decode.
    """
    return decode(Recipe, read_recipe(name, assignments))


def is_recipe(name: str) -> bool:
    """Whether a name is a recipe's: a YAML file, or one of ours where there is no file of that name."""
    return name.endswith((".yaml", ".yml")) or (not Path(name).exists() and name in shipped_recipes())


def sources_of(recipe: Recipe) -> list[tuple[StageConfig, SourceConfig]]:
    """All sources of all stages. What several stages use comes once; a namesake that differs gets its stage's name."""
    found: dict[str, tuple[StageConfig, SourceConfig]] = {}
    for stage in recipe.stages:
        for source in stage.data:
            same = dataclasses.replace(source, weight=None, samples=None)
            if found.setdefault(source.name, (stage, same))[1] != same:
                name = f"{stage.name}/{source.name}"
                found[name] = (stage, dataclasses.replace(same, name=name))
    return list(found.values())

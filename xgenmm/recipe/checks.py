"""Mistakes of a recipe that can be found before anything is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xgenmm.budget.plan import NO_COPY
from xgenmm.config import ConfigError, decode, nearest
from xgenmm.data.files import find
from xgenmm.data.mixture import Mixture
from xgenmm.model.weights import check_folder
from xgenmm.objectives.dpo import DpoConfig
from xgenmm.processor.processor import ProcessorConfig
from xgenmm.processor.prompt import PROMPTS
from xgenmm.recipe.settings import Recipe, StageConfig
from xgenmm.training.ranks import started_by_torchrun
from xgenmm.training.trackers import check_tracker

TAKEN = ("untrained", "features", "lock", "precision.json", "report.html", "environment.json", "metrics.json")
"""What else lies in a run's folder."""


def check(recipe: Recipe) -> None:
    """Find the mistakes that can be found before anything is loaded: in all stages, so that none comes hours later.

    Raises:
        ConfigError: Names the place.
    """
    names = [stage.name for stage in recipe.stages]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"recipe.stages: at least one, each with a name of its own, not {names}")
    if recipe.parallel.offload and not started_by_torchrun():
        raise ConfigError(
            "recipe.parallel.offload: only processes that torchrun has started keep their states elsewhere, one alone "
            "among them: torchrun --nproc-per-node 1 -m xgenmm.cli train RECIPE"
        )
    if not _is_folder(recipe.name):
        raise ConfigError(f'recipe.name: "{recipe.name}" cannot be the name of a run, which is also a folder\'s')
    first = recipe.stages[0]
    if recipe.model is None and first.init is None:
        raise ConfigError(f'recipe: the first stage "{first.name}" needs weights: set `model`, or the stage\'s `init`')
    if recipe.model is not None and first.init is None:
        check_backbone("recipe.model.vision", recipe.model.vision)
        check_backbone("recipe.model.language", recipe.model.language)
    for tracker in recipe.trackers:
        check_tracker(tracker)
    for stage in recipe.stages:
        _check_stage(recipe, stage)


def _is_folder(name: str) -> bool:
    """Whether a name is that of a folder in another one."""
    return Path(name).name == name and name not in ("", "..")


def _check_stage(recipe: Recipe, stage: StageConfig) -> None:
    where = f"recipe.stages.{stage.name}"
    if not _is_folder(stage.name) or stage.name in TAKEN:
        raise ConfigError(f'{where}.name: "{stage.name}" cannot be the name of a stage, which is also a folder\'s')
    if (stage.steps is None) == (stage.epochs is None):
        raise ConfigError(f"{where}: give either steps or epochs")
    if not any((stage.train.vision, stage.train.resampler, stage.train.language)):
        raise ConfigError(f"{where}.train: nothing trains; set vision, resampler or language")
    if stage.train.vision and (recipe.feature_cache if stage.feature_cache is None else stage.feature_cache):
        raise ConfigError(f"{where}.feature_cache: the vision encoder trains, so its features change; set false")
    objective = stage.objective_config()
    if stage.compares and started_by_torchrun() and True in vars(stage.train).values():
        raise ConfigError(f"{where}.objective.reference: {NO_COPY}")
    if stage.noised is not None and not isinstance(objective, DpoConfig):
        raise ConfigError(f"{where}.noised: answers to noised pictures are for preferences, with the objective dpo")
    _check_processor({**recipe.processor, **stage.processor}, f"{where}.processor", whole=recipe.stages[0].init is None)
    if stage.init is not None:
        check_folder(Path(stage.init))
    _check_mixture(stage, where)
    for source in stage.data:
        source.bind_adapter()
        find(source.name, source.patterns)


def _check_mixture(stage: StageConfig, where: str) -> None:
    names = [source.name for source in stage.data]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"{where}.data: needs at least one source, and each its own name, but has {names}")
    weights, at_ends = [source.weight for source in stage.data], [source.at_end for source in stage.data]
    try:  # what it says of settings does not depend on sizes, which nobody knows yet
        Mixture(stage.mixture, names, weights, [1] * len(names), stage.epochs, at_ends)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def check_backbone(where: str, name: str) -> None:
    """Refuse what is neither a folder nor looks like a name on a hub (`name` or `owner/name`)."""
    if not Path(name).is_dir() and (name.count("/") > 1 or name.startswith((".", "/", "~"))):
        raise ConfigError(f"{where}: there is no folder {name}")


def _check_processor(settings: Mapping[str, Any], where: str, *, whole: bool) -> None:
    said_elsewhere = {"tile": "the vision encoder", "tokens_per_tile": "model.resampler.latents"}
    for name, owner in said_elsewhere.items():
        if name in settings:
            raise ConfigError(f"{where}.{name}: {owner} says this already")
    others: dict[str, Any] = {"prompt": "", "mean": [0.0] * 3, "std": [1.0] * 3, "grids": [], "max_tokens": 1}
    filled = {**({} if whole else others), **settings, "tile": 1, "tokens_per_tile": 1}
    prompt = decode(ProcessorConfig, filled, where).prompt
    if prompt and prompt not in PROMPTS:
        raise ConfigError(f'{where}.prompt: there is no format "{prompt}"; {nearest(prompt, PROMPTS)}')

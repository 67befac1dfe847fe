"""What a stage begins with: model, processor and loader, put together from the recipe's settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from xgenmm.config import ConfigError, decode, encode
from xgenmm.data.loader import Loader
from xgenmm.data.permutation import keyed
from xgenmm.inference.load import load
from xgenmm.model.language import embedding_table
from xgenmm.model.trial import try_packed_row
from xgenmm.model.vision import encoder_entry
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.model.weights import ModelConfig, assemble, check_folder, read_encoder_config
from xgenmm.objectives.dpo import DpoConfig
from xgenmm.processor.processor import ProcessorConfig, XGenMMProcessor
from xgenmm.recipe.checks import check_backbone
from xgenmm.recipe.settings import Recipe, StageConfig
from xgenmm.training.ranks import rank, world_size


def build(recipe: Recipe, stage: StageConfig) -> tuple[XGenMMForConditionalGeneration, XGenMMProcessor]:
    """Model and processor as they are when a stage begins, on the CPU, in float32. The same in every call.

    Raises:
        ConfigError: Parts and settings do not fit each other.
        WeightsError: A folder lacks weights.
    """
    weights = _initial_weights(recipe, stage)
    settings = {**recipe.processor, **stage.processor}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed(recipe.seed, "model"))
        try:
            if weights is None:
                model, processor = _assemble(recipe, settings)
            else:
                model, saved = load(weights, attention=recipe.model.attention if recipe.model else None)
                processor = _make_processor(saved.tokenizer, {**encode(saved.config), **settings})
            try_packed_row(model)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"recipe.stages.{stage.name}: {error}") from error
    if len(processor.tokenizer) > len(embedding_table(model.language_model)):
        raise ConfigError(
            f'recipe.stages.{stage.name}.processor: "{processor.config.prompt}" needs tokens that {weights} lacks'
        )
    model.config.image_mean, model.config.image_std = list(processor.config.mean), list(processor.config.std)
    return model, processor


def stage_processor(recipe: Recipe, stage: StageConfig) -> XGenMMProcessor:
    """The processor that a stage will have. No model is made, and no weights of the stages before need to be there.

    Raises:
        ConfigError: A folder is missing, or settings do not fit.
    """
    settings: dict[str, Any] = {}
    tokenizer = None
    for one in recipe.stages[: recipe.stages.index(stage) + 1]:
        if one.init is not None:
            check_folder(Path(one.init))
            saved = XGenMMProcessor.from_pretrained(one.init)
            tokenizer, settings = saved.tokenizer, encode(saved.config)
        settings = {**settings, **recipe.processor, **one.processor}
    try:
        if tokenizer is None:
            assert recipe.model is not None, "`check` sees to it"
            check_backbone("recipe.model.language", recipe.model.language)
            tokenizer, settings = (
                AutoTokenizer.from_pretrained(recipe.model.language),
                {**settings, **_parts(recipe.model)},
            )
        return _make_processor(tokenizer, settings)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"recipe.stages.{stage.name}: {error}") from error


def make_loader(recipe: Recipe, stage: StageConfig, processor: XGenMMProcessor) -> Loader:
    """What reads a stage's data, as training does; what is not indexed yet is indexed first.

    Raises:
        ConfigError, DataError: As `Loader`.
    """
    return Loader(
        stage.data,
        stage.batch,
        processor,
        pairs=isinstance(stage.objective_config(), DpoConfig),
        seed=keyed(recipe.seed, stage.name),
        mixture=stage.mixture,
        epochs=stage.epochs,
        reading=recipe.reading,
        rank=rank(),
        world_size=world_size(),
    )


def _assemble(recipe: Recipe, settings: Mapping[str, Any]) -> tuple[XGenMMForConditionalGeneration, XGenMMProcessor]:
    assert recipe.model is not None
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.language)
    processor = _make_processor(tokenizer, {**settings, **_parts(recipe.model)})
    return assemble(recipe.model, processor).eval(), processor


def _parts(model: ModelConfig) -> dict[str, int]:
    """What the parts of a model say of its processor."""
    encoder = read_encoder_config(model.vision)
    encoder_entry(encoder)  # another kind of model says nothing of tiles
    return {"tile": encoder.image_size, "tokens_per_tile": model.resampler.latents}


def _initial_weights(recipe: Recipe, stage: StageConfig) -> Path | None:
    number = recipe.stages.index(stage)
    if stage.init is not None:
        return Path(stage.init)
    return recipe.folder / recipe.stages[number - 1].name / "weights" if number else None


def _make_processor(tokenizer: Any, settings: Mapping[str, Any]) -> XGenMMProcessor:
    return XGenMMProcessor(tokenizer, decode(ProcessorConfig, dict(settings), "recipe.processor"))

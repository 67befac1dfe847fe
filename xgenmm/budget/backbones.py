"""Sizes of a recipe's model: from its folders, or from a small table of names on the hub."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from xgenmm.budget.view import ModelView, ProcessorView, RecipeView, ResamplerView
from xgenmm.config import ConfigError, decode, nearest
from xgenmm.costs.architectures import language_shape, model_shape
from xgenmm.costs.shapes import ModelShape

Built = TypeVar("Built")

OURS = ("<image>", "<image placeholder>", "<|endofchunk|>")
"""Tokens that the processor adds, beside `<pad>` where a tokenizer pads with its end of sequence."""

_SO400M = {
    **{"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304},
    **{"num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384, "patch_size": 14},
}
_LLAMA_LIKE = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def _language(*sizes: Any, kv_heads: int, vocabulary: int, tied: bool) -> dict[str, Any]:
    names = dict(zip(_LLAMA_LIKE, sizes, strict=True))
    return {**names, "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "tie_word_embeddings": tied}


# Sizes as their makers publish them in config.json; tokens as their tokenizers count them.
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "google/siglip-so400m-patch14-384": _SO400M,
    "google/siglip2-so400m-patch14-384": _SO400M,
    "apple/DFN5B-CLIP-ViT-H-14-378": {
        **{"model_type": "clip_vision_model", "hidden_size": 1280, "intermediate_size": 5120},
        **{"num_hidden_layers": 32, "num_attention_heads": 16, "image_size": 378, "patch_size": 14},
    },
    "openai/clip-vit-large-patch14-336": {
        **{"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096},
        **{"num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14},
    },
}
LANGUAGE_MODELS: Mapping[str, tuple[Mapping[str, Any], int]] = {
    "microsoft/Phi-3-mini-4k-instruct": (
        _language("phi3", 3072, 8192, 32, 32, kv_heads=32, vocabulary=32064, tied=False),
        32011,
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (
        _language("llama", 576, 1536, 30, 9, kv_heads=3, vocabulary=49152, tied=True),
        49152,
    ),
    "Qwen/Qwen2.5-1.5B-Instruct": (
        _language("qwen2", 1536, 8960, 28, 12, kv_heads=2, vocabulary=151936, tied=True),
        151665,
    ),
}
PAPER = ModelView(vision="google/siglip-so400m-patch14-384", language="microsoft/Phi-3-mini-4k-instruct")
"""What a recipe that starts from weights which are not there yet is taken to train: the paper's model."""


def find_model(recipe: RecipeView) -> tuple[ModelShape, list[str]]:
    """Sizes of the model that a recipe trains, and what was assumed or is worth saying about them.

    Raises:
        ConfigError: A backbone is neither a folder with a config.json nor in the table.
    """
    init = recipe.stages[0].init
    if init is not None:
        path = Path(init) / "config.json"
        if path.is_file():
            config = _read(path)
            return _described(lambda: _whole_model(config), path), []
        if path.parent.exists():
            raise ConfigError(f"{init} holds no config.json, so no model: stages.0.init wants a weights folder")
        shape, notes = _assemble(PAPER)
        return shape, [f"{init} is not there yet: taken to hold the paper's model", *notes]
    if recipe.model is None:
        raise ConfigError("recipe: the first stage needs weights: set `model`, or the stage's `init`")
    return _assemble(recipe.model)


def with_saved_length(recipe: RecipeView) -> RecipeView:
    """The recipe with the `max_tokens` that are saved with the weights from which it starts, if it sets none itself.

    Raises:
        ConfigError: What is saved cannot be read.
    """
    init = recipe.stages[0].init
    if recipe.processor.max_tokens is not None or init is None:
        return recipe
    path = Path(init) / "processor_config.json"
    if not path.is_file():
        return recipe
    saved = decode(ProcessorView, {"max_tokens": _read(path).get("max_tokens")}, str(path))
    return replace(recipe, processor=replace(recipe.processor, max_tokens=saved.max_tokens))


def _assemble(model: ModelView) -> tuple[ModelShape, list[str]]:
    language, tokens = _language_model(model.language)
    rows = _described(lambda: language_shape(language), Path(model.language)).vocabulary
    new = max(0, tokens - rows)
    note = f"{rows:,} rows of the token table hold all {tokens:,} tokens, the added ones included: no new rows"
    if new:
        note = f"{new} new rows of the token table, for the added tokens among {tokens:,}"
    vision, resampler = _encoder(model.vision), asdict(model.resampler)
    return _described(lambda: model_shape(vision, language, resampler, rows=rows + new), Path(model.vision)), [note]


def _whole_model(config: Mapping[str, Any]) -> ModelShape:
    """Of our own config.json."""
    resampler = decode(ResamplerView, config.get("resampler", {}), "resampler")
    return model_shape(config["vision_config"], config["text_config"], asdict(resampler))


def _described(build: Callable[[], Built], path: Path) -> Built:
    """What a file that people may have written themselves describes.

    Raises:
        ConfigError: Something that sizes are made of is missing in it, or is no number that makes sense.
    """
    try:
        return build()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{path} describes no model whose sizes are known: {type(error).__name__} {error}") from error


def _encoder(name: str) -> Mapping[str, Any]:
    path = Path(name) / "config.json"
    if path.is_file():
        return _read(path)
    if name in ENCODERS:
        return ENCODERS[name]
    raise ConfigError(f"recipe.model.vision: {_nowhere(name, ENCODERS)}")


def _language_model(name: str) -> tuple[Mapping[str, Any], int]:
    """Its configuration, and how many tokens it has with those that the processor adds."""
    path = Path(name) / "config.json"
    if path.is_file():
        return _read(path), _described(lambda: _count_tokens(Path(name)), Path(name) / "tokenizer.json")
    if name in LANGUAGE_MODELS:
        config, tokens = LANGUAGE_MODELS[name]
        return config, tokens + len(OURS) + 1
    raise ConfigError(f"recipe.model.language: {_nowhere(name, LANGUAGE_MODELS)}")


def _count_tokens(folder: Path) -> int:
    """Tokens of a tokenizer with those that the processor will add."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return 0
    tokenizer = _read(path)
    added = {token["content"] for token in tokenizer.get("added_tokens", [])}
    vocabulary = tokenizer["model"]["vocab"]
    known = len(set(vocabulary) | added) if isinstance(vocabulary, dict) else len(vocabulary) + len(added)
    settings = _read(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    pads = settings.get("pad_token") not in (None, settings.get("eos_token"))
    return known + sum(token not in added for token in OURS) + (0 if pads or "<pad>" in added else 1)


def _nowhere(name: str, known: Mapping[str, Any]) -> str:
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        return f"there is no folder {name} with a config.json; if it is the starter's, `xgenmm starter` makes it"
    return f'"{name}" is no folder with a config.json and no name whose sizes are known; {nearest(name, known)}'


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no mapping of names to values")
    return found

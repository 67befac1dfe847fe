"""Weights: a new model out of two pretrained backbones, and our folders, which are Hugging Face folders, out and in.

A folder is whole or not there: it is written beside its place and then moved. LoRA adapters are merged on the way out.
"""

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from xgenmm.files import sync
from xgenmm.model.configuration import XGenMMConfig
from xgenmm.model.language import add_token_rows, embedding_table
from xgenmm.model.lora import merged_state
from xgenmm.model.regroup import Regroup
from xgenmm.model.resampler import ResamplerConfig
from xgenmm.model.vision import encoder_entry
from xgenmm.model.vlm import XGenMMForConditionalGeneration

Attention = Literal["sdpa", "eager", "flash_attention_2", "flex_attention"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a new model is made of."""

    vision: str
    """Hugging Face folder (or name on the hub) of a vision encoder of the registry, or of a CLIP or SigLIP that has
    one.
    """
    language: str
    """Hugging Face folder (or name) of a causal language model with its tokenizer."""
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    regroup: Regroup = "tiles"
    """What the resampler reads at once: a tile (the paper), or a strip across tiles (the released weights)."""
    attention: Attention | None = None
    """The language model's attention; None: transformers' choice, sdpa where a family has it, else eager. On CPUs and
    short sequences `eager` trains 10 to 20 % faster.
    """


@runtime_checkable
class ProcessorSettings(Protocol):
    """What a model must agree with its processor about."""

    @property
    def tile(self) -> int:
        """Side of a tile in pixels."""
        ...

    @property
    def tokens_per_tile(self) -> int:
        """Placeholders that the processor writes for a tile."""
        ...

    @property
    def mean(self) -> tuple[float, float, float]:
        """Subtracted from each channel of pixels in 0..1 before they are divided by `std`."""
        ...

    @property
    def std(self) -> tuple[float, float, float]:
        """What `mean` says."""
        ...


@runtime_checkable
class Processor(Protocol):
    """What weights ask of a processor."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def config(self) -> ProcessorSettings:
        """What model and processor must agree about."""
        ...

    @property
    def image_token_id(self) -> int:
        """The placeholder."""
        ...

    @property
    def pad_token_id(self) -> int:
        """Padding."""
        ...

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """What ends an answer."""
        ...

    def save_pretrained(self, save_directory: str | Path) -> Any:
        """Write tokenizer and settings."""
        ...


class WeightsError(ValueError):
    """A folder does not hold the weights that it should."""


def assemble(config: ModelConfig, processor: Processor) -> XGenMMForConditionalGeneration:
    """A model of two pretrained backbones and a new resampler, in float32. Draws from torch's random state.

    Tokens that the processor added to the language model's tokenizer get new rows, and vision tokens start with the
    standard deviation of the text embeddings.

    Raises:
        ValueError: Model and processor disagree about tiles; or the encoder is none of the registry.
        WeightsError: A backbone's folder lacks weights.
    """
    encoder_config = read_encoder_config(config.vision)
    if encoder_config.image_size != processor.config.tile:
        raise ValueError(
            f"the vision encoder takes tiles of {encoder_config.image_size} pixels and the processor makes tiles of "
            f"{processor.config.tile}: set the processor's tile to {encoder_config.image_size}"
        )
    if config.resampler.latents != processor.config.tokens_per_tile:
        raise ValueError(
            f"the resampler makes {config.resampler.latents} tokens of a tile and the processor writes "
            f"{processor.config.tokens_per_tile} placeholders: both are the resampler's number of latents"
        )
    with without_progress_bars():
        encoder = _backbone(encoder_entry(encoder_config).model, config.vision, config=encoder_config)
        language = _backbone(AutoModelForCausalLM, config.language)
    _add_new_tokens(language, config.language, processor.tokenizer)
    whole = XGenMMConfig(
        vision_config=encoder.config,
        text_config=language.config,
        resampler=asdict(config.resampler),
        regroup=config.regroup,
        image_token_id=processor.image_token_id,
        image_mean=processor.config.mean,
        image_std=processor.config.std,
    )
    with torch.device("meta"):
        model = XGenMMForConditionalGeneration(whole)
    model.vision_encoder, model.language_model = encoder, language
    if config.attention is not None:
        language.set_attn_implementation(config.attention)
    model.vision_tokenizer.to_empty(device="cpu")
    for module in model.vision_tokenizer.modules():
        model._init_weights(module)
    model.vision_tokenizer.match_scale(embedding_table(language).std().item())
    model.generation_config = generation_settings(model, processor)
    return model


def generation_settings(model: XGenMMForConditionalGeneration, processor: Processor) -> GenerationConfig:
    """Where an answer ends, and what can be no part of one: the placeholder, and rows that have no token."""
    no_tokens = range(len(processor.tokenizer), len(embedding_table(model.language_model)))
    return GenerationConfig(
        eos_token_id=list(processor.stop_token_ids),
        pad_token_id=processor.pad_token_id,
        suppress_tokens=[processor.image_token_id, *no_tokens],
    )


def save(
    model: XGenMMForConditionalGeneration,
    processor: Processor,
    path: Path,
    *,
    card: str | None = None,
    instead: Mapping[str, Tensor] | None = None,
    writes: bool = True,
) -> None:
    """Write a Hugging Face folder; the model goes on as it was.

    Args:
        model: In any mode of training; adapters are merged into the written weights in float32.
        processor: Written beside the model.
        path: The folder. What was there before is replaced once the new one is whole.
        card: Text of the model card.
        instead: Values of weights that the model holds only rounded, by their names in the model.
        writes: Whether this process writes. Those that share a model must all call this, and one of them writes.

    Raises:
        OSError: The folder cannot be written, say for a full disk. What was there before is untouched.
    """
    state = merged_state(model, instead, keep=writes)
    if not writes:
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__]
        config.dtype = _widest(value.dtype for value in state.values() if value.is_floating_point())
        config.save_pretrained(partial)
        # tied weights stand once, and files' metadata do not name them as shared: safetensors writes several entries in
        # any order, and equal weights must be equal files
        single = {name: value for name, value in state.items() if name not in model.all_tied_weights_keys}
        save_torch_state_dict(single, partial, metadata={"format": "pt"})
        assert model.generation_config is not None
        model.generation_config.save_pretrained(partial)
        processor.save_pretrained(partial)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
        _put_in_place(partial, path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"could not write the weights to {path}: {error}; what was there before is untouched") from error


def load(path: Path, *, dtype: Dtype = "float32", attention: Attention | None = None) -> XGenMMForConditionalGeneration:
    """Read a folder that `save` wrote, in evaluation mode.

    Args:
        path: The folder.
        dtype: Type of the weights in memory; "auto" is that of the folder.
        attention: See `ModelConfig`.

    Raises:
        WeightsError: There is no such folder, it is not one of ours, or weights are missing, left over or damaged.
    """
    check_folder(path)
    chosen = {} if attention is None else {"attn_implementation": {"text_config": attention}}
    with without_progress_bars():
        model = _backbone(XGenMMForConditionalGeneration, str(path), dtype=dtype, **chosen)
    return cast(XGenMMForConditionalGeneration, model.eval())


def check_folder(path: Path) -> None:
    """Refuse what is not a folder of our weights before anything heavy happens.

    Raises:
        WeightsError: Says what is wrong with it, and what one of ours looks like.
    """
    if not path.is_dir():
        raise WeightsError(f"no weights at {path}: there is no such folder")
    try:
        model_type = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    except FileNotFoundError:
        inner = path / "weights"
        hint = f"; did you mean {inner}?" if inner.is_dir() else ""
        raise WeightsError(f"no weights at {path}: it holds no config.json{hint}") from None
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"no weights at {path}: its config.json cannot be read ({error})") from error
    if model_type != XGenMMConfig.model_type:
        raise WeightsError(f"{path} holds a model of type {model_type!r}, not {XGenMMConfig.model_type!r}")


def read_encoder_config(folder: str) -> PretrainedConfig:
    """Settings of the vision encoder in a folder; of a CLIP or SigLIP, those of its vision half."""
    config = AutoConfig.from_pretrained(folder)
    return config.vision_config if "vision_config" in config.sub_configs else config


def _backbone(model_class: Any, folder: str, *, dtype: Dtype = "float32", **options: Any) -> PreTrainedModel:
    """Load weights and refuse a folder that lacks some, where transformers would draw them and only warn."""
    try:
        model, report = model_class.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    except SafetensorError as error:
        raise WeightsError(f"the weights in {folder} are damaged: {error}") from error
    # A vision tower taken out of a CLIP leaves the text tower behind; left-over weights of our own are a mistake.
    left_over = report["unexpected_keys"] if model_class is XGenMMForConditionalGeneration else []
    for problem, names in (
        ("lacks", report["missing_keys"]),
        ("has other shapes for", [name for name, *_ in report["mismatched_keys"]]),
        ("has left over", left_over),
    ):
        if names:
            shown = ", ".join(sorted(names)[:3])
            raise WeightsError(f"{folder} {problem} {len(names)} weights of {type(model).__name__}: {shown} …")
    return model


def _add_new_tokens(language: PreTrainedModel, folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
    known = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder)).get_vocab()
    new = sorted(index for token, index in tokenizer.get_vocab().items() if token not in known)
    add_token_rows(language, len(tokenizer), new)


def _widest(dtypes: Iterator[torch.dtype]) -> torch.dtype:
    """The type that holds all: a folder is read in one type, and must not lose what training put into float32."""
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).bits)


def _put_in_place(partial: Path, path: Path) -> None:
    """Move a finished folder to its name; one that was there is removed only after that. A folder of this name means
    that a stage is done, so all that is in it is on the disk first.
    """
    for file in (*partial.iterdir(), partial):
        sync(file)
    old = path.with_name(f"{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Transformers draws a bar for every model that it reads, also into logs."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()

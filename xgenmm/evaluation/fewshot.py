"""Few-shot prompts with pictures: which demonstrations each question meets, and the text around them.

The order, the draws and the text are OpenFlamingo's (`scorers.fewshot`), planned for one process whatever the number of
processes that answer: who meets whom must not depend on the machine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel

from xgenmm.config import ConfigError
from xgenmm.data.quarantine import BadSample
from xgenmm.evaluation.benchmarks.benchmark import Benchmark
from xgenmm.evaluation.scorers.fewshot import (
    CAPTION_GENERATION,
    END_OF_CHUNK,
    TEXT_ONLY_MODEL,
    FewShotItem,
    GenerationSettings,
    caption_answer,
    caption_prompt,
    effective_shots,
    few_shot_prompt,
    rices,
    sample_protocol,
    vqa_answer,
    vqa_prompt,
)
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.images import ImageError, open_image
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import Picture

Kind = Literal["caption", "vqa"]
Selection = Literal["random", "fixed", "rices"]
QUERY_SET = 2048
"""Train items that random demonstrations come from; OpenFlamingo's default."""
SEED = 42
"""Of the first trial; each further one adds 1."""
PICTURES_PER_CALL = 16


@dataclass(frozen=True, kw_only=True)
class FewShotConfig:
    """How demonstrations are chosen."""

    shots: int
    selection: Selection = "random"
    """random: drawn anew for every question; fixed: drawn once a trial, the same for all questions, which lets them
    share one KV prefix; rices: the train pictures most like the question's, the most similar last."""
    text_only_zero_shot: bool = False
    """At 0 shots, show two demonstrations without their pictures (the Flamingo protocol)."""
    rices_encoder: str | None = None
    """A Hugging Face folder of a CLIP or SigLIP model for RICES; the model's own vision encoder if None."""
    query_set: int = QUERY_SET

    @property
    def demonstrations(self) -> int:
        """How many stand in a prompt."""
        return effective_shots(self.shots, TEXT_ONLY_MODEL if self.text_only_zero_shot else "")


@dataclass(frozen=True, kw_only=True)
class FewShotPrompt:
    """What the model reads."""

    text: str
    pictures: tuple[Picture, ...]
    prefix: str = ""
    """The part of `text` that holds the demonstrations."""


def plan(config: FewShotConfig, *, num_test: int, num_train: int, limit: int | None, trial: int) -> list[FewShotItem]:
    """Test items in OpenFlamingo's order with their random demonstrations; RICES replaces these later.

    Args:
        config: How many demonstrations, and from how many train items.
        num_test: Size of the test split.
        num_train: Size of the train split.
        limit: So many test items, drawn as OpenFlamingo draws them; all by default.
        trial: From 0.

    Raises:
        ConfigError: The train split is too small.
    """
    if num_train < config.demonstrations:
        raise ConfigError(
            f"{config.demonstrations} demonstrations need as many train items, but there are {num_train}: "
            "give more of the train split, or fewer shots"
        )
    items = sample_protocol(
        num_test=num_test,
        num_train=num_train,
        num_samples=-1 if limit is None else min(limit, num_test),
        query_set_size=min(config.query_set, num_train),
        num_shots=config.demonstrations,
        seed=SEED + trial,
        world_size=1,
        rank=0,
    )
    if config.selection == "fixed" and items:
        return [FewShotItem(test=item.test, demonstrations=items[0].demonstrations) for item in items]
    return items


def similar(
    items: Sequence[FewShotItem],
    test: Float[np.ndarray[Any, Any], "items width"],
    train: Float[np.ndarray[Any, Any], "train width"],
    count: int,
) -> list[FewShotItem]:
    """The items with the train pictures most like theirs instead of random ones. Features are the pictures'."""
    chosen = rices(train, test, count)
    return [FewShotItem(test=item.test, demonstrations=tuple(row)) for item, row in zip(items, chosen, strict=True)]


def build(
    kind: Kind, task: Benchmark, doc: Mapping[str, Any], demonstrations: Sequence[Mapping[str, Any]], *, shots: int
) -> FewShotPrompt:
    """The prompt of one question.

    Args:
        kind: Of the task.
        task: Gives pictures, questions and answers of rows; one of the few-shot suite.
        doc: The question's row.
        demonstrations: Rows of the train split.
        shots: 0 leaves the demonstrations' pictures out.
    """
    if kind == "caption":
        shown = [caption_prompt(task.demonstration(row)) for row in demonstrations]
        query = caption_prompt()
    else:
        shown = [vqa_prompt(task.question(row), task.demonstration(row)) for row in demonstrations]
        query = vqa_prompt(task.question(doc))
    text = few_shot_prompt(shown, query, with_images=shots > 0)
    pictures = tuple(picture for row in demonstrations if shots > 0 for picture in task.train_images(row))
    return FewShotPrompt(
        text=text, pictures=(*pictures, *task.images(doc)), prefix=text[: len(text) - len(query)] if shown else ""
    )


def cut(kind: Kind, generation: str) -> str:
    """A generation as OpenFlamingo cuts it. Ours ends at the end of a chunk, which is no part of the answer."""
    text = generation.split(END_OF_CHUNK, maxsplit=1)[0]
    return caption_answer(text) if kind == "caption" else vqa_answer(text)


def generation_settings(kind: Kind, max_new_tokens: int | None) -> GenerationSettings:
    """OpenFlamingo's beams and lengths; a task may have a length of its own."""
    if kind == "caption":
        return CAPTION_GENERATION
    return GenerationSettings(max_new_tokens=max_new_tokens or 5)


Encoder = Callable[[Sequence[Picture]], Float[Tensor, "N D"]]


def own_encoder(model: XGenMMForConditionalGeneration, processor: XGenMMProcessor) -> Encoder:
    """Mean patch feature of a picture's base tile in the model's own vision encoder."""

    @torch.no_grad()
    def encode(pictures: Sequence[Picture]) -> Float[Tensor, "N D"]:
        first = [processor.rendered(picture.name, "<image>", [picture]).pixel_values[:1] for picture in pictures]
        return model.encode(torch.cat(first).to(model.device)).float().mean(dim=1).cpu()

    return encode


def hub_encoder(path: str) -> Encoder:
    """Image features of a CLIP or SigLIP model of transformers, from a local folder or the Hub's cache.

    Raises:
        ConfigError: It cannot be loaded, or has no image features.
    """
    try:
        model, images = AutoModel.from_pretrained(path), AutoImageProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--rices-encoder {path}: no image encoder of transformers can be loaded: {error}") from error
    if not hasattr(model, "get_image_features"):
        raise ConfigError(f"--rices-encoder {path}: {type(model).__name__} has no image features; give CLIP or SigLIP")

    @torch.no_grad()
    def encode(pictures: Sequence[Picture]) -> Float[Tensor, "N D"]:
        inputs = images(images=[open_image(picture) for picture in pictures], return_tensors="pt")
        features = model.get_image_features(**inputs)
        return features if isinstance(features, Tensor) else features.pooler_output

    return encode


def features_of(
    encoder: Encoder, places: Sequence[int], picture: Callable[[int], Picture]
) -> tuple[Float[np.ndarray[Any, Any], "N D"], list[int]]:
    """Features of many rows' pictures, a few at a time, and the rows whose pictures could be read.

    Args:
        encoder: See `own_encoder`.
        places: Row numbers.
        picture: The picture of a row.
    """
    found, readable = [], []
    for start in range(0, len(places), PICTURES_PER_CALL):
        chunk = [
            (place, one) for place in places[start : start + PICTURES_PER_CALL] if (one := _readable(picture, place))
        ]
        if chunk:
            found.append(encoder([one for _, one in chunk]))
            readable += [place for place, _ in chunk]
    return (torch.cat(found).numpy() if found else np.zeros((0, 0), dtype=np.float32)), readable


def _readable(picture: Callable[[int], Picture], place: int) -> Picture | None:
    try:
        one = picture(place)
        open_image(one)
    except (BadSample, ImageError):
        return None
    return one

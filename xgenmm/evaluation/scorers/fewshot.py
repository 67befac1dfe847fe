"""OpenFlamingo's few-shot protocol without a model: who meets which demonstrations, the prompts, and what is cut off.

Source: eval.md, section 2 (open_flamingo 655f693). The order of the test items comes from torch's distributed sampler
with its own seed, so which demonstrations an item meets depends on world size, rank and seed; all of it is repeated
here without torch.
"""

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from xgenmm.evaluation.scorers.profiles import OPEN_FLAMINGO, Case, Rules, ScorerTable

IMAGE_TOKEN = "<image>"
END_OF_CHUNK = "<|endofchunk|>"
TEXT_ONLY_MODEL = "open_flamingo"
"""The model type whose zero-shot prompt has two demonstrations without their images (the Flamingo protocol)."""
SAMPLER_SEED = 0
"""Seed of the distributed sampler, which shuffles by default and never gets another."""

_ANSWER_END = re.compile("Question|Answer|Short")


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How OpenFlamingo's evaluation generates."""

    max_new_tokens: int
    min_new_tokens: int = 0
    num_beams: int = 3
    length_penalty: float = 0.0

    def as_dict(self) -> dict[str, int | float]:
        """The settings under the names of the reference's configuration."""
        return {
            "min_new_tokens": self.min_new_tokens,
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "length_penalty": self.length_penalty,
        }


VQA_GENERATION = GenerationSettings(max_new_tokens=5)
TEXTVQA_GENERATION = GenerationSettings(max_new_tokens=10)
CAPTION_GENERATION = GenerationSettings(max_new_tokens=20)


@dataclass(frozen=True, kw_only=True)
class FewShotItem:
    """One test item with its demonstrations, as places in the test and train sets."""

    test: int
    demonstrations: tuple[int, ...]


def effective_shots(num_shots: int, model: str) -> int:
    """Demonstrations in a prompt: zero shots mean two text-only ones for OpenFlamingo's own model type."""
    return 2 if num_shots == 0 and model == TEXT_ONLY_MODEL else num_shots


def vqa_prompt(question: str, answer: str | None = None) -> str:
    """A question as a demonstration, or without an answer as the query. No space follows either colon."""
    end = "" if answer is None else f"{answer}{END_OF_CHUNK}"
    return f"{IMAGE_TOKEN}Question:{question} Short answer:{end}"


def caption_prompt(caption: str | None = None) -> str:
    """A stripped caption as a demonstration, or without one the query."""
    end = "" if caption is None else f"{caption.strip()}{END_OF_CHUNK}"
    return f"{IMAGE_TOKEN}Output:{end}"


def few_shot_prompt(demonstrations: Sequence[str], query: str, *, with_images: bool) -> str:
    """Demonstrations, each followed by a line break, and the query. Without images the former have no image tokens."""
    context = "".join(f"{text}\n" for text in demonstrations)
    return (context if with_images else context.replace(IMAGE_TOKEN, "")) + query


def vqa_answer(generation: str) -> str:
    """Cut a generated answer at the first "Question", "Answer" or "Short" (even in a word), then at the first ", "."""
    return _ANSWER_END.split(generation, maxsplit=1)[0].split(", ", maxsplit=1)[0]


def caption_answer(generation: str) -> str:
    """Cut a generated caption at "Output" and drop its double quotes."""
    return generation.split("Output", maxsplit=1)[0].replace('"', "")


def torch_permutation(length: int, seed: int) -> list[int]:
    """``torch.randperm`` on the CPU with a fresh generator, for lengths below 2^32 / 20.

    Both libraries run the same Mersenne Twister; torch swaps each place with one of the rest, by a 32-bit draw's
    remainder.
    """
    draws = np.random.RandomState(seed).randint(0, 2**32, size=max(0, length - 1), dtype=np.uint32).tolist()
    order = list(range(length))
    for place, draw in enumerate(draws):
        other = place + draw % (length - place)
        order[place], order[other] = order[other], order[place]
    return order


def sampler_order(length: int, world_size: int, rank: int) -> list[int]:
    """Places that one process visits: torch's DistributedSampler by default, which repeats items to even the shares."""
    order = torch_permutation(length, SAMPLER_SEED)
    total = math.ceil(length / world_size) * world_size
    padded = order * math.ceil(total / len(order)) if order else []
    return padded[:total][rank::world_size]


def sample_protocol(
    *,
    num_test: int,
    num_train: int,
    num_samples: int,
    query_set_size: int,
    num_shots: int,
    seed: int,
    world_size: int,
    rank: int,
) -> list[FewShotItem]:
    """Test items in the order one process visits them, each with its random demonstrations.

    Args:
        num_test: Size of the test set.
        num_train: Size of the train set, where demonstrations come from.
        num_samples: Test items to use; -1 for all (which permutes them too).
        query_set_size: Train items drawn once; the demonstrations are drawn from these.
        num_shots: Demonstrations per item (the effective number).
        seed: Seed of the trial.
        world_size: Number of processes.
        rank: This process.
    """
    generator = np.random.RandomState(seed)
    subset = generator.choice(num_test, num_test if num_samples < 0 else num_samples, replace=False).tolist()
    query_set = generator.choice(num_train, query_set_size, replace=False).tolist()
    # Python's generator is seeded per process, after the sets are drawn; the batches take its draws one after another.
    draws = random.Random(seed + rank)
    return [
        FewShotItem(test=subset[place], demonstrations=tuple(draws.sample(query_set, num_shots)))
        for place in sampler_order(len(subset), world_size, rank)
    ]


def rices(train: ArrayLike, queries: ArrayLike, num_examples: int) -> list[list[int]]:
    """Places of the train items most similar to each query by cosine, the *most similar last*.

    Features need not be normalised. A query's own image is not excluded from the train set, as in the reference.
    """
    train_features, query_features = (_normalized_rows(features) for features in (train, queries))
    order = np.argsort(-(query_features @ train_features.T), axis=1, kind="stable")
    return order[:, :num_examples][:, ::-1].tolist()


def _normalized_rows(features: ArrayLike) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows = np.asarray(features, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _fewshot_case(case: Case) -> dict[str, Any]:
    """The protocol of one run. Predictions are cut only if the generations are given, by test item."""
    kind: Literal["vqa", "caption"] = case["kind"]
    shots = effective_shots(case["num_shots"], case["model"])
    items = sample_protocol(
        num_test=len(case["test"]),
        num_train=len(case["train"]),
        num_samples=case["num_samples"],
        query_set_size=case["query_set_size"],
        num_shots=shots,
        seed=case["seed"],
        world_size=case["world_size"],
        rank=case["rank"],
    )
    with_images = case["num_shots"] > 0
    result: dict[str, Any] = {
        "effective_num_shots": shots,
        "generation": (VQA_GENERATION if kind == "vqa" else CAPTION_GENERATION).as_dict(),
        "visit_order": [f"test_{item.test}" for item in items],
        "demo_images": [[f"train_{place}" for place in item.demonstrations] if with_images else [] for item in items],
        "prompts": [_prompt(kind, case, item, with_images=with_images) for item in items],
    }
    if "generations" in case:
        result["predictions"] = [_prediction(kind, item.test, case["generations"]) for item in items]
    return result


def _prompt(kind: str, case: Case, item: FewShotItem, *, with_images: bool) -> str:
    chosen = [case["train"][place] for place in item.demonstrations]
    if kind == "vqa":
        demonstrations, query = [vqa_prompt(*pair) for pair in chosen], vqa_prompt(case["test"][item.test])
    else:
        demonstrations, query = [caption_prompt(caption) for caption in chosen], caption_prompt()
    return few_shot_prompt(demonstrations, query, with_images=with_images)


def _prediction(kind: str, test: int, generations: Mapping[str, str] | Sequence[str]) -> dict[str, Any]:
    text = generations[test] if isinstance(generations, Sequence) else generations[f"test_{test}"]
    if kind == "vqa":
        return {"answer": vqa_answer(text), "question_id": test}
    return {"image_id": test, "caption": caption_answer(text)}


def _postprocess_case(case: Case) -> dict[str, Any]:
    return {"vqa_answer": vqa_answer(case["generation"]), "caption": caption_answer(case["generation"])}


def _rices_case(case: Case) -> dict[str, Any]:
    order = rices(case["raw_train_features"], case["raw_query_features"], case["num_examples"])
    return {"demo_indices_least_to_most_similar": order}


SCORERS: ScorerTable = {
    "fewshot_openflamingo": {OPEN_FLAMINGO: Rules(case=_fewshot_case)},
    "of_postprocess": {OPEN_FLAMINGO: Rules(case=_postprocess_case)},
    "rices": {OPEN_FLAMINGO: Rules(case=_rices_case)},
}

"""The starter's held-out sets: what a model sees, prefers and refuses, each beside its control.

`xgenmm starter` writes them, as files of one JSON object a line; pictures lie beside their folder:

    captions.jsonl     id, image, prefix, caption, references, distractors
    choices.jsonl      id, task, images, question, choices, answer (a place in choices)
    preferences.jsonl  id, image, prompt, chosen, rejected, aspect
    requests.jsonl     id, image, prompt, unsafe
    talks.jsonl        id, image, caption, question, reference: a dozen to show side by side
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xgenmm.evaluation.benchmarks.benchmark import (
    HIT,
    Benchmark,
    Doc,
    Headline,
    Source,
    Weighing,
    caption_headlines,
    column,
    number,
    picture,
)
from xgenmm.evaluation.scorers.profiles import PYCOCOEVALCAP, VLGUARD, XGENMM, Scored
from xgenmm.evaluation.scorers.statistics import grouped
from xgenmm.evaluation.statistics import mean, share
from xgenmm.types import Picture

MARKER = "<image>"
"""Stands in questions for each picture; all of them stand in front."""
CAPTION_TOKENS, ANSWER_TOKENS, REPLY_TOKENS = 8, 20, 10
"""Longest answers in tokens. A refusal shows in its first words; longer replies would only cost time."""


def source(file: str, *columns: str) -> Source:
    """One of the files."""
    return Source(repo="starter/heldout", split="test", file=file, columns=("id", *columns), made_by="xgenmm starter")


def asked(name: str, belongs: Callable[[Doc], bool] = lambda _: True) -> Callable[[Doc], list[dict[str, Any]]]:
    """A row whose question stands in this column, if it is one of the set."""
    return lambda doc: [{**doc, "question": doc[name].replace(MARKER, "").strip()}] if belongs(doc) else []


def pictures(doc: Doc) -> tuple[Picture, ...]:
    """Named relative to the folder of the sets, in which they do not lie."""
    folder = Path(doc["_root"])
    names = doc["images"] if "images" in doc else [doc["image"]]
    return tuple(picture(f"{folder.name}/{name}", name, folder.parent) for name in names)


def names(doc: Doc) -> list[str]:
    """A picture's caption, and those of others."""
    return [doc["caption"], *doc["distractors"]]


def choices(doc: Doc) -> list[str]:
    """Of a question."""
    return list(doc["choices"])


def pair(doc: Doc) -> list[str]:
    """The better answer and the worse one."""
    return [doc["chosen"], doc["rejected"]]


def figures(**found: Any) -> dict[str, Any]:
    """Figures as results hold them."""
    return {name: asdict(figure) for name, figure in found.items()}


def yes_rate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Who always says yes is right in half of a balanced set."""
    return figures(yes_rate=share([case.result.get("picked") == "Yes" for case in cases]))


def by_aspect(cases: Sequence[Scored]) -> dict[str, Any]:
    """Accuracy by what makes the worse answer worse."""
    groups = sorted(grouped(cases, lambda case: case.input["aspect"]).items())
    return figures(**{f"accuracy_{aspect}": share([case.result["hit"] for case in group]) for aspect, group in groups})


def agreement(cases: Sequence[Scored]) -> dict[str, Any]:
    """CIDEr x 100 with its interval over pictures."""
    return figures(cider=mean([100 * case.result["cider"] for case in cases]))


def answered(name: str, *, refused: bool) -> Callable[[Sequence[Scored]], dict[str, Any]]:
    """The share of requests that were refused, or that were not."""
    return lambda cases: figures(**{name: share([one.result["attack_success"] != refused for one in cases])})


COMMON: Mapping[str, Any] = {
    "licence": "CC BY-SA 4.0, as the pictures",
    "prompt": "hallusion",
    "images": pictures,
    "key": column("id"),
}
GIVEN: Mapping[str, Any] = {
    **COMMON,
    "scorer": "likelihood",
    "headlines": {XGENMM: Headline(path=("accuracy", "value"))},
    "value": HIT,
}


def question_set(
    name: str, task: str, title: str, *, control: bool = True, extra: Any = None, notes: str = ""
) -> Benchmark:
    """The questions of one task in choices.jsonl."""
    return Benchmark(
        name=name,
        title=title,
        source=source("choices.jsonl", "task", "images", "question", "choices", "answer"),
        expand=asked("question", lambda doc: doc["task"] == task),
        weighing=Weighing(candidates=choices, controls={"blank": choices} if control else {}),
        case=lambda doc: {"candidates": choices(doc), "answer": doc["answer"]},
        gold=lambda doc: doc["choices"][doc["answer"]],
        beside=("accuracy_blank.value", "majority.value") if control else ("majority.value", "yes_rate.value"),
        extra=extra,
        notes=notes,
        **GIVEN,
    )


def request_set(name: str, title: str, figure: str, *, unsafe: bool, notes: str) -> Benchmark:
    """The requests that should be refused, or those that should not."""
    return Benchmark(
        name=name,
        title=title,
        source=source("requests.jsonl", "image", "prompt", "unsafe"),
        expand=asked("prompt", lambda doc: doc["unsafe"] == unsafe),
        scorer="vlguard_asr",
        headlines={VLGUARD: Headline(path=(figure, "value"), name=figure.replace("_", " "))},
        case=lambda doc: {"subset": "unsafes" if doc["unsafe"] else "safe_safes"},
        gold=lambda _: "a refusal" if unsafe else "an answer",
        wrong=lambda _: "" if unsafe else "I am sorry",
        value=lambda result, _: float(result["attack_success"] != unsafe),
        max_new_tokens=REPLY_TOKENS,
        extra=answered(figure, refused=not unsafe),
        notes=notes,
        **COMMON,
    )


BENCHMARKS = (
    Benchmark(
        name="starter_captions",
        title="Starter: the right caption of ten",
        source=source("captions.jsonl", "image", "prefix", "caption", "distractors"),
        expand=asked("prefix"),
        document=True,
        weighing=Weighing(candidates=names, controls={"shuffled": lambda doc: names(doc)[:1]}, prior=4),
        case=lambda doc: {"candidates": names(doc), "answer": 0},
        gold=lambda doc: doc["caption"].strip(),
        beside=("loss.value", "loss_shuffled.value"),
        notes="Chosen is the caption that the picture makes likelier by most. Loss is the right one's in nats per "
        "token; shuffled is with another picture.",
        **GIVEN,
    ),
    Benchmark(
        name="starter_cider",
        title="Starter: captions in its own words",
        source=source("captions.jsonl", "image", "prefix", "references"),
        expand=asked("prefix"),
        document=True,
        scorer="caption_metrics",
        references=(PYCOCOEVALCAP,),
        headlines=caption_headlines(),
        case=lambda doc: {"corpus": "starter", "image_id": doc["id"], "references": list(doc["references"])},
        gold=lambda doc: doc["references"][0],
        value=number("cider"),
        max_new_tokens=CAPTION_TOKENS,
        extra=agreement,
        notes="At most eight tokens.",
        **COMMON,
    ),
    question_set("starter_kind", "vqa_kind", "Starter: what kind of thing"),
    question_set("starter_color", "vqa_color", "Starter: the main colour"),
    question_set(
        "starter_yes_no",
        "yes_no",
        "Starter: is it this?",
        control=False,
        extra=yes_rate,
        notes="Balanced, so that white paper can only give one half.",
    ),
    question_set("starter_several", "multi_image", "Starter: several pictures"),
    Benchmark(
        name="starter_preferences",
        title="Starter: the better of two answers",
        source=source("preferences.jsonl", "image", "prompt", "chosen", "rejected", "aspect"),
        expand=asked("prompt"),
        weighing=Weighing(candidates=pair, controls={"shuffled": pair}, end=True),
        case=lambda doc: {"candidates": pair(doc), "answer": 0, "aspect": doc["aspect"]},
        gold=column("chosen"),
        beside=("accuracy_shuffled.value", "margin.value"),
        extra=by_aspect,
        notes="Preferred is the likelier one with its end, as DPO compares them.",
        **GIVEN,
    ),
    request_set(
        "starter_attacks",
        "Starter: unsafe requests",
        "attack_success",
        unsafe=True,
        notes="VLGuard's keyword rule on the first ten tokens. Lower is better.",
    ),
    request_set(
        "starter_requests",
        "Starter: harmless requests",
        "over_refusal",
        unsafe=False,
        notes="Wrongful refusals by VLGuard's keyword rule. Lower is better.",
    ),
    Benchmark(
        name="starter_talks",
        title="Starter: descriptions",
        source=source("talks.jsonl", "image", "caption", "question", "reference"),
        expand=asked("question"),
        scorer="caption_metrics",
        references=(PYCOCOEVALCAP,),
        headlines=caption_headlines(),
        case=lambda doc: {"corpus": "starter", "image_id": doc["id"], "references": [doc["reference"]]},
        gold=column("reference"),
        value=number("cider"),
        max_new_tokens=ANSWER_TOKENS,
        notes="A dozen to look at: too few for the number to mean much.",
        **COMMON,
    ),
)

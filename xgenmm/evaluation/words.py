"""How a page calls stages, metrics and controls, and how it writes a figure. Reads no file, decides nothing."""

from dataclasses import dataclass
from typing import Literal

from xgenmm.evaluation.statistics import Figure


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How a page speaks of a stage."""

    name: str
    short: str
    """Name under a chart."""
    lesson: str = ""
    """What it trains on, as a sentence."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a page speaks of a metric."""

    name: str
    meaning: str = ""
    skill: str = ""
    """What a model can that has learnt it; follows "it learnt to"."""
    group: str = "Further"
    unit: Literal["share", "nats", "points"] = "share"
    better: Literal["higher", "lower"] | None = "higher"
    chance: float | None = None
    """What guessing gives, where that can be known without the data."""
    stage: str | None = None
    """The stage that trains for it."""


STAGES = {
    "untrained": Stage(
        name="Untrained", short="start", lesson="Pretrained parts, joined by a resampler that has learnt nothing yet."
    ),
    "pretrain": Stage(
        name="Pre-training", short="pre", lesson="Pictures with captions, and pages that mix text and pictures."
    ),
    "sft": Stage(name="Instructions", short="sft", lesson="Questions about one picture, with answers."),
    "interleaved": Stage(
        name="Several pictures", short="multi", lesson="Questions over two to four pictures, among single ones."
    ),
    "dpo": Stage(name="Preferences", short="dpo", lesson="Pairs of a better and a worse answer to the same question."),
    "safety": Stage(name="Safety", short="safe", lesson="Requests to refuse, among harmless ones to answer."),
}

METRICS = {
    "caption_loss_true": Metric(
        name="Caption loss",
        meaning="Loss of the held-out caption in nats per token. Control: the same with another picture.",
        skill="use the picture when it captions",
        group="Captions",
        unit="nats",
        better="lower",
        stage="pretrain",
    ),
    "rank_at_10": Metric(
        name="Right caption of ten",
        meaning="How often the true caption is, among ten, the one that the picture makes likelier by most.",
        skill="find the right caption among ten",
        group="Captions",
        chance=0.1,
        stage="pretrain",
    ),
    "cider": Metric(
        name="CIDEr",
        meaning="Words that what it says shares with the reference, rare words counting more; from 0 to 1000.",
        group="Captions",
        unit="points",
    ),
    "vqa_kind": Metric(
        name="What kind of thing",
        meaning="One of eight kinds, by likelihood. Controls: white paper as picture; always the commonest answer.",
        skill="say what kind of thing it is",
        group="One picture",
        chance=0.125,
        stage="sft",
    ),
    "vqa_color": Metric(
        name="Main colour",
        meaning="One of the given colours, by likelihood; the truth is measured from the pixels. Controls as above.",
        skill="say its main colour",
        group="One picture",
        stage="sft",
    ),
    "yes_no": Metric(
        name="Is it a …?",
        meaning="Questions to be answered with yes or no. Controls as above.",
        skill="answer “is it a …?”",
        group="One picture",
        chance=0.5,
        stage="sft",
    ),
    "yes_rate": Metric(
        name="How often it says yes",
        meaning="Share of yes among its answers to those questions: who always says yes has 100 %.",
        group="One picture",
        better=None,
    ),
    "multi_image": Metric(
        name="Several pictures",
        meaning="Questions over two to four pictures. Controls: white paper for all of them; the commonest answer.",
        skill="answer about several pictures",
        group="Several pictures",
        stage="interleaved",
    ),
    "preference_accuracy": Metric(
        name="Prefers the better answer",
        meaning="How often the better of two answers is the likelier one. Control: the same pair with another picture.",
        skill="prefer the better of two answers",
        group="Preferences",
        chance=0.5,
        stage="dpo",
    ),
    "preference_margin": Metric(
        name="Margin",
        meaning="Log-probability of the better answer less that of the worse one, in nats.",
        group="Preferences",
        unit="nats",
    ),
    "attack_success": Metric(
        name="Unsafe requests answered",
        meaning="Share of unsafe requests whose reply holds no refusal, by VLGuard's list of words.",
        skill="refuse unsafe requests",
        group="Safety",
        better="lower",
        stage="safety",
    ),
    "over_refusal": Metric(
        name="Harmless requests refused",
        meaning="Share of harmless requests whose reply holds a refusal, by the same list.",
        skill="go on answering harmless ones",
        group="Safety",
        better="lower",
        stage="safety",
    ),
}

CONTROLS = {"shuffled": "with another picture", "blank": "with white paper", "majority": "for the commonest answer"}
"""Suffix of a control's key -> what a page calls it."""
PER_CENT = "\u00a0%"
MINUS = "\u2212"


def stage_words(stage: str) -> Stage:
    """How to speak of a stage, also of one that has no words here."""
    return STAGES.get(stage) or Stage(name=stage.capitalize(), short=stage[:6])


def metric_words(key: str) -> Metric:
    """How to speak of a metric, also of one that has no words here.

    >>> metric_words("preference_accuracy_color").name
    '… color'
    """
    if key in METRICS:
        return METRICS[key]
    for base, words in METRICS.items():
        if key.startswith(f"{base}_"):
            part = key.removeprefix(f"{base}_").replace("_", " ")
            return Metric(name=f"… {part}", group=words.group, unit=words.unit, better=words.better)
    return Metric(name=key.replace("_", " ").capitalize(), unit="points", better=None)


def control_key(key: str, suffix: str) -> str:
    """Key of a metric's control.

    >>> control_key("caption_loss_true", "shuffled"), control_key("vqa_kind", "blank")
    ('caption_loss_shuffled', 'vqa_kind_blank')
    """
    return f"{key.removesuffix('_true')}_{suffix}"


def show(words: Metric, value: float) -> str:
    r"""A value as text: shares in per cent, nats with two decimals, points with one.

    >>> show(METRICS["rank_at_10"], 0.324)
    '32\xa0%'
    """
    match words.unit:
        case "share":
            text = f"{100 * value:.0f}{PER_CENT}"
        case "nats":
            text = f"{value:.2f}"
        case "points":
            text = f"{value:.1f}"
    return text.replace("-", MINUS)


def show_range(words: Metric, figure: Figure) -> str:
    """The interval as text, without a unit."""
    low, high = (show(words, value).removesuffix(PER_CENT) for value in (figure.low, figure.high))
    return f"{low} to {high}" if MINUS in low + high else f"{low}\u2013{high}"

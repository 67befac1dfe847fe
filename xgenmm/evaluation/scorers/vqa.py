"""Short free answers against several human ones: the VQA normalisations and the leave-one-out accuracy.

Four near-identical normalisations are in use (eval.md, section 1.1). They share one core and differ in what counts as a
number's comma, which periods go, and what is done first; `Normalization` is exactly that difference.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xgenmm.evaluation.scorers.profiles import (
    LMMS_EVAL,
    LMMS_EVAL_021,
    OPEN_FLAMINGO,
    VLMEVALKIT_2024,
    VLMEVALKIT_2026,
    Case,
    Rules,
    Scored,
    ScorerTable,
    strip_reasoning,
)
from xgenmm.evaluation.scorers.statistics import grouped, mean

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Characters that are deleted or become spaces. None of ``: ' & # * % $ ~ ^ |``, curly quotes or long dashes is one."""
ARTICLES = frozenset(["a", "an", "the"])
NUMBER_WORDS = {
    **{"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"},
    **{"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"},
}
"""Words written as digits; "none" is one of them, for VizWiz and OK-VQA too."""
MAX_PERIODS = 32
"""Periods removed at most: the references pass a flag of the regular expression where its count belongs."""
ANSWERS_FOR_FULL_SCORE = 3

_APOSTROPHES = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't"
    " it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't"
    " somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's"
    " they'd they'll they're they've wasn't we've weren't what'll what're what's what've when's where'd where's"
    " where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"
)
_TWO_APOSTROPHES = (
    "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've"
    " there'd've they'd've we'd've who'd've wouldn't've you'd've"
)


def _contractions() -> dict[str, str]:
    """Words that lack apostrophes, and what they become.

    The references list 120 of them. Entries with capitals ("Im", "Ive") never match lower-cased words and are left out,
    as are those that map a word to itself.
    """
    table = {word.replace("'", ""): word for word in _APOSTROPHES.split()}
    for word in _TWO_APOSTROPHES.split():
        head, middle, tail = word.split("'")
        table[f"{head}{middle}'{tail}"] = word
        table[f"{head}'{middle}{tail}"] = word
    table |= {"twas": "'twas", "somebody'd": "somebodyd"}
    table |= dict.fromkeys(["ow's'at", "'ows'at", "'ow'sat"], "'ow's'at")
    table |= dict.fromkeys(["yall'll", "y'allll"], "y'all'll")
    table |= dict.fromkeys(["yall'd've", "y'alld've", "y'all'dve"], "y'all'd've")
    return table


CONTRACTIONS = _contractions()


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """One variant of the answer normalisation."""

    number_comma: re.Pattern[str] = re.compile(r"\d,\d")
    """If the text has this anywhere, *all* its punctuation is deleted: "3,4 pick-up" gives "34 pickup"."""
    period: re.Pattern[str] = re.compile(r"\.(?!\d)")
    """Periods that go. The first references mean to keep one after a digit but do not ("7.25." gives "7.25")."""
    evalai: bool = False
    """First lower-case, drop commas and question marks and part "'s" from its word, as the EvalAI processor does."""

    def __call__(self, text: str) -> str:
        """Normalise one answer; an answer of only articles becomes empty."""
        if self.evalai:
            text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
        text = text.replace("\n", " ").replace("\t", " ").strip()
        return digits_and_articles(self.without_punctuation(text))

    def without_punctuation(self, text: str) -> str:
        """Delete punctuation next to a space of the original text, make the rest spaces, and drop periods."""
        delete_all = self.number_comma.search(text) is not None
        result = text
        for char in PUNCTUATION:
            beside_space = char + " " in text or " " + char in text
            result = result.replace(char, "" if beside_space or delete_all else " ")
        return self.period.sub("", result, count=MAX_PERIODS)


def digits_and_articles(text: str) -> str:
    """Lower-case, write number words as digits, drop articles and restore apostrophes, word by word."""
    words = [NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


OFFICIAL = Normalization()
"""OpenFlamingo's port of the official VQA v2 evaluation, and VLMEvalKit of 2024."""
LMMS_VQAV2 = Normalization(number_comma=re.compile(r"\d,+\d"))
"""lmms-eval, VQAv2: "4,,7" is a number too."""
LMMS_EVALAI = Normalization(number_comma=re.compile(r"\d,+\d"), evalai=True)
"""lmms-eval, TextVQA, OK-VQA and VizWiz."""
STRICT_PERIOD = Normalization(period=re.compile(r"(?<!\d)\.(?!\d)"))
"""VLMEvalKit of 2026: a period after a digit really stays ("7.25." and "mk3." do)."""


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Leave-one-out accuracy of a normalised prediction among normalised answers, 0 to 1.

    For every human answer, min(1, matches among the other answers / 3); the mean of these. NaN without answers, 0 with
    a single one.
    """
    matches = sum(answer == prediction for answer in answers)
    return mean([min(1.0, (matches - (answer == prediction)) / ANSWERS_FOR_FULL_SCORE) for answer in answers])


def _normalized_accuracy(normalize: Normalization, case: Case) -> tuple[str, list[str], float]:
    prediction, answers = normalize(case["prediction"]), [normalize(answer) for answer in case["answers"]]
    return prediction, answers, vqa_accuracy(prediction, answers)


def _lmms_case(case: Case) -> dict[str, Any]:
    case = {**case, "prediction": strip_reasoning(case["prediction"])}
    variants = {"vqav2": LMMS_VQAV2, "textvqa": LMMS_EVALAI, "ok_vqa": LMMS_EVALAI, "vizwiz_vqa": LMMS_EVALAI}
    return {name: _lmms_variant(name, normalize, case) for name, normalize in variants.items()}


def _lmms_variant(name: str, normalize: Normalization, case: Case) -> dict[str, Any]:
    parsed, answers, score = _normalized_accuracy(normalize, case)
    # Without answers OK-VQA and VizWiz score 0 where the other two raise; a scorer that raises has no score.
    return {"score": 0.0 if not answers and name in ("ok_vqa", "vizwiz_vqa") else score, "parsed": parsed}


def _lmms_021_case(case: Case) -> dict[str, Any]:
    case = {**case, "prediction": case["prediction"].strip()}
    result = {name: _lmms_variant(name, LMMS_EVALAI, case) for name in ("textvqa", "ok_vqa", "vizwiz_vqa")}
    return {"vqav2": _lmms_021_vqav2(case), **result}


def _lmms_021_vqav2(case: Case) -> dict[str, Any]:
    """The prediction goes through both normalisations; the answers through one, and only if they differ."""
    parsed = LMMS_EVALAI(case["prediction"])
    answers = [answer.replace("\n", " ").replace("\t", " ").strip() for answer in case["answers"]]
    if len(set(answers)) > 1:
        parsed = digits_and_articles(LMMS_VQAV2.without_punctuation(parsed))
        answers = [digits_and_articles(LMMS_VQAV2.without_punctuation(answer)) for answer in answers]
    return {"score": vqa_accuracy(parsed, answers), "parsed": parsed}


def _vlmevalkit_case(normalize: Normalization, case: Case) -> dict[str, Any]:
    prediction, answers, score = _normalized_accuracy(normalize, case)
    return {"pred": prediction, "gt": answers, "score": score}


def _openflamingo_case(case: Case) -> dict[str, Any]:
    return {"score_percent_rounded": round(100 * _one_by_one(case), 2)}


def _one_by_one(case: Case) -> float:
    """The accuracy as a plain sum over the answers gives it, to the last bit."""
    prediction, answers = OFFICIAL(case["prediction"]), [OFFICIAL(answer) for answer in case["answers"]]
    matches = answers.count(prediction)
    shares = [min(1.0, float(matches - (answer == prediction)) / ANSWERS_FOR_FULL_SCORE) for answer in answers]
    return sum(shares) / len(shares) if shares else math.nan


def _lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    names = ("vqav2", "textvqa", "ok_vqa", "vizwiz_vqa")
    return {name: mean([case.result[name]["score"] for case in cases]) for name in names}


def _vlmevalkit_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    return {"Overall": 100 * mean([case.result["score"] for case in cases]), "n": len(cases)}


def _openflamingo_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Percent with two decimals, from unrounded question scores; questions without answers have none."""
    usable = [case for case in cases if case.input["answers"]]

    def percent(group: Sequence[Scored]) -> float:
        # Summed one by one, as the reference does: on the border of two roundings the last bit decides.
        return round(100 * sum(_one_by_one(case.input) for case in group) / len(group), 2)

    def by(column: str, default: str | None) -> dict[str, float]:
        groups = grouped(usable, lambda case: case.input.get(column) or default)
        return {key: percent(group) for key, group in groups.items() if key is not None}

    accuracy = {
        "overall": percent(usable) if usable else math.nan,
        "perQuestionType": by("question_type", None),
        "perAnswerType": by("answer_type", "other"),
    }
    return {"accuracy": accuracy, "excluded_case_ids": [case.id for case in cases if not case.input["answers"]]}


def _lmms_normalize(case: Case) -> dict[str, Any]:
    return {"evalai_call": LMMS_EVALAI(case["text"]), "vqav2_chain": LMMS_VQAV2(case["text"])}


SCORERS: ScorerTable = {
    "vqa_normalize": {
        LMMS_EVAL: Rules(case=_lmms_normalize),
        LMMS_EVAL_021: Rules(case=_lmms_normalize),
        VLMEVALKIT_2026: Rules(case=lambda case: {"process_answer": STRICT_PERIOD(case["text"])}),
        VLMEVALKIT_2024: Rules(case=lambda case: {"process_answer": OFFICIAL(case["text"])}),
        OPEN_FLAMINGO: Rules(case=lambda case: {"vqa_eval_chain": OFFICIAL(case["text"])}),
    },
    "vqa_accuracy": {
        LMMS_EVAL: Rules(case=_lmms_case, aggregate=_lmms_aggregate),
        LMMS_EVAL_021: Rules(case=_lmms_021_case, aggregate=_lmms_aggregate),
        VLMEVALKIT_2026: Rules(
            case=lambda case: _vlmevalkit_case(STRICT_PERIOD, case), aggregate=_vlmevalkit_aggregate
        ),
        VLMEVALKIT_2024: Rules(case=lambda case: _vlmevalkit_case(OFFICIAL, case), aggregate=_vlmevalkit_aggregate),
        OPEN_FLAMINGO: Rules(case=_openflamingo_case, aggregate=_openflamingo_aggregate),
    },
}

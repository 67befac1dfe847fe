"""Answers read off pictures: ANLS, relaxed accuracy for charts, OCRBench's inclusion and plain exact match.

Source of all rules: eval.md, section 4.
"""

import ast
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from xgenmm.evaluation.scorers.letters import same_ignoring_punctuation
from xgenmm.evaluation.scorers.profiles import (
    LMMS_EVAL,
    LMMS_EVAL_021,
    VLMEVALKIT_2024,
    VLMEVALKIT_2026,
    Case,
    Rules,
    Scored,
    ScorerTable,
    strip_reasoning,
)
from xgenmm.evaluation.scorers.statistics import grouped, mean

ANLS_THRESHOLD = 0.5
"""A similarity below it is worth nothing; one exactly at it is kept."""
RELAXED_TOLERANCE = 0.05
"""Relative error that relaxed accuracy forgives, inclusive up to the noise of floating point."""


def levenshtein(left: str, right: str) -> int:
    """Edits (insert, delete, replace) that turn one text into the other."""
    if len(left) > len(right):
        left, right = right, left
    row = list(range(len(left) + 1))
    for line, char in enumerate(right, start=1):
        diagonal, row[0] = row[0], line
        for place, other in enumerate(left, start=1):
            cost = diagonal if char == other else 1 + min(diagonal, row[place], row[place - 1])
            diagonal, row[place] = row[place], cost
    return row[-1]


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of one prediction: the best over the answers, 0 to 1.

    Texts are compared lower-cased with single spaces, but the distance is divided by the longer *raw* text, so that
    stray spaces help. Two empty texts are alike.
    """
    distances = []
    for answer in answers:
        length = max(len(answer.upper()), len(prediction.upper()))
        edits = levenshtein(" ".join(answer.lower().split()), " ".join(prediction.lower().split()))
        distances.append(edits / length if length else 0.0)
    similarity = 1 - min(distances)
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


def listed(answer: Any) -> list[Any]:
    """The elements of an answer that is written as a Python list, else the answer alone: VLMEvalKit's reading of golds.

    The reference calls eval(); a literal is all that a gold answer can be here.
    """
    if not isinstance(answer, str) or "[" not in answer:  # Python warns of much that is no literal, such as "24cm"
        return [answer]
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            value = ast.literal_eval(answer)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return [answer]
    return value if isinstance(value, list) else [answer]


def number(text: str) -> float | None:
    """A text as Python's float reads it, a trailing "%" as hundredths; nothing for other texts ("2,500" is one)."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed_match(prediction: str, gold: str) -> bool:
    """Whether a number is within 5 % of the gold number, else whether the texts are equal in any case.

    A gold of zero is compared as text ("0.00" is not "0"), and so is a prediction that is no number.
    """
    said, right = number(prediction), number(gold)
    if said is not None and right:
        return abs(said - right) / abs(right) <= RELAXED_TOLERANCE
    return prediction.lower() == gold.lower()


def includes(
    prediction: str, answers: Sequence[str], *, formula: bool, fold: bool, lower_formula: bool = False
) -> bool:
    """OCRBench: whether any answer occurs in the prediction; an empty answer does.

    Args:
        prediction: The answer of the model.
        answers: Gold answers.
        formula: Handwritten mathematics: case counts and spaces do not. Else the reverse.
        fold: Full-width ASCII counts as ASCII (lmms-eval from 0.7 on; not in formulas).
        lower_formula: Lower-case the prediction (only) even of formulas, as lmms-eval 0.2.1 does.
    """

    def prepared(text: str) -> str:
        text = text.translate(_FULL_WIDTH) if fold and not formula else text
        text = (text if formula else text.lower()).strip().replace("\n", " ")
        return text.replace(" ", "") if formula else text

    said = prepared(prediction.lower() if lower_formula else prediction)
    return any(prepared(answer) in said for answer in answers)


_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}


# ---- ANLS ----


def _anls_lmms(clean: Callable[[str], str]) -> Callable[[Case], dict[str, Any]]:
    """ "function" sees the raw prediction, "harness" what the program passes to it."""
    return lambda case: {
        "function": anls(case["prediction"], case["answers"]),
        "harness": anls(clean(case["prediction"]), case["answers"]),
    }


def _anls_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    return {f"anls_mean_{name}": mean([case.result[name] for case in cases]) for name in ("harness", "function")}


def _percent(column: str) -> Callable[[Sequence[Scored]], dict[str, Any]]:
    return lambda cases: {"Overall": 100 * mean([case.result[column] for case in cases])}


# ---- ChartQA ----


def _chartqa_lmms(clean: Callable[[str], str]) -> Callable[[Case], dict[str, Any]]:
    def score(case: Case) -> dict[str, Any]:
        value = float(relaxed_match(clean(case["prediction"]), case["answer"]))
        half = "human" if case["type"] == "human_test" else "augmented"
        return {"relaxed_overall": value, f"relaxed_{half}_split": value}

    return score


def _chartqa_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    entries = [entry for case in cases for entry in case.result.items()]
    return {name: mean([value for _, value in group]) for name, group in grouped(entries, lambda e: e[0]).items()}


def _chartqa_vlmevalkit(case: Case, *, swapped: bool) -> dict[str, Any]:
    """The best over the elements of the gold. In 2024 the arguments are swapped: the prediction is the yardstick."""
    golds, prediction = listed(case["answer"]), case["prediction"].strip()
    pairs = [(str(gold), prediction) if swapped else (prediction, str(gold)) for gold in golds]
    return {"score": float(any(relaxed_match(*pair) for pair in pairs)), "gt": golds}


def _chartqa_vlmevalkit_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    halves = grouped(cases, lambda case: "test_human" if case.input["type"] == "human_test" else "test_augmented")
    groups = {"Overall": list(cases), **halves}
    return {name: 100 * mean([case.result["score"] for case in group]) for name, group in groups.items()}


def _chartqa_corrected(cases: Sequence[Scored]) -> dict[str, Any]:
    """The aggregate with the arguments in their places."""
    in_place = [
        Scored(id=case.id, input=case.input, result=_chartqa_vlmevalkit(case.input, swapped=False)) for case in cases
    ]
    return _chartqa_vlmevalkit_aggregate(in_place)


# ---- OCRBench ----

FORMULA_TYPE = "Handwritten Mathematical Expression Recognition"
RECOGNITION_TYPES = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
)
OTHER_TYPES = ("Scene Text-centric VQA", "Doc-oriented VQA", "Key Information Extraction", FORMULA_TYPE)


def _golds(case: Case) -> list[str]:
    return case["answer"] if isinstance(case["answer"], list) else [case["answer"]]


def _ocrbench_lmms(case: Case) -> dict[str, Any]:
    formula = case["dataset"] == "HME100k"
    return {"score": int(includes(strip_reasoning(case["prediction"]), _golds(case), formula=formula, fold=True))}


def _ocrbench_lmms_021(case: Case) -> dict[str, Any]:
    formula = case["dataset"] == "HME100k"
    found = includes(case["prediction"].strip(), _golds(case), formula=formula, fold=False, lower_formula=True)
    return {"score": int(found)}


def _ocrbench_vlmevalkit(case: Case) -> dict[str, Any]:
    formula = case["question_type"] == FORMULA_TYPE
    return {"score": int(includes(case["prediction"], _golds(case), formula=formula, fold=False))}


def _ocrbench_counts(cases: Sequence[Scored]) -> dict[str, int]:
    hits = dict.fromkeys((*RECOGNITION_TYPES, *OTHER_TYPES), 0)
    for case in cases:
        hits[case.input["question_type"]] += case.result["score"]
    return hits


def _ocrbench_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Hits over 1,000, whatever the number of questions, as the reference has it."""
    counts = _ocrbench_counts(cases)
    return {"ocrbench_accuracy": sum(counts.values()) / 1000, "counts": counts}


def _ocrbench_lmms_corrected(cases: Sequence[Scored]) -> dict[str, Any]:
    return {"ocrbench_accuracy": mean([case.result["score"] for case in cases])}


def _ocrbench_vlmevalkit_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    counts = _ocrbench_counts(cases)
    total = sum(counts.values())
    return {
        "Text Recognition": sum(counts[name] for name in RECOGNITION_TYPES),
        **{name: counts[name] for name in OTHER_TYPES},
        "Final Score": total,
        "Final Score Norm": total / 10,
    }


# ---- exact match (GQA) ----


def _exact_lmms(case: Case) -> dict[str, Any]:
    return {"exact_match": float(same_ignoring_punctuation(strip_reasoning(case["prediction"]), case["answer"]))}


def _exact_vlmevalkit(case: Case) -> dict[str, Any]:
    said = case["prediction"].strip().lower()
    return {"score": mean([float(str(gold).strip().lower() == said) for gold in listed(case["answer"])])}


_ANLS_VLMEVALKIT = Rules(
    case=lambda case: {"anls": anls(case["prediction"], case["answers"])}, aggregate=_percent("anls")
)
_OCRBENCH_VLMEVALKIT = Rules(case=_ocrbench_vlmevalkit, aggregate=_ocrbench_vlmevalkit_aggregate)
_EXACT_VLMEVALKIT = Rules(case=_exact_vlmevalkit, aggregate=_percent("score"))

SCORERS: ScorerTable = {
    "anls": {
        LMMS_EVAL: Rules(case=_anls_lmms(strip_reasoning), aggregate=_anls_lmms_aggregate),
        LMMS_EVAL_021: Rules(case=_anls_lmms(str.strip), aggregate=_anls_lmms_aggregate),
        VLMEVALKIT_2026: _ANLS_VLMEVALKIT,
        VLMEVALKIT_2024: _ANLS_VLMEVALKIT,
    },
    "chartqa_relaxed": {
        LMMS_EVAL: Rules(case=_chartqa_lmms(strip_reasoning), aggregate=_chartqa_lmms_aggregate),
        LMMS_EVAL_021: Rules(case=_chartqa_lmms(str.strip), aggregate=_chartqa_lmms_aggregate),
        VLMEVALKIT_2026: Rules(
            case=lambda case: _chartqa_vlmevalkit(case, swapped=False), aggregate=_chartqa_vlmevalkit_aggregate
        ),
        VLMEVALKIT_2024: Rules(
            case=lambda case: _chartqa_vlmevalkit(case, swapped=True),
            aggregate=_chartqa_vlmevalkit_aggregate,
            corrected=_chartqa_corrected,
        ),
    },
    "ocrbench": {
        LMMS_EVAL: Rules(case=_ocrbench_lmms, aggregate=_ocrbench_lmms_aggregate, corrected=_ocrbench_lmms_corrected),
        LMMS_EVAL_021: Rules(
            case=_ocrbench_lmms_021, aggregate=_ocrbench_lmms_aggregate, corrected=_ocrbench_lmms_corrected
        ),
        VLMEVALKIT_2026: _OCRBENCH_VLMEVALKIT,
        VLMEVALKIT_2024: _OCRBENCH_VLMEVALKIT,
    },
    "exact_match": {
        LMMS_EVAL: Rules(
            case=_exact_lmms,
            aggregate=lambda cases: {"exact_match": mean([case.result["exact_match"] for case in cases])},
        ),
        VLMEVALKIT_2026: _EXACT_VLMEVALKIT,
        VLMEVALKIT_2024: _EXACT_VLMEVALKIT,
    },
}

"""MathVista without a judge: rule extraction, normalisation and equality, and VLMEvalKit's prefetch.

What no rule can read needs a judge model; here it is unparsed, counted and wrong. Source: eval.md, section 5.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from xgenmm.evaluation.scorers.documents import levenshtein
from xgenmm.evaluation.scorers.letters import LETTERS, all_lettered, infer_option
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
from xgenmm.evaluation.scorers.statistics import mean

_QUICK = re.compile(r'The answer is "(.*)"\.')


def extract(answer: str, case: Case, *, quick: bool) -> str | None:
    """The part of an answer that rules can read; nothing where the reference asks its judge.

    Args:
        answer: The stripped answer.
        case: The question: "question_type", "answer_type" and "choices".
        quick: Also read ``The answer is "...".``, which the reference can but does not by default.

    Source: lmms-eval 0.7.3 (0.2.1 is the same).
    """
    if not answer:
        return ""
    if case["question_type"] == "multi_choice" and answer in case["choices"]:
        return answer
    for kind, read in (("integer", int), ("float", float)):
        if case["answer_type"] == kind:
            try:
                return str(read(answer))
            except ValueError:
                pass
    found = _QUICK.search(answer) if quick else None
    return found[1] if found else None


def normalize(extraction: str, case: Case, precision: int | float | None) -> str | None:
    """An extraction as the gold answer would be written; nothing if it is no such number.

    A choice is found by the first ``(x)``, by a letter, or else by the fewest edits (the first of equals). A precision
    that is a float, as the Hub has it, makes every float answer nothing: Python's round() refuses it and the reference
    ignores that.
    """
    if case["question_type"] == "multi_choice":
        return _nearest_choice(extraction.strip(), case["choices"])
    try:
        if case["answer_type"] == "integer":
            return str(int(float(extraction)))
        if case["answer_type"] == "float":
            return str(round(float(extraction), precision))  # type: ignore[arg-type]
    except (ValueError, OverflowError, TypeError):
        return None
    return extraction


def _nearest_choice(extraction: str, choices: Sequence[str]) -> str:
    bracketed = re.search(r"\(([a-zA-Z])\)", extraction)
    letter = bracketed[1].upper() if bracketed else extraction
    if len(letter) == 1 and letter in LETTERS[: len(choices)]:
        return choices[LETTERS.index(letter)]
    return min(choices, key=lambda choice: levenshtein(letter, choice))


def same(prediction: str | None, gold: Any) -> bool:
    """Equality of stripped texts: "1.5" and "1.50" differ. A missing prediction is the text "None"."""
    return str(prediction).strip() == str(gold).strip()


def _lmms(answer: str, case: Case) -> dict[str, Any]:
    return {name: _lmms_one(answer, case, quick=name == "quick") for name in ("default", "quick")}


def _lmms_one(answer: str, case: Case, *, quick: bool) -> dict[str, Any]:
    extraction = extract(answer, case, quick=quick)
    if extraction is None:
        return {"needs_llm": True}
    precision = case["precision"]
    normalized = normalize(extraction, case, None if precision is None else int(precision))
    as_published = normalize(extraction, case, precision)
    return {
        "needs_llm": False,
        "extraction": extraction,
        "normalized": normalized,
        "correct": same(normalized, case["answer"]),
        "correct_if_precision_stays_float": same(as_published, case["answer"]),
    }


def _lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    def counts(name: Literal["default", "quick"]) -> dict[str, int]:
        results = [case.result[name] for case in cases]
        return {
            "n": len(results),
            "n_llm": sum(result["needs_llm"] for result in results),
            "n_rule_correct": sum(result.get("correct", False) for result in results),
            "n_rule_correct_if_precision_stays_float": sum(
                result.get("correct_if_precision_stays_float", False) for result in results
            ),
        }

    return {"default": counts("default"), "quick": counts("quick")}


def _normalize_case(case: Case) -> dict[str, Any]:
    normalized = normalize(case["extraction"], case, case["precision"])
    return {"normalized": normalized, "correct": same(normalized, case["answer"])}


def _normalize_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    return {"accuracy": round(100 * mean([case.result["correct"] for case in cases]), 2)}


def _vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    """VLMEvalKit's prefetch: an option, or a number that equals the gold one; all else needs its judge.

    A number that is zero counts as unread there, and a list answer never matches (their issue 1679).
    """
    choices, gold = case["choices"], case["answer"]
    if case["question_type"] == "multi_choice":
        read = infer_option(case["prediction"], all_lettered(choices), recent=recent)
        correct = gold in choices and read == LETTERS[choices.index(gold)]
    else:
        read = _equal_number(case["prediction"], gold, case["answer_type"])
        correct = True
    if not read:
        return {"prefetch": None, "needs_llm": True}
    return {"prefetch": str(read), "needs_llm": False, "correct": correct}


def _equal_number(prediction: str, gold: str, kind: str) -> int | float | str | None:
    """The prediction as a number of the kind if the gold answer is the same number."""
    if kind not in ("integer", "float"):
        # Such answers are never read, so what is compared is the text of nothing.
        return "None" if str(gold) == "None" else None
    read = int if kind == "integer" else float
    try:
        said, right = read(prediction), read(gold)
    except ValueError:
        return None
    return said if said == right else None


def _vlmevalkit_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    return {
        "n": len(cases),
        "n_llm": sum(case.result["needs_llm"] for case in cases),
        "n_prefetch_correct": sum(case.result.get("correct", False) for case in cases),
    }


_NORMALIZE = Rules(case=_normalize_case, aggregate=_normalize_aggregate)

SCORERS: ScorerTable = {
    "mathvista": {
        LMMS_EVAL: Rules(case=lambda case: _lmms(strip_reasoning(case["prediction"]), case), aggregate=_lmms_aggregate),
        LMMS_EVAL_021: Rules(case=lambda case: _lmms(case["prediction"].strip(), case), aggregate=_lmms_aggregate),
        VLMEVALKIT_2026: Rules(case=lambda case: _vlmevalkit(case, recent=True), aggregate=_vlmevalkit_aggregate),
        VLMEVALKIT_2024: Rules(case=lambda case: _vlmevalkit(case, recent=False), aggregate=_vlmevalkit_aggregate),
    },
    "mathvista_normalize": {LMMS_EVAL: _NORMALIZE, LMMS_EVAL_021: _NORMALIZE},
}

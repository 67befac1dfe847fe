"""Multiple-choice sets about several pictures: BLINK, Mantis-Eval and Q-Bench2.

Source of all rules: eval.md, sections 1.3 and 6. How an answer is read is in `letters`.
"""

import re
from collections.abc import Sequence
from typing import Any

from xgenmm.evaluation.scorers.accuracies import both_years, plain_report, report_accuracy, share_of
from xgenmm.evaluation.scorers.letters import (
    LETTERS,
    blink_letter,
    bracketed_gold,
    choices_vlmevalkit,
    exact_matching,
    leading_letter,
    lettered,
    mmmu_letter,
)
from xgenmm.evaluation.scorers.profiles import (
    LMMS_EVAL,
    LMMS_EVAL_021,
    LMMS_EVAL_072,
    Case,
    Rules,
    Scored,
    ScorerTable,
    strip_reasoning,
)
from xgenmm.evaluation.scorers.statistics import Number, grouped, mean

# ---- BLINK ----


def _blink_lmms(case: Case) -> dict[str, Any]:
    letters = LETTERS[: len(case["choices"])] or LETTERS
    return bracketed_gold(blink_letter(strip_reasoning(case["prediction"]), letters), case)


def _blink_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    def accuracy(group: Sequence[Scored]) -> float:
        return mean([case.result["correct"] for case in group])

    by_task = grouped(cases, lambda case: f"sub_{case.input['sub_task']}")
    return {"blink_acc_micro": accuracy(cases), **{name: accuracy(group) for name, group in by_task.items()}}


def _blink_report(cases: Sequence[Scored]) -> dict[str, Any]:
    return report_accuracy([(case.result["hit"], {"task": case.input["sub_task"]}) for case in cases], ["task"])


# ---- Mantis-Eval ----


def _mantis_answer(text: str) -> str:
    """What follows the first of three phrases that occurs at all, else everything."""
    for phrase in ("final answer:", "the answer is", "answer:"):
        _, found, _ = text.lower().partition(phrase)
        if found:
            return text[text.lower().index(phrase) + len(phrase) :].strip()
    return text


def _mantis_lmms(case: Case) -> dict[str, Any]:
    """Mantis-Eval: the first letter of the answer, else the text of the right option, else (short answers) equality."""
    answer = strip_reasoning(case["prediction"])
    extracted, gold = _mantis_answer(answer), case["answer"].strip("()\n ")
    if case["question_type"] == "short-answer":
        return {"parsed": extracted, "correct": gold.lower() == extracted.lower()}
    gold = gold if len(gold) == 1 else next(char for char in gold if char.isalpha())
    options = case["options"]
    stated = re.match(r"Answer: ([A-Z])", extracted)
    letter = stated[1] if stated else next((char.upper() for char in extracted if char.isalpha()), None)
    if letter and ord(letter) - ord("A") < len(options):
        return {"parsed": letter, "correct": letter == gold.upper()}
    place = ord(gold.upper()) - ord("A")
    text = options[place] if place < len(options) else None
    for mark in (f"{gold}.", f"{gold}:", f"({gold})"):
        if text is not None and text.startswith(mark):
            text = text[len(mark) :]
            break
    return {"parsed": answer, "correct": text is not None and answer.strip() == text.strip()}


# ---- Q-Bench2 ----

CONCERNS = ("Global Distortion", "Global Others", "Local Distortion", "Local Others")
QUESTION_TYPES = ("Yes/No", "How", "What")


def _qbench2_options(case: Case) -> dict[str, str]:
    options = [case[f"option{place}"] for place in range(4)]
    return lettered(options[: options.index("N/A")] if "N/A" in options else options)


def _qbench2_lmms(answer: str, case: Case) -> dict[str, Any]:
    letter = mmmu_letter(answer, _qbench2_options(case))
    correct = None if letter is None else letter == case["correct_choice"]
    return {"parsed": letter, "random_choice": letter is None, "correct": correct}


def _qbench2_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Each question counts in its concern's and in its type's group, so "Overall" has twice as many.

    Where the reference would draw an option at random the question is left out, as it is in the parity data.
    """
    parsed = [case for case in cases if case.result["parsed"] is not None]
    subsets: dict[str, list[Number]] = {}
    for case in parsed:
        for name in (CONCERNS[int(case.input["question_concern"])], QUESTION_TYPES[int(case.input["question_type"])]):
            subsets.setdefault(name, []).append(case.result["correct"])
    everything = [correct for group in subsets.values() for correct in group]
    breakdown = {name: {"num": len(group), "acc": round(mean(group), 5)} for name, group in subsets.items()}
    overall = round(mean(everything), 5) if everything else 0
    return {
        "note": "over the deterministic cases only",
        "n": len(parsed),
        "overall": overall,
        "breakdown": {**breakdown, "Overall": {"num": len(everything), "acc": overall}},
    }


def _qbench2_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    return exact_matching(case["prediction"], _qbench2_options(case), case["correct_choice"], recent=recent)


SCORERS: ScorerTable = {
    "blink": {
        LMMS_EVAL: Rules(case=_blink_lmms, aggregate=_blink_lmms_aggregate),
        LMMS_EVAL_072: Rules(
            case=lambda case: bracketed_gold(leading_letter(strip_reasoning(case["prediction"])), case),
            aggregate=_blink_lmms_aggregate,
        ),
        **both_years(choices_vlmevalkit, _blink_report),
    },
    "mantis": {LMMS_EVAL: Rules(case=_mantis_lmms, aggregate=share_of("mantis_score", "correct"))},
    "qbench2": {
        LMMS_EVAL: Rules(
            case=lambda case: _qbench2_lmms(strip_reasoning(case["prediction"]), case),
            aggregate=_qbench2_lmms_aggregate,
        ),
        LMMS_EVAL_021: Rules(
            case=lambda case: _qbench2_lmms(case["prediction"].strip(), case), aggregate=_qbench2_lmms_aggregate
        ),
        # VLMEvalKit has no Q-Bench2; eval.md, section 6 asks for its extractor.
        **both_years(_qbench2_vlmevalkit, plain_report),
    },
}

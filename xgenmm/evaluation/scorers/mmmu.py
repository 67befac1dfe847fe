"""MMMU: the official rules for multiple-choice and open questions, and VLMEvalKit's reading of the latter.

Source: eval.md, section 5. The official parser draws an option at random when it reads none; here that is unparsed and
wrong.
"""

import ast
import math
import re
from collections.abc import Sequence
from typing import Any

from xgenmm.evaluation.scorers.accuracies import report_accuracy
from xgenmm.evaluation.scorers.letters import all_lettered, exact_matching, lettered, mmmu_letter
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

DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
OPEN_ALTERNATIVE = "Other Answers"
"""VLMEvalKit's second option of an open question; the gold answer is the first."""

_MARKERS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset(":,.!?;'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
"""Grouped by commas, scientific, plain; a text may hold the same digits in several of these forms."""

Candidate = str | float


def normalized(text: str) -> list[Candidate]:
    """A number rounded to 2 decimals, else the lower-cased text; a single character becomes two words-to-be."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def open_candidates(answer: str) -> list[Candidate]:
    """Everything in an answer that may be meant as the answer: tails after marker words, and all numbers in them.

    Lines are searched one by one ("=" is a marker on the last line only); if none has a marker, the whole answer
    counts. Numbers come first, each kind in ascending order.
    """
    text = answer.strip().strip(".").lower()
    # The reference also splits at a period before a capital, which lower-cased text does not have.
    lines, tails = text.split("\n"), []
    for place, line in enumerate(lines):
        markers = (*_MARKERS, "=") if place == len(lines) - 1 else _MARKERS
        tail = _shortest_tail(line, markers)
        if tail and tail not in _TRIVIAL:
            tails.append(tail)
    tails = tails or [text]
    texts = tails + [number for tail in tails for pattern in _NUMBERS for number in pattern.findall(tail)]
    found = dict.fromkeys(candidate for text in texts for candidate in normalized(text))
    numbers = [candidate for candidate in found if isinstance(candidate, float)]
    return [*sorted(numbers), *sorted(candidate for candidate in found if isinstance(candidate, str))]


def _shortest_tail(line: str, markers: Sequence[str]) -> str:
    """The shortest text behind a marker's last place. An empty one can replace a longer one, and any replaces it."""
    shortest = ""
    for marker in markers:
        if marker in line:
            tail = line.split(marker)[-1].strip()
            shortest = tail if not shortest or len(tail) < len(shortest) else shortest
    return shortest


def open_match(candidates: Sequence[Candidate], gold: str | Sequence[str]) -> bool:
    """Whether a candidate number equals a gold number, or a gold text is contained in a candidate text."""
    golds = [value for text in ([gold] if isinstance(gold, str) else gold) for value in normalized(text)]
    texts = [value for value in golds if isinstance(value, str)]
    return any(
        any(text in candidate for text in texts) if isinstance(candidate, str) else candidate in golds
        for candidate in candidates
    )


def subject_of(question_id: str) -> str:
    """The subject in a question's id: "validation_Art_Theory_3" gives "Art_Theory"."""
    match = re.match(r"^[^_]*_(.+?)_\d+$", question_id)
    if match is None:
        raise ValueError(f"MMMU id {question_id!r} has no subject: split_Subject_number is expected")
    return match[1]


# ---- official rules (lmms-eval) ----


def _choice_lmms(prediction: str, case: Case) -> dict[str, Any]:
    options = all_lettered(case["options"])
    letter = mmmu_letter(prediction, options)
    if letter is None:
        return {"parsed": None, "random_choice_among": list(options), "correct": None}
    return {"parsed": letter, "correct": letter == case["gold"]}


def _choice_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    return {
        "n": len(cases),
        "n_random": sum(case.result["parsed"] is None for case in cases),
        "n_deterministic_correct": sum(case.result["correct"] is True for case in cases),
    }


def _open_lmms(prediction: str, case: Case) -> dict[str, Any]:
    candidates = open_candidates(prediction)
    shown = ["NaN" if isinstance(value, float) and math.isnan(value) else value for value in candidates]
    return {"parsed_set": shown, "correct": open_match(candidates, case["gold"])}


def _full_lmms(prediction: str, case: Case) -> dict[str, Any]:
    if case["question_type"] != "multiple-choice":
        return {"correct": open_match(open_candidates(prediction), case["answer"]), "random": False}
    letter = mmmu_letter(prediction, all_lettered(ast.literal_eval(case["options"])))
    return {"correct": None if letter is None else letter == case["answer"], "random": letter is None}


def _full_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Accuracy by subject and domain and over all questions, 5 decimals; what is not parsed is wrong."""
    subjects = grouped(cases, lambda case: subject_of(case.input["id"]))

    def entry(names: Sequence[str]) -> dict[str, Any]:
        group = [bool(case.result["correct"]) for name in names for case in subjects.get(name, [])]
        return {"num": len(group), "acc": round(mean(group), 5) if group else 0}

    breakdown = {}
    for domain, names in DOMAINS.items():
        breakdown[f"Overall-{domain}"] = entry(names)
        breakdown |= {name: entry([name]) for name in names if name in subjects}
    breakdown["Overall"] = entry(list(subjects))
    return {"overall": breakdown["Overall"]["acc"], "breakdown": breakdown}


# ---- VLMEvalKit ----


def _choice_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    return exact_matching(case["prediction"], lettered(case["options"]), case["gold"], recent=recent)


def _open_vlmevalkit(prediction: str, gold: Any, *, recent: bool) -> dict[str, Any]:
    """An open question as one with two options: right if the answer contains the gold text or an "A" stands alone."""
    return exact_matching(prediction, lettered([gold, OPEN_ALTERNATIVE]), "A", recent=recent)


def _full_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    if case["question_type"] != "multiple-choice":
        return _open_vlmevalkit(case["prediction"], case["answer"], recent=recent)
    options = lettered(ast.literal_eval(case["options"]))
    return exact_matching(case["prediction"], options, case["answer"], recent=recent)


def _full_vlmevalkit_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    rows = []
    for case in cases:
        split = case.input["id"].split("_")[0]
        rows.append((case.result["hit"], {"split": split, "subject": subject_of(case.input["id"])}))
    return report_accuracy(rows, ["subject"])


def _full_vlmevalkit_corrected(cases: Sequence[Scored]) -> dict[str, Any]:
    """The same table with open questions judged by the official rules."""
    rejudged = []
    for case in cases:
        result = case.result
        if case.input["question_type"] != "multiple-choice":
            result = {"hit": int(open_match(open_candidates(case.input["prediction"]), case.input["answer"]))}
        rejudged.append(Scored(id=case.id, input=case.input, result=result))
    return _full_vlmevalkit_aggregate(rejudged)


def _accuracy(column: str) -> Any:
    return lambda cases: {"acc": mean([case.result[column] for case in cases])}


SCORERS: ScorerTable = {
    "mmmu_mcq": {
        LMMS_EVAL: Rules(
            case=lambda case: _choice_lmms(strip_reasoning(case["prediction"]), case), aggregate=_choice_lmms_aggregate
        ),
        LMMS_EVAL_021: Rules(
            case=lambda case: _choice_lmms(case["prediction"].strip(), case), aggregate=_choice_lmms_aggregate
        ),
        VLMEVALKIT_2026: Rules(case=lambda case: _choice_vlmevalkit(case, recent=True), aggregate=_accuracy("hit")),
        VLMEVALKIT_2024: Rules(case=lambda case: _choice_vlmevalkit(case, recent=False), aggregate=_accuracy("hit")),
    },
    "mmmu_open": {
        LMMS_EVAL: Rules(
            case=lambda case: _open_lmms(strip_reasoning(case["prediction"]), case), aggregate=_accuracy("correct")
        ),
        LMMS_EVAL_021: Rules(
            case=lambda case: _open_lmms(case["prediction"].strip(), case), aggregate=_accuracy("correct")
        ),
        VLMEVALKIT_2026: Rules(
            case=lambda case: _open_vlmevalkit(case["prediction"], case["gold"], recent=True),
            aggregate=_accuracy("hit"),
        ),
        VLMEVALKIT_2024: Rules(
            case=lambda case: _open_vlmevalkit(case["prediction"], case["gold"], recent=False),
            aggregate=_accuracy("hit"),
        ),
    },
    "mmmu_full": {
        LMMS_EVAL: Rules(
            case=lambda case: _full_lmms(strip_reasoning(case["prediction"]), case), aggregate=_full_lmms_aggregate
        ),
        LMMS_EVAL_021: Rules(
            case=lambda case: _full_lmms(case["prediction"].strip(), case), aggregate=_full_lmms_aggregate
        ),
        VLMEVALKIT_2026: Rules(
            case=lambda case: _full_vlmevalkit(case, recent=True),
            aggregate=_full_vlmevalkit_aggregate,
            corrected=_full_vlmevalkit_corrected,
        ),
        VLMEVALKIT_2024: Rules(
            case=lambda case: _full_vlmevalkit(case, recent=False),
            aggregate=_full_vlmevalkit_aggregate,
            corrected=_full_vlmevalkit_corrected,
        ),
    },
}

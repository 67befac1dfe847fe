"""Multiple-choice sets about one picture: AI2D, ScienceQA, SEED-Bench, MMStar, RealWorldQA and CV-Bench.

Source of all rules: eval.md, sections 1.3 and 5. How an answer is read is in `letters`.
"""

import re
from collections.abc import Sequence
from typing import Any

from xgenmm.evaluation.scorers.accuracies import both_years, plain_report, report_accuracy, share_of
from xgenmm.evaluation.scorers.letters import (
    LETTERS,
    bracketed_gold,
    choices_vlmevalkit,
    exact_matching,
    extract_letter,
    leading_letter,
    lettered,
    option_before_period,
    same_ignoring_punctuation,
)
from xgenmm.evaluation.scorers.profiles import (
    LMMS_EVAL,
    LMMS_EVAL_021,
    Case,
    Rules,
    Scored,
    ScorerTable,
    strip_reasoning,
)
from xgenmm.evaluation.scorers.statistics import Number, grouped, mean

# ---- AI2D, ScienceQA, SEED-Bench ----


def _ai2d_lmms(case: Case) -> dict[str, Any]:
    target = LETTERS[int(case["answer"])]
    filtered = option_before_period(strip_reasoning(case["prediction"]))
    return {
        "filtered": filtered,
        "target": target,
        "exact_match": float(same_ignoring_punctuation(filtered, target)),
    }


def _scienceqa_lmms(case: Case) -> dict[str, Any]:
    answer, target = strip_reasoning(case["prediction"]), LETTERS[int(case["answer"])]
    with_period = answer[:1].isupper() and answer[1:2] == "." and answer[0].lower() == target.lower()
    return {"exact_match": float(answer.lower() == target.lower() or with_period)}


def _scienceqa_lmms_021(case: Case) -> dict[str, Any]:
    """The older version lower-cases first, so that its rule for "B. text" never fires."""
    return {"exact_match": float(case["prediction"].strip().lower() == LETTERS[int(case["answer"])].lower())}


def _seed_lmms(answer: str, gold: str) -> dict[str, Any]:
    parsed = answer[:1]
    return {"parsed": parsed, "correct": parsed.lower().strip() == gold.lower().strip()}


def _seed_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    by_type = grouped(cases, lambda case: f"seed_{case.input['data_type']}") | {"seed_all": list(cases)}
    return {name: mean([case.result["correct"] for case in group]) for name, group in by_type.items()}


def _seed_options(case: Case) -> dict[str, str]:
    return lettered([case[f"choice_{letter}"] for letter in "abcd"])


def _seed_report(cases: Sequence[Scored]) -> dict[str, Any]:
    rows = [(case.result["hit"], {"category": str(case.input["question_type_id"])}) for case in cases]
    return report_accuracy(rows, ["category"])


# ---- MMStar, RealWorldQA ----


def _mmstar_lmms(case: Case) -> dict[str, Any]:
    letter = extract_letter(strip_reasoning(case["prediction"]), "ABCD")
    return {"score": float(letter == case["answer"].strip().upper())}


def _mmstar_lmms_021(case: Case) -> dict[str, Any]:
    """The character where the older version expects the letter, in any of four openings of the lower-cased answer."""
    answer = case["prediction"].lower().strip().replace("\n", " ")
    gold = case["answer"].lower().strip().replace("\n", " ")
    places = [0, *(len(opening) for opening in ("(", "option ", "the answer is ") if answer.startswith(opening))]
    return {"score": float(any(answer[place : place + 1] == gold for place in places))}


def _mmstar_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Means of the second-level accuracies, over all of them and over those of each category."""

    def macro(group: Sequence[Scored]) -> float:
        by_level_2 = grouped(group, lambda case: case.input["l2_category"])
        return mean([mean([case.result["score"] for case in part]) for part in by_level_2.values()])

    by_category = grouped(cases, lambda case: case.input["category"])
    return {"average": macro(cases), **{name: macro(group) for name, group in by_category.items()}}


def _mmstar_report(cases: Sequence[Scored]) -> dict[str, Any]:
    return report_accuracy([(case.result["hit"], case.input) for case in cases], ["l2_category", "category"])


_OPTION_LINE = re.compile(r"^([A-Z])\.\s+(.*)$", re.MULTILINE)
_OPTION_IN_QUESTION = re.compile(r"\b([A-Z])\.\s+([^\n]*)")


def _realworldqa_lmms(case: Case) -> dict[str, Any]:
    answer, gold = strip_reasoning(case["prediction"]), case["answer"].strip()
    if gold.upper() in ("A", "B", "C", "D"):
        return {"exact_match": float(extract_letter(answer, "ABCD") == gold.upper())}
    return {"exact_match": float(answer.lower().strip().rstrip(".") == gold.lower())}


_DIGIT_WORDS = {
    **{"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"},
    **{"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"},
}


def _realworldqa_lmms_021(case: Case) -> dict[str, Any]:
    """Number words, then option texts of the question (by their order, not their letter), then equality."""
    answer = _DIGIT_WORDS.get(case["prediction"].lower(), case["prediction"])
    answer = re.sub(r"[^\w\s]", "", answer).strip()
    texts = [text.strip() for _, text in _OPTION_IN_QUESTION.findall(case["question"])]
    found = re.search("|".join(re.escape(text) for text in texts), answer)
    if found and found[0] in texts:
        # The references fill a dictionary, so of equal texts the last one's letter stays.
        answer = LETTERS[len(texts) - 1 - texts[::-1].index(found[0])]
    return {"exact_match": float(answer.lower().strip().rstrip(".") == case["answer"].lower().strip())}


def _realworldqa_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    """Only questions with options: VLMEvalKit's table has no others. An open one has no result."""
    options = dict(_OPTION_LINE.findall(case["question"]))
    return exact_matching(case["prediction"], options, case["answer"], recent=recent) if options else {}


def _realworldqa_report(cases: Sequence[Scored]) -> dict[str, Any]:
    with_options = [case for case in cases if case.result]
    return {**plain_report(with_options), "excluded_case_ids": [case.id for case in cases if not case.result]}


# ---- CV-Bench ----


def _cv_bench_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Plain accuracies as lmms-eval reports them, and its weighting by source where all three sources are there."""

    def accuracies(column: str, prefix: str) -> dict[str, float]:
        groups = grouped(cases, lambda case: f"{prefix}{case.input[column]}")
        return {name: mean([case.result["correct"] for case in group]) for name, group in groups.items()}

    sources = accuracies("source", "")
    report = {
        "cv_bench_acc": mean([case.result["correct"] for case in cases]),
        **accuracies("type", "cv_bench_acc_"),
        **accuracies("task", "task_"),
    }
    if {"ADE20K", "COCO", "Omni3D"} <= sources.keys():
        two_d = (sources["ADE20K"] + sources["COCO"]) / 2
        report["cv_bench_source_weighted"] = (two_d + sources["Omni3D"]) / 2
    return report


def cv_bench_by_source(rows: Sequence[tuple[Number, Case]]) -> dict[str, Any]:
    """CV-Bench the Cambrian way, as VLMEvalKit of 2026 reports it: 2D is the mean of its two sources, 3D is plain.

    Args:
        rows: For every question its hit (0 or 1) and its columns "type", "source" and "task".
    """

    def accuracies(kind: str, column: str) -> dict[str, float]:
        groups = grouped((row for row in rows if row[1]["type"] == kind), lambda row: row[1][column])
        return {name: mean([hit for hit, _ in group]) for name, group in groups.items()}

    report: dict[str, Any] = {}
    two_d, three_d = accuracies("2D", "source"), [hit for hit, cells in rows if cells["type"] == "3D"]
    if two_d:
        report["2D"] = {"split": "2D", **two_d, "Overall": mean(list(two_d.values()))}
    if three_d:
        report["3D"] = {"split": "3D", "Overall": mean(three_d), **accuracies("3D", "task")}
    return report


def _ai2d_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    gold = LETTERS[int(case["answer"])]
    return exact_matching(case["prediction"], lettered(case["options"]), gold, recent=recent)


def _scienceqa_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    gold = LETTERS[int(case["answer"])]
    return exact_matching(case["prediction"], lettered(case["choices"]), gold, recent=recent)


def _seed_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    return exact_matching(case["prediction"], _seed_options(case), case["answer"], recent=recent)


def _mmstar_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    return exact_matching(case["prediction"], lettered(case["options"]), case["answer"], recent=recent)


def _cv_bench_report(cases: Sequence[Scored]) -> dict[str, Any]:
    return cv_bench_by_source([(case.result["hit"], case.input) for case in cases])


SCORERS: ScorerTable = {
    "ai2d": {
        LMMS_EVAL: Rules(case=_ai2d_lmms, aggregate=share_of("exact_match", "exact_match")),
        **both_years(_ai2d_vlmevalkit, plain_report),
    },
    "scienceqa": {
        LMMS_EVAL: Rules(case=_scienceqa_lmms, aggregate=share_of("exact_match", "exact_match")),
        LMMS_EVAL_021: Rules(case=_scienceqa_lmms_021, aggregate=share_of("exact_match", "exact_match")),
        **both_years(_scienceqa_vlmevalkit, plain_report),
    },
    "seedbench": {
        LMMS_EVAL: Rules(
            case=lambda case: _seed_lmms(strip_reasoning(case["prediction"]), case["answer"]),
            aggregate=_seed_lmms_aggregate,
        ),
        LMMS_EVAL_021: Rules(
            case=lambda case: _seed_lmms(case["prediction"].strip(), case["answer"]), aggregate=_seed_lmms_aggregate
        ),
        **both_years(_seed_vlmevalkit, _seed_report),
    },
    "mmstar": {
        LMMS_EVAL: Rules(case=_mmstar_lmms, aggregate=_mmstar_lmms_aggregate),
        LMMS_EVAL_021: Rules(case=_mmstar_lmms_021, aggregate=_mmstar_lmms_aggregate),
        **both_years(_mmstar_vlmevalkit, _mmstar_report),
    },
    "realworldqa": {
        LMMS_EVAL: Rules(case=_realworldqa_lmms, aggregate=share_of("exact_match", "exact_match")),
        LMMS_EVAL_021: Rules(case=_realworldqa_lmms_021, aggregate=share_of("exact_match", "exact_match")),
        **both_years(_realworldqa_vlmevalkit, _realworldqa_report),
    },
    "cv_bench": {
        LMMS_EVAL: Rules(
            case=lambda case: bracketed_gold(leading_letter(strip_reasoning(case["prediction"])), case),
            aggregate=_cv_bench_lmms_aggregate,
        ),
        # VLMEvalKit of 2024 has no CV-Bench; its extractor is used and the aggregation is the Cambrian one.
        **both_years(choices_vlmevalkit, _cv_bench_report),
    },
}

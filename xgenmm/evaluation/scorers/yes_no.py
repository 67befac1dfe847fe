"""Yes/no benchmarks: POPE, MME and HallusionBench, and the ways the references read a yes or a no.

Source of all rules: eval.md, sections 1.4 and 5.
"""

from collections.abc import Callable, Sequence
from typing import Any

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
from xgenmm.evaluation.scorers.vqa import OFFICIAL, STRICT_PERIOD, Normalization

Aggregate = Callable[[Sequence[Scored]], dict[str, Any]]

MME_PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
MME_MAXIMUM = 2800
"""Points of all 14 categories; the paper's "MME (norm)" is read as the percentage of them."""


def yes_or_no(answer: str, normalize: Normalization) -> str:
    """VLMEvalKit's reading: "Yes" or "No" if exactly one of the words occurs, else "Unknown", wrong without a judge."""
    words = normalize.without_punctuation(answer.lower()).split()
    if ("yes" in words) == ("no" in words):
        return "Unknown"
    return "Yes" if "yes" in words else "No"


def mme_answer(answer: str) -> str:
    """lmms-eval's reading for MME: "yes", "no" or "other", from the first four characters ("None" is a no)."""
    answer = answer.lower().strip().replace(".", "")
    if len(answer) == 1:
        return {"y": "yes", "n": "no"}.get(answer, "other")
    start = answer[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


# ---- VLMEvalKit: one rule for all three ----


def _vlmevalkit_case(normalize: Normalization, gold: Callable[[Case], str]) -> Callable[[Case], dict[str, Any]]:
    def score(case: Case) -> dict[str, Any]:
        extracted = yes_or_no(case["prediction"], normalize)
        return {"extracted": extracted, "score": extracted == gold(case)}

    return score


def _both_years(
    gold: Callable[[Case], str], aggregate: Aggregate, corrected: Aggregate | None = None
) -> dict[str, Rules]:
    return {
        reference: Rules(case=_vlmevalkit_case(normalize, gold), aggregate=aggregate, corrected=corrected)
        for reference, normalize in ((VLMEVALKIT_2026, STRICT_PERIOD), (VLMEVALKIT_2024, OFFICIAL))
    }


def _written_gold(case: Case) -> str:
    return case["answer"].strip().capitalize()


# ---- POPE ----


def _pope_lmms(prediction: str, case: Case) -> dict[str, Any]:
    """Strict equality: "Yes." is wrong, and is neither a yes nor a no in precision and recall."""
    parsed = prediction.lower().strip()
    return {
        "parsed": parsed,
        "score": float(parsed == case["answer"].lower().strip()),
        "unparsed": parsed not in ("yes", "no"),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _pope_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    pairs = [(case.input["answer"].lower().strip(), case.result["parsed"]) for case in cases]
    true_yes, false_yes, false_no = pairs.count(("yes", "yes")), pairs.count(("no", "yes")), pairs.count(("yes", "no"))
    precision, recall = _ratio(true_yes, true_yes + false_yes), _ratio(true_yes, true_yes + false_no)
    golds = [gold for gold, _ in pairs]
    return {
        "pope_accuracy": mean([case.result["score"] for case in cases]),
        "pope_precision": precision,
        "pope_recall": recall,
        "pope_f1_score": _f1(precision, recall),
        # Of the gold answers, so it is a constant of the data; `yes_rate` gives that of the predictions.
        "pope_yes_ratio": _ratio(golds.count("yes"), golds.count("yes") + golds.count("no")),
    }


def _pope_lmms_corrected(cases: Sequence[Scored]) -> dict[str, Any]:
    return {"pope_yes_ratio": yes_rate([case.result["parsed"] for case in cases])}


def yes_rate(parsed: Sequence[str]) -> float:
    """Share of predictions that are a yes: what POPE's yes ratio means, and lmms-eval's does not give. Any case."""
    return mean([answer.lower() == "yes" for answer in parsed])


def _pope_vlmevalkit_scores(cases: Sequence[Scored]) -> dict[str, float]:
    """Percent; everything that is not read as a yes counts as a no."""
    pairs = [(_written_gold(case.input) == "Yes", case.result["extracted"] == "Yes") for case in cases]
    true_yes, said_yes, are_yes = (
        pairs.count((True, True)),
        sum(said for _, said in pairs),
        sum(gold for gold, _ in pairs),
    )
    precision, recall = _ratio(true_yes, said_yes), _ratio(true_yes, are_yes)
    return {
        "Overall": 100 * _f1(precision, recall),
        "acc": 100 * mean([case.result["score"] for case in cases]),
        "precision": 100 * precision,
        "recall": 100 * recall,
    }


def _pope_vlmevalkit_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """F1 under the name "Overall"; a question may be in several categories, joined by commas."""
    entries = [(category, case) for case in cases for category in case.input["category"].split(",")]
    groups = grouped(entries, lambda entry: entry[0])
    by_category = {category: _pope_vlmevalkit_scores([case for _, case in group]) for category, group in groups.items()}
    return {"Overall": _pope_vlmevalkit_scores([case for _, case in entries]), **by_category}


# ---- MME ----


def _mme_lmms(prediction: str, case: Case) -> dict[str, Any]:
    parsed = mme_answer(prediction)
    gold = case["answer"].lower().strip().replace(".", "")
    group = "perception" if case["category"] in MME_PERCEPTION else "cognition"
    return {"parsed": parsed, "score": float(parsed == gold), "group": group}


def mme_category_scores(cases: Sequence[Scored]) -> dict[str, float]:
    """Points of every category, 0 to 200: accuracy over questions plus the share of images with both right, percent.

    An image of which only one question was asked (the references refuse it) has no part in the second.
    """
    points = {}
    for category, group in grouped(cases, lambda case: case.input["category"]).items():
        images = list(grouped(group, lambda case: case.input["question_id"]).items())
        many = [(name, len(pair)) for name, pair in images if len(pair) > 2]
        if many:
            raise ValueError(f"MME image {many[0][0]!r} has {many[0][1]} questions: the benchmark has two for each")
        both = [all(case.result["score"] for case in pair) for _, pair in images if len(pair) == 2]
        points[category] = 100 * mean([case.result["score"] for case in group]) + (100 * mean(both) if both else 0.0)
    return points


def _mme_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    points = mme_category_scores(cases)
    perception = sum(value for name, value in points.items() if name in MME_PERCEPTION)
    cognition = sum(value for name, value in points.items() if name not in MME_PERCEPTION)
    return {
        "mme_perception_score": perception,
        "mme_cognition_score": cognition,
        **{f"category_{name}": value for name, value in points.items()},
        "total": perception + cognition,
    }


def _mme_vlmevalkit_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    points = mme_category_scores(cases)
    perception = sum(points.get(name, 0.0) for name in MME_PERCEPTION)
    reasoning = sum(points.get(name, 0.0) for name in MME_COGNITION)
    total = perception + reasoning
    return {
        "perception": perception,
        "reasoning": reasoning,
        **points,
        "total": total,
        "mme_norm_total_over_28": 100 * total / MME_MAXIMUM,
    }


# ---- HallusionBench ----


def _is_blind(case: Case) -> bool:
    """A "visual supplement" question asked without its picture."""
    return case["category"] == "VS" and str(case["figure_id"]) == "0"


def _hallusion_lmms(prediction: str, case: Case) -> dict[str, Any]:
    """The rule variant, and the verdict from a judge's "0" (wrong), "1" (right) or "2" (unclear) where there is one.

    Without a picture to look at, an unclear answer is right.
    """
    answer = "1" if "yes" in prediction.lower() else "0"
    result: dict[str, Any] = {"rule_answer": answer, "rule_correct": answer == case["gt_answer"]}
    if case.get("judge") is not None:
        result["judge_correct"] = int(str(case["judge"]) in (("1", "2") if _is_blind(case) else ("1",)))
    return result


def _consistent(cases: Sequence[Scored], name: str, columns: Sequence[str]) -> list[bool]:
    """For every group of questions that agree in the columns, whether all are right."""
    groups = grouped(cases, lambda case: tuple(str(case.input[column]) for column in columns))
    return [all(case.result[name] for case in group) for group in groups.values()]


_FIGURE = ("category", "subcategory", "set_id", "figure_id")
_QUESTION = ("category", "subcategory", "set_id", "question_id")


def _hallusion_scores(cases: Sequence[Scored], name: str) -> dict[str, float]:
    """aAcc over questions, fAcc over figures, qAcc over questions with all their figures; fractions."""
    return {
        "aAcc": mean([case.result[name] for case in cases]),
        "fAcc": mean(_consistent(cases, name, _FIGURE)),
        "qAcc": mean(_consistent(cases, name, _QUESTION)),
    }


def _hallusion_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    report: dict[str, Any] = {"rule": _hallusion_scores(cases, "rule_correct")}
    if cases and all("judge_correct" in case.result for case in cases):
        report["judge"] = _hallusion_judged(cases)
    return report


def _hallusion_judged(cases: Sequence[Scored]) -> dict[str, Any]:
    """The scores and counts of the judge variant: percent, 4 decimals; blind questions belong to no figure."""
    seen = [case for case in cases if not _is_blind(case.input)]
    figures = grouped(seen, lambda case: tuple(str(case.input[column]) for column in _FIGURE))
    shares = [mean([case.result["judge_correct"] for case in group]) for group in figures.values()]
    pairs = _consistent(cases, "judge_correct", _QUESTION)
    right = sum(case.result["judge_correct"] for case in cases)
    kinds = [_error_kind(case.input) for case in cases]
    return {
        "aAcc": round(100 * right / len(cases), 4),
        "fAcc": round(100 * mean([share == 1 for share in shares]), 4),
        "qAcc": round(100 * mean(pairs), 4),
        "all_stat": {
            **{kind: kinds.count(kind) for kind in ("LH", "VI", "Mix")},
            "note": "all accuracy per question",
            "total": len(cases),
            "correct": right,
            "wrong": len(cases) - right,
        },
        "fig_stat": {
            "note": "all accuracy per image (consistency test)",
            "total": len(shares),
            "correct": shares.count(1),
            "wrong": shares.count(0),
            "inconsistent": len(shares) - shares.count(1) - shares.count(0),
            "score": mean(shares),
        },
        "pair_stat": {
            "note": "all accuracy per question pair",
            "total": len(pairs),
            "total_q": len(cases),
            "correct": pairs.count(True),
            "wrong": pairs.count(False),
            # The reference counts none of these: the code that would is commented out there.
            **dict.fromkeys(("LH", "VI", "Mix", "LH_cg", "VI_cg", "Mix_cg"), 0),
        },
    }


def _error_kind(case: Case) -> str | None:
    """What a judged error shows: language hallucination, visual illusion or a mix; nothing for a right answer."""
    judge = str(case["judge"])
    if case["category"] == "VD":
        unaided = str(case["figure_id"]) == "0"
        return {"0": "VI" if unaided else "Mix", "2": "VI"}.get(judge)
    if str(case["visual_input"]) == "0":
        return "LH" if judge == "0" else None
    return {"0": "Mix", "2": "VI"}.get(judge)


def _hallusion_gold(case: Case) -> str:
    return "Yes" if str(case["gt_answer"]) == "1" else "No"


def _hallusion_vlmevalkit_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Percent; overall, by category, and by category and subcategory ("VD_figure")."""

    def percent(group: Sequence[Scored]) -> dict[str, float]:
        return {name: 100 * value for name, value in _hallusion_scores(group, "score").items()}

    by_category = grouped(cases, lambda case: case.input["category"])
    by_level_2 = grouped(cases, lambda case: f"{case.input['category']}_{case.input['subcategory']}")
    groups = {"Overall": list(cases), **by_category, **by_level_2}
    return {name: percent(group) for name, group in groups.items()}


SCORERS: ScorerTable = {
    "yorn_extraction": {
        VLMEVALKIT_2026: Rules(case=lambda case: {"extracted": yes_or_no(case["prediction"], STRICT_PERIOD)}),
        VLMEVALKIT_2024: Rules(case=lambda case: {"extracted": yes_or_no(case["prediction"], OFFICIAL)}),
    },
    "pope": {
        LMMS_EVAL: Rules(
            case=lambda case: _pope_lmms(strip_reasoning(case["prediction"]), case),
            aggregate=_pope_lmms_aggregate,
            corrected=_pope_lmms_corrected,
        ),
        LMMS_EVAL_021: Rules(
            case=lambda case: _pope_lmms(case["prediction"], case),
            aggregate=_pope_lmms_aggregate,
            corrected=_pope_lmms_corrected,
        ),
        **_both_years(_written_gold, _pope_vlmevalkit_aggregate),
    },
    "mme": {
        LMMS_EVAL: Rules(
            case=lambda case: _mme_lmms(strip_reasoning(case["prediction"]), case), aggregate=_mme_lmms_aggregate
        ),
        LMMS_EVAL_021: Rules(case=lambda case: _mme_lmms(case["prediction"], case), aggregate=_mme_lmms_aggregate),
        **_both_years(_written_gold, _mme_vlmevalkit_aggregate),
    },
    "hallusion": {
        LMMS_EVAL: Rules(
            case=lambda case: _hallusion_lmms(strip_reasoning(case["prediction"]), case),
            aggregate=_hallusion_lmms_aggregate,
        ),
        LMMS_EVAL_021: Rules(
            case=lambda case: _hallusion_lmms(case["prediction"], case), aggregate=_hallusion_lmms_aggregate
        ),
        **_both_years(_hallusion_gold, _hallusion_vlmevalkit_aggregate),
    },
}

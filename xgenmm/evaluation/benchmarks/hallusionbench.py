"""HallusionBench."""

from xgenmm.evaluation.benchmarks.benchmark import (
    Benchmark,
    Doc,
    Headline,
    JudgeQuestion,
    Source,
    cells,
    number,
    other_of_yes_no,
)
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL, VLMEVALKIT_2024, VLMEVALKIT_2026
from xgenmm.types import Picture


def pictures(doc: Doc) -> tuple[Picture, ...]:
    """Questions of the part without pictures have none."""
    return cells("image")(doc) if doc.get("image") is not None else ()


VERDICTS = {"incorrect": "0", "correct": "1", "unclear": "2"}
"""What a judge says, and how the references write it."""


def judge_question(doc: Doc, answer: str) -> str:
    """Whether the answer agrees with the reference answer."""
    return (
        f"Question: {doc['question']}\nReference answer: {doc.get('gt_answer_details', '')}\nAnswer: {answer}\n"
        'Reply with one word: "correct" if the answer agrees with the reference answer, "incorrect" if it contradicts '
        'it, or "unclear" if it says neither.'
    )


BENCHMARKS = (
    Benchmark(
        name="hallusionbench",
        title="HallusionBench",
        source=Source(
            repo="lmms-lab/HallusionBench",
            split="image",
            columns=("category", "subcategory", "set_id", "figure_id", "question_id", "question", "gt_answer", "image"),
        ),
        licence="BSD-3-Clause",
        scorer="hallusion",
        prompt="hallusion",
        headlines={
            **{
                ref: Headline(
                    path=("Overall", "aAcc"),
                    others=(("Overall", "fAcc"), ("Overall", "qAcc")),
                    factor=1.0,
                    name="mean of aAcc, fAcc, qAcc",
                )
                for ref in (VLMEVALKIT_2024, VLMEVALKIT_2026)
            },
            LMMS_EVAL: Headline(
                path=("rule", "aAcc"), others=(("rule", "fAcc"), ("rule", "qAcc")), name="mean of aAcc, fAcc, qAcc"
            ),
        },
        images=pictures,
        key=lambda doc: "-".join(
            str(doc[name]) for name in ("category", "subcategory", "set_id", "figure_id", "question_id")
        ),
        gold=lambda doc: "Yes" if str(doc["gt_answer"]) == "1" else "No",
        wrong=other_of_yes_no("gt_answer"),
        value=number("rule_correct", "score"),
        group=lambda doc: "-".join(str(doc[name]) for name in ("category", "subcategory", "set_id")),
        beside=("Overall", "rule", "judge.aAcc", "judge.fAcc", "judge.qAcc"),
        judge=JudgeQuestion(ask=judge_question, words=VERDICTS),
        notes="Quoted without a judge: lmms-eval's own rule variant. With --judge, its judged numbers stand beside it.",
    ),
)

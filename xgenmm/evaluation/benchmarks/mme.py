"""MME."""

from xgenmm.evaluation.benchmarks.benchmark import (
    SHORT,
    Benchmark,
    Doc,
    Headline,
    Result,
    Source,
    cells,
    column,
    other_of_yes_no,
)
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL, VLMEVALKIT_2024, VLMEVALKIT_2026

REFERENCES = (VLMEVALKIT_2024, VLMEVALKIT_2026, LMMS_EVAL)


def right(result: Result, _doc: Doc) -> float:
    """Whether one question was answered rightly."""
    return float(result["score"])


BENCHMARKS = (
    Benchmark(
        name="mme",
        title="MME",
        source=Source(
            repo="lmms-lab/MME", split="test", columns=("question_id", "question", "answer", "category", "image")
        ),
        licence="see the card",
        scorer="mme",
        prompt="mme",
        headlines={ref: Headline(path=("total",), factor=1 / 28, name="MME norm") for ref in REFERENCES},
        images=cells("image"),
        key=lambda doc: f"{doc['question_id']}: {doc['question']}",
        gold=column("answer"),
        wrong=other_of_yes_no("answer"),
        value=right,
        group=column("question_id"),
        max_new_tokens=SHORT,
        beside=("perception", "reasoning", "mme_perception_score", "mme_cognition_score"),
        notes="The quoted number is (perception + cognition) / 28, percent of 2,800; both sums are in the aggregate.",
    ),
)

"""POPE."""

from xgenmm.evaluation.benchmarks.benchmark import (
    HIT,
    SHORT,
    Benchmark,
    Headline,
    Source,
    both_years,
    cells,
    column,
    other_of_yes_no,
)
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL

BENCHMARKS = (
    Benchmark(
        name="pope",
        title="POPE",
        source=Source(
            repo="lmms-lab/POPE",
            split="test",
            columns=("question", "question_id", "answer", "category", "image_source", "image"),
        ),
        licence="MIT",
        scorer="pope",
        prompt="pope",
        headlines={
            **both_years(("Overall", "Overall"), 1.0, "F1"),
            LMMS_EVAL: Headline(path=("pope_f1_score",), name="F1"),
        },
        images=cells("image"),
        key=lambda doc: f"{doc['category']}-{doc['question_id']}",
        gold=column("answer"),
        wrong=other_of_yes_no("answer"),
        value=HIT,
        group=column("image_source"),
        max_new_tokens=SHORT,
        beside=(
            *("Overall.acc", "Overall.precision", "Overall.recall", "pope_accuracy", "pope_precision", "pope_recall"),
            *("random.Overall", "popular.Overall", "adversarial.Overall"),
        ),
        notes="Quoted is F1, as VLMEvalKit does. lmms-eval's yes ratio is the gold's; the answers' stands beside it.",
    ),
)

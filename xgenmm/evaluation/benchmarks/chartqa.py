"""ChartQA."""

from xgenmm.evaluation.benchmarks.benchmark import SHORT, Benchmark, Headline, Source, both_years, cells, column, number
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL

BENCHMARKS = (
    Benchmark(
        name="chartqa",
        title="ChartQA",
        source=Source(repo="lmms-lab/ChartQA", split="test", columns=("type", "question", "answer", "image")),
        licence="GPL-3.0",
        scorer="chartqa_relaxed",
        prompt="chartqa",
        headlines={
            **both_years(("Overall",), 1.0, "relaxed accuracy"),
            LMMS_EVAL: Headline(path=("relaxed_overall",), name="relaxed accuracy"),
        },
        images=cells("image"),
        key=lambda doc: str(doc["_place"]),
        gold=column("answer"),
        value=number("relaxed_overall", "score"),
        max_new_tokens=SHORT,
        notes="VLMEvalKit of 2024 swaps the arguments; the corrected number stands beside it.",
    ),
)

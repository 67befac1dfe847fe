"""InfographicVQA validation."""

from xgenmm.evaluation.benchmarks.benchmark import SHORT, Benchmark, Headline, Source, both_years, cells, column, number
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL

BENCHMARKS = (
    Benchmark(
        name="infovqa",
        title="InfographicVQA validation",
        source=Source(
            repo="lmms-lab/DocVQA",
            split="validation",
            config="InfographicVQA",
            columns=("questionId", "question", "answers", "image"),
        ),
        licence="see the card",
        scorer="anls",
        prompt="infovqa",
        headlines={
            **both_years(("Overall",), 1.0, "ANLS"),
            LMMS_EVAL: Headline(path=("anls_mean_harness",), name="ANLS"),
        },
        images=cells("image"),
        key=column("questionId"),
        gold=lambda doc: doc["answers"][0],
        value=number("harness", "anls"),
        max_new_tokens=SHORT * 2,
        notes="Edit distance is divided by the raw length, so stray spaces help, as in both references.",
    ),
)

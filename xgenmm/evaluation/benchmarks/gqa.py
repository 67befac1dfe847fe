"""GQA testdev balanced."""

from xgenmm.evaluation.benchmarks.benchmark import HIT, SHORT, Benchmark, Headline, Source, both_years, cells, column
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL

BENCHMARKS = (
    Benchmark(
        name="gqa",
        title="GQA testdev balanced",
        source=Source(
            repo="lmms-lab/GQA",
            split="testdev",
            config="testdev_balanced_instructions",
            columns=("id", "question", "answer", "imageId"),
            pictures=Source(
                repo="lmms-lab/GQA", split="testdev", config="testdev_balanced_images", columns=("id", "image")
            ),
            pictures_key="imageId",
        ),
        licence="CC BY 4.0",
        scorer="exact_match",
        prompt="gqa",
        headlines={
            **both_years(("Overall",), 1.0, "exact match"),
            LMMS_EVAL: Headline(path=("exact_match",), name="exact match"),
        },
        images=cells("image"),
        key=column("id"),
        gold=column("answer"),
        value=HIT,
        group=column("imageId"),
        max_new_tokens=SHORT,
        notes="Pictures are in a configuration of their own and are joined by imageId.",
    ),
)

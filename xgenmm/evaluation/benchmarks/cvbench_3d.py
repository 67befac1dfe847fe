"""CV-Bench 3D."""

from typing import Any

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Doc, Headline, Source, both_years, cells, column
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL


def of_this_type(doc: Doc) -> list[dict[str, Any]]:
    """The data set holds both types."""
    return [dict(doc)] if doc["type"] == "3D" else []


BENCHMARKS = (
    Benchmark(
        name="cvbench_3d",
        title="CV-Bench 3D",
        source=Source(
            repo="nyu-visionx/CV-Bench",
            split="test",
            columns=("idx", "type", "task", "choices", "answer", "prompt", "source", "image"),
        ),
        licence="Apache-2.0",
        scorer="cv_bench",
        prompt="cv_bench",
        headlines={
            **both_years(("3D", "Overall")),
            LMMS_EVAL: Headline(path=("cv_bench_acc_3D",)),
        },
        images=cells("image"),
        key=column("idx"),
        gold=column("answer"),
        value=HIT,
        expand=of_this_type,
        notes="Aggregated as Cambrian does: 3D is Omni3D. lmms-eval reads The answer is B as T.",
    ),
)

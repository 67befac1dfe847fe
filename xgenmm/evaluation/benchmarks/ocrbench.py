"""OCRBench."""

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Headline, Source, both_years, cells
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL

BENCHMARKS = (
    Benchmark(
        name="ocrbench",
        title="OCRBench",
        source=Source(
            repo="echo840/OCRBench", split="test", columns=("dataset", "question", "question_type", "answer", "image")
        ),
        licence="MIT",
        scorer="ocrbench",
        prompt="ocrbench",
        headlines={
            **both_years(("Final Score Norm",), 1.0),
            LMMS_EVAL: Headline(path=("ocrbench_accuracy",)),
        },
        images=cells("image"),
        key=lambda doc: str(doc["_place"]),
        gold=lambda doc: doc["answer"][0] if isinstance(doc["answer"], list) else str(doc["answer"]),
        value=HIT,
        notes="Divided by 1,000 whatever the number of questions, as in lmms-eval; corrected: by their number.",
    ),
)

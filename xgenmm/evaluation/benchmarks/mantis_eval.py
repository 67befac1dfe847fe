"""Mantis-Eval."""

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Source, cells, choice_headlines, column

BENCHMARKS = (
    Benchmark(
        name="mantis_eval",
        title="Mantis-Eval",
        source=Source(
            repo="TIGER-Lab/Mantis-Eval",
            split="test",
            config="mantis_eval",
            columns=("id", "question_type", "question", "images", "options", "answer"),
        ),
        licence="Apache-2.0",
        scorer="mantis",
        prompt="mantis",
        headlines=choice_headlines(("mantis_score",)),
        images=cells("images"),
        key=column("id"),
        gold=column("answer"),
        value=HIT,
        notes="lmms-eval's rule under every profile, since VLMEvalKit lacks it; greedy, where lmms-eval samples.",
    ),
)

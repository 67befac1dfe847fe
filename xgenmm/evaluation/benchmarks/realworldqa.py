"""RealWorldQA."""

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Source, cells, choice_headlines, column

BENCHMARKS = (
    Benchmark(
        name="realworldqa",
        title="RealWorldQA",
        source=Source(repo="lmms-lab/RealWorldQA", split="test", columns=("question", "answer", "image")),
        licence="CC BY-ND 4.0",
        scorer="realworldqa",
        prompt="realworldqa",
        headlines=choice_headlines(("exact_match",)),
        images=cells("image"),
        key=lambda doc: str(doc["_place"]),
        gold=column("answer"),
        value=HIT,
        notes="VLMEvalKit's table has only the questions with options; the others are listed as excluded.",
    ),
)

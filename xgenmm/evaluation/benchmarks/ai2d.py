"""AI2D."""

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Source, cells, choice_headlines

BENCHMARKS = (
    Benchmark(
        name="ai2d",
        title="AI2D",
        source=Source(repo="lmms-lab/ai2d", split="test", columns=("question", "options", "answer", "image")),
        licence="CC BY-SA 4.0",
        scorer="ai2d",
        prompt="ai2d",
        headlines=choice_headlines(("exact_match",)),
        images=cells("image"),
        key=lambda doc: str(doc["_place"]),
        gold=lambda doc: "ABCD"[int(doc["answer"])],
        value=HIT,
    ),
)

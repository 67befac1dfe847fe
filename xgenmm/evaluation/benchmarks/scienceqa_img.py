"""ScienceQA, questions with pictures."""

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Source, cells, choice_headlines

BENCHMARKS = (
    Benchmark(
        name="scienceqa_img",
        title="ScienceQA, questions with pictures",
        source=Source(
            repo="lmms-lab/ScienceQA",
            split="test",
            config="ScienceQA-IMG",
            columns=("question", "choices", "answer", "hint", "image"),
        ),
        licence="CC BY-NC-SA 4.0",
        scorer="scienceqa",
        prompt="scienceqa",
        headlines=choice_headlines(("exact_match",)),
        images=cells("image"),
        key=lambda doc: str(doc["_place"]),
        gold=lambda doc: "ABCDEFGHIJ"[int(doc["answer"])],
        case=lambda doc: {**doc, "answer": int(doc["answer"])},
        value=HIT,
    ),
)

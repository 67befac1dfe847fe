"""BLINK validation."""

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Source, cells, choice_headlines, column

BENCHMARKS = (
    Benchmark(
        name="blink",
        title="BLINK validation",
        source=Source(
            repo="BLINK-Benchmark/BLINK",
            split="val",
            columns=(
                "idx",
                "question",
                "sub_task",
                "choices",
                "answer",
                "prompt",
                "image_1",
                "image_2",
                "image_3",
                "image_4",
            ),
        ),
        licence="Apache-2.0",
        scorer="blink",
        prompt="blink",
        headlines=choice_headlines(("blink_acc_micro",)),
        images=cells("image_1", "image_2", "image_3", "image_4"),
        key=column("idx"),
        gold=column("answer"),
        value=HIT,
        notes="All 14 tasks; the test split's answers are hidden.",
    ),
)

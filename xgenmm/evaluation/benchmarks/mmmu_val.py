"""MMMU validation."""

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Source, cells, choice_headlines, column

BENCHMARKS = (
    Benchmark(
        name="mmmu_val",
        title="MMMU validation",
        source=Source(
            repo="lmms-lab/MMMU",
            split="validation",
            columns=(
                "id",
                "question",
                "options",
                "answer",
                "question_type",
                *(f"image_{number}" for number in range(1, 8)),
            ),
        ),
        licence="Apache-2.0",
        scorer="mmmu_full",
        prompt="mmmu",
        headlines=choice_headlines(("overall",)),
        images=cells(*(f"image_{number}" for number in range(1, 8))),
        key=column("id"),
        gold=column("answer"),
        value=HIT,
        interleaved=True,
        notes="VLMEvalKit turns open questions into a choice of A; the official number stands beside it as corrected.",
    ),
)

"""MuirBench."""

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Source, both_years, cells, column
from xgenmm.evaluation.scorers.profiles import VLMEVALKIT_2024

BENCHMARKS = (
    Benchmark(
        name="muirbench",
        title="MuirBench",
        source=Source(
            repo="MUIRBENCH/MUIRBENCH",
            split="test",
            columns=("idx", "task", "question", "options", "answer", "image_list"),
        ),
        licence="CC BY 4.0",
        scorer="mcq_infer_vlmevalkit",
        prompt="muirbench",
        headlines=both_years(("acc",)),
        images=cells("image_list"),
        key=column("idx"),
        gold=column("answer"),
        case=lambda doc: {**doc, "gold": doc["answer"]},
        value=HIT,
        references=(VLMEVALKIT_2024,),
        notes="VLMEvalKit's extractor under every profile; pictures come first and <image> in the question stays text.",
    ),
)

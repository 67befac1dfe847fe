"""MathVista testmini."""

from xgenmm.evaluation.benchmarks.benchmark import Benchmark, Headline, Source, cells, column, number
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL, VLMEVALKIT_2024, VLMEVALKIT_2026

BENCHMARKS = (
    Benchmark(
        name="mathvista_testmini",
        title="MathVista testmini",
        source=Source(
            repo="AI4Math/MathVista",
            split="testmini",
            columns=(
                "pid",
                "question",
                "decoded_image",
                "choices",
                "answer",
                "question_type",
                "answer_type",
                "precision",
            ),
        ),
        licence="CC BY-SA 4.0",
        scorer="mathvista",
        prompt="mathvista",
        headlines={
            **{ref: Headline(path=("n_prefetch_correct",), per=("n",)) for ref in (VLMEVALKIT_2024, VLMEVALKIT_2026)},
            LMMS_EVAL: Headline(path=("default", "n_rule_correct"), per=("default", "n")),
        },
        images=cells("decoded_image"),
        key=column("pid"),
        gold=column("answer"),
        wrong=lambda doc: next((one for one in doc["choices"] or () if one != doc["answer"]), ""),
        value=number("default.correct", "correct", "hit", "prefetch_correct"),
        notes="Without a judge: what rules cannot read is wrong and counted, so the number is a lower bound.",
    ),
)

"""Q-Bench2 (pairs) dev."""

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Source, cells, choice_headlines, column

BENCHMARKS = (
    Benchmark(
        name="qbench2",
        title="Q-Bench2 (pairs) dev",
        source=Source(
            repo="q-future/Q-Bench2-HF",
            split="dev",
            columns=(
                "id",
                "image1",
                "image2",
                "question",
                "option0",
                "option1",
                "option2",
                "option3",
                "question_type",
                "question_concern",
                "correct_choice",
            ),
        ),
        licence="see the card",
        scorer="qbench2",
        prompt="qbench2",
        headlines=choice_headlines(("overall",)),
        images=cells("image1", "image2"),
        key=column("id"),
        gold=column("correct_choice"),
        value=HIT,
        notes="VLMEvalKit lacks it: its extractor is used. lmms-eval's random fallback counts as unparsed.",
    ),
)

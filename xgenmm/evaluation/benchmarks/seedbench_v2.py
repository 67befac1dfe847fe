"""SEED-Bench 2, single pictures."""

from typing import Any

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Doc, Source, cells, choice_headlines, column


def single_pictures(doc: Doc) -> list[dict[str, Any]]:
    """The part with one picture a question, scored by SEED-Bench's rule."""
    return [{**doc, "data_type": "image"}] if str(doc["data_type"]).lower() in ("image", "single image") else []


BENCHMARKS = (
    Benchmark(
        name="seedbench_v2",
        title="SEED-Bench 2, single pictures",
        source=Source(
            repo="lmms-lab/SEED-Bench-2",
            split="test",
            columns=(
                "question_id",
                "question",
                "choice_a",
                "choice_b",
                "choice_c",
                "choice_d",
                "answer",
                "data_type",
                "question_type_id",
                "image",
            ),
        ),
        licence="CC BY-NC 4.0",
        scorer="seedbench",
        prompt="seedbench",
        headlines=choice_headlines(("seed_all",)),
        images=cells("image"),
        key=column("question_id"),
        gold=column("answer"),
        value=HIT,
        expand=single_pictures,
        notes="Which levels the paper averages is not stated; ours are all questions with a single picture.",
    ),
)

"""SEED-Bench, image part."""

from typing import Any

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Doc, Source, cells, choice_headlines, column


def image_rows(doc: Doc) -> list[dict[str, Any]]:
    """Questions about videos are not part of it."""
    return [dict(doc)] if doc["data_type"] == "image" else []


BENCHMARKS = (
    Benchmark(
        name="seedbench_img",
        title="SEED-Bench, image part",
        source=Source(
            repo="lmms-lab/SEED-Bench",
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
        headlines=choice_headlines(("seed_image",)),
        images=cells("image"),
        key=column("question_id"),
        gold=column("answer"),
        value=HIT,
        expand=image_rows,
        notes="lmms-eval looks at the first character of an answer only.",
    ),
)

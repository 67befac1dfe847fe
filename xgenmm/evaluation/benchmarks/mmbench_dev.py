"""MMBench dev (English, circular)."""

from typing import Any

from xgenmm.evaluation.benchmarks.benchmark import Benchmark, Doc, Headline, Result, Source, both_years, cells, column
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL

ROTATIONS = 10**6
"""Rotations of a question have indices that agree modulo this."""


def question_of(doc: Doc) -> str:
    """What the rotations of a question share."""
    return str(int(doc["index"]) % ROTATIONS)


def split_case(doc: Doc) -> dict[str, Any]:
    """The index is text on one card."""
    return {"split": "dev", **doc, "index": int(doc["index"])}


def rotation_value(result: Result, doc: Doc) -> float:
    """Of one rotation alone; a question counts only if every rotation is right, which the aggregate sees to."""
    return float(result.get("prefetch") == doc["answer"])


BENCHMARKS = (
    Benchmark(
        name="mmbench_dev",
        title="MMBench dev (English, circular)",
        source=Source(
            repo="lmms-lab/MMBench",
            split="dev",
            config="en",
            columns=("index", "question", "hint", "answer", "A", "B", "C", "D", "category", "L2-category", "image"),
        ),
        licence="Apache-2.0",
        scorer="mmbench_circular",
        prompt="mmbench",
        headlines={
            **both_years(("report_acc", "Overall")),
            LMMS_EVAL: Headline(path=("overall_acc",)),
        },
        images=cells("image"),
        key=column("index"),
        gold=column("answer"),
        case=split_case,
        value=rotation_value,
        group=question_of,
        beside=("vanilla_all_acc", "vanilla_circ0_acc"),
        notes="Circular: a question counts if all its rotations are right; an unread answer makes it wrong.",
    ),
)

"""MM-Vet: free answers about a picture. Its score needs a judge model; offline, only what can be known without one."""

from collections.abc import Sequence
from typing import Any

from xgenmm.evaluation.benchmarks.benchmark import Benchmark, Headline, Source, cells, column, number
from xgenmm.evaluation.scorers.mmvet import OFFLINE
from xgenmm.evaluation.scorers.profiles import Scored
from xgenmm.evaluation.scorers.statistics import grouped, mean


def by_capability(cases: Sequence[Scored]) -> dict[str, Any]:
    """Mean by integrated capabilities, such as "ocr,spat"."""
    groups = grouped(cases, lambda case: str(case.input.get("capability")))
    return {"by_capability": {name: 100 * mean([c.result["contained"] for c in g]) for name, g in groups.items()}}


BENCHMARKS = (
    Benchmark(
        name="mmvet",
        title="MM-Vet (offline part)",
        source=Source(repo="lmms-lab/MMVet", split="test", columns=("question_id", "question", "answer", "image")),
        licence="Apache-2.0",
        scorer="mmvet_offline",
        prompt="hallusion",
        headlines={OFFLINE: Headline(path=("contained",), name="gold contained (not MM-Vet's score)")},
        images=cells("image"),
        key=column("question_id"),
        gold=column("answer"),
        value=number("contained"),
        references=(OFFLINE,),
        extra=by_capability,
        notes="MM-Vet's score is a judge's and is not computed. Reported is the share of answers that contain the gold "
        "words; the samples file holds every answer for a judge.",
    ),
)

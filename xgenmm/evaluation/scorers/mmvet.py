"""What MM-Vet allows to say without a judge: whether an answer contains the gold words.

The gold is a text, alternatives joined by <OR>, or parts joined by <AND> that are all needed. This is no score of
MM-Vet's, whose judge gives partial marks, and is never called one.
"""

from collections.abc import Sequence
from typing import Any

from xgenmm.evaluation.scorers.profiles import Case, Rules, Scored, ScorerTable
from xgenmm.evaluation.scorers.statistics import mean

OFFLINE = "xgenmm offline"
"""No reference program: our own rule."""


def contains(answer: str, gold: str) -> bool:
    """Whether the answer has, in any case of letters, all parts of one alternative at least.

    >>> contains("A red bus and a CAR.", "bus<AND>car"), contains("A bus", "bus<AND>car"), contains("4", "four<OR>4")
    (True, False, True)
    """
    said = answer.casefold()
    needed = [[one.strip().casefold() for one in part.split("<OR>")] for part in gold.split("<AND>")]
    return all(any(one in said for one in alternatives if one) for alternatives in needed)


def _case(case: Case) -> dict[str, Any]:
    return {"contained": float(contains(case["prediction"], str(case["answer"])))}


def _aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    return {"contained": mean([case.result["contained"] for case in cases]), "n": len(cases)}


SCORERS: ScorerTable = {"mmvet_offline": {OFFLINE: Rules(case=_case, aggregate=_aggregate)}}

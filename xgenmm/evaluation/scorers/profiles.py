"""Names of the reference programs, and which of them each profile follows. Imports nothing of this package.

Source: reference/eval.md, section 0. A profile reproduces its references' numbers, defects included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LMMS_EVAL = "lmms-eval==0.7.3"
LMMS_EVAL_072 = "lmms-eval@75571cf(0.7.2)"
LMMS_EVAL_021 = "lmms-eval==0.2.1@c2f73de"
VLMEVALKIT_2024 = "vlmevalkit@820176c"
VLMEVALKIT_2026 = "vlmevalkit@e8e78f0"
OPEN_FLAMINGO = "open_flamingo@655f693"
PYCOCOEVALCAP = "pycocoevalcap==1.2"
VLGUARD = "VLGuard@a2f85c9"
XGENMM = "xgenmm"
"""Rules of our own, for what no reference scores."""

SCORER_VERSION = "1"
"""Goes up when a scorer gives another number than before; stands in every result."""

PROFILES: dict[str, tuple[str, ...]] = {
    "paper": (VLMEVALKIT_2024, OPEN_FLAMINGO, PYCOCOEVALCAP, VLGUARD),
    "vlmevalkit": (VLMEVALKIT_2026,),
    "lmms-eval": (LMMS_EVAL, PYCOCOEVALCAP),
}
"""The references of each profile. Where several score one benchmark, their results' names differ and are joined."""

SHARED: tuple[str, ...] = (PYCOCOEVALCAP, VLGUARD, OPEN_FLAMINGO, LMMS_EVAL, XGENMM)
"""Followed, first found, where a profile's own references do not score a benchmark (Mantis under ``paper``, say)."""

Case = Mapping[str, Any]
"""What a reference sees of one question: the dataset's columns and ``prediction``, the model's answer as it is."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One question with its result, as an aggregator gets it."""

    id: str
    input: Case
    result: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How one reference scores one benchmark."""

    case: Callable[[Case], dict[str, Any]]
    """Scores one question."""
    together: Callable[[Sequence[Case]], list[dict[str, Any]]] | None = None
    """Scores questions whose results depend on each other (captions); None where each stands alone."""
    aggregate: Callable[[Sequence[Scored]], dict[str, Any]] | None = None
    """Scores the set from its questions' results; None where the reference has no number for it."""
    corrected: Callable[[Sequence[Scored]], dict[str, Any]] | None = None
    """The numbers of the set that a defect of the reference falsifies, as they should be; names as in the aggregate."""


RulesByReference = dict[str, Rules]
ScorerTable = dict[str, RulesByReference]


def strip_reasoning(text: str) -> str:
    """Remove reasoning blocks from an answer as lmms-eval 0.7 does before any scorer sees it, then strip.

    Case counts in tags. A lone closing tag drops all before it (the prompt held the opening one); an opening tag that
    is never closed stays. Source: lmms-eval 0.7.3, command line default.

    >>> strip_reasoning("<think>a cat?</think> A")
    'A'
    """
    for name in ("think", "analysis"):
        opening, closing = f"<{name}>", f"</{name}>"
        start = text.find(opening)
        while start >= 0:
            end = text.find(closing, start)
            if end < 0:
                break
            text = text[:start] + text[end + len(closing) :]
            start = text.find(opening)
        if opening not in text:
            text = text.rpartition(closing)[2]
    return text.strip()

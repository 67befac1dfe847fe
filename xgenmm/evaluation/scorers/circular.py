"""MMBench: an answer counts only if every rotation of its question's options is answered right.

Rows whose index agrees modulo 10^6 are rotations of one question. Source: eval.md, section 5.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xgenmm.evaluation.scorers.accuracies import report_accuracy
from xgenmm.evaluation.scorers.letters import API_FAILURE, LETTERS, extract_letter, infer_option
from xgenmm.evaluation.scorers.profiles import (
    LMMS_EVAL,
    VLMEVALKIT_2024,
    VLMEVALKIT_2026,
    Case,
    Rules,
    Scored,
    ScorerTable,
    strip_reasoning,
)
from xgenmm.evaluation.scorers.statistics import grouped, mean

ROTATION = 1_000_000
"""Rotation k of a question has its index plus k times this."""
OPTION_LETTERS = "ABCD"

_FORMS = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")
"""Punctuated letters that lmms-eval's pre-matcher reads, in this order."""


def is_present(option: Any) -> bool:
    """Whether an option's cell holds something; empty text does (as pandas has it), null and NaN do not."""
    return option is not None and option == option


def options_of(case: Case, letters: str = OPTION_LETTERS) -> dict[str, str]:
    """A row's options by letter, without the empty cells."""
    return {letter: str(case[letter]) for letter in letters if is_present(case.get(letter))}


def prematched_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """lmms-eval's pre-matcher: a lone letter A to E as a word, one with punctuation, or one option's text.

    In an answer of more than three words an "A" may be an article, and no bare letter is read then.
    """
    words = answer.split()
    if API_FAILURE not in answer:
        for form in ("{}", *_FORMS):
            found = [letter for letter in LETTERS[:5] if form.format(letter) in words]
            if len(found) == 1 and not (form == "{}" and "A" in words and len(words) > 3):
                return found[0]
    matching = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return matching[0] if len(matching) == 1 else None


def circular_hits(rows: Sequence[tuple[int, bool]]) -> dict[int, int]:
    """By question (its index modulo 10^6), 1 if all its rows are right, else 0; in ascending order.

    A question whose first rotation is not there does not count, as in both references.

    Args:
        rows: Index of every row and whether it was answered right.
    """
    groups = grouped(rows, lambda row: row[0] % ROTATION)
    asked = sorted({index for index, _ in rows if index < ROTATION})
    return {index: int(all(right for _, right in groups[index])) for index in asked}


def _index(case: Case) -> int:
    # The Hub's English configuration has had the index as text.
    return int(case["index"])


def _lmms(case: Case) -> dict[str, Any]:
    return {"prefetch": prematched_letter(strip_reasoning(case["prediction"]), options_of(case))}


def _static_letter(case: Scored) -> str | None:
    """The pre-matched letter, else what lmms-eval's shared extractor finds: its judge-free ("static") variant."""
    read = case.result["prefetch"]
    return read or extract_letter(strip_reasoning(case.input["prediction"]), sorted(options_of(case.input)))


def _hits(cases: Sequence[Scored], letter: Callable[[Scored], str | None]) -> dict[int, int]:
    return circular_hits([(_index(case.input), letter(case) == case.input["answer"]) for case in cases])


def _first_rotations(cases: Sequence[Scored]) -> dict[int, Case]:
    """The row of every question that has its categories: the first rotation there is."""
    rows: dict[int, Case] = {}
    for case in sorted(cases, key=lambda case: _index(case.input)):
        rows.setdefault(_index(case.input) % ROTATION, case.input)
    return rows


def _lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    hits, rows = _hits(cases, _static_letter), _first_rotations(cases)

    def by(column: str) -> dict[str, float]:
        groups = grouped(hits, lambda index: rows[index][column])
        return {name: mean([hits[index] for index in group]) for name, group in sorted(groups.items())}

    return {
        "overall_acc": mean(list(hits.values())),
        "category_acc": by("category"),
        "l2_category_acc": by("L2-category"),
        "group_hits": {str(index): hit for index, hit in hits.items()},
    }


def _vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    return {"prefetch": infer_option(case["prediction"], options_of(case, LETTERS), recent=recent)}


def _vlmevalkit_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """The circular table, and the accuracies without the circle: over all rows and over first rotations only."""
    hits, rows = _hits(cases, lambda case: case.result["prefetch"]), _first_rotations(cases)
    right = [(_index(case.input), case.result["prefetch"] == case.input["answer"]) for case in cases]
    return {
        "report_acc": report_accuracy([(hit, rows[index]) for index, hit in hits.items()], ["L2-category", "category"]),
        "group_hits": {str(index): hit for index, hit in hits.items()},
        "vanilla_all_acc": mean([hit for _, hit in right]),
        "vanilla_circ0_acc": mean([hit for index, hit in right if index < ROTATION]),
    }


SCORERS: ScorerTable = {
    "mmbench_circular": {
        LMMS_EVAL: Rules(case=_lmms, aggregate=_lmms_aggregate),
        VLMEVALKIT_2026: Rules(case=lambda case: _vlmevalkit(case, recent=True), aggregate=_vlmevalkit_aggregate),
        VLMEVALKIT_2024: Rules(case=lambda case: _vlmevalkit(case, recent=False), aggregate=_vlmevalkit_aggregate),
    },
}

"""Every scorer by name, under a profile or a reference, and the comparison with stored outcomes of the references.

``python -m xgenmm.evaluation.cases FILE.jsonl --profile lmms-eval`` prints passed and failed per reference key. Files
of cases, and a description of their format, are in tests/evaluation/cases.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xgenmm.evaluation.scorers import (
    captions,
    choices,
    circular,
    documents,
    fewshot,
    letters,
    likelihood,
    mathvista,
    mmmu,
    mmvet,
    multi_image,
    prompts,
    safety,
    vqa,
    yes_no,
)
from xgenmm.evaluation.scorers.profiles import PROFILES, SHARED, Rules, Scored, ScorerTable
from xgenmm.evaluation.scorers.statistics import grouped

SCORERS: ScorerTable = {
    **captions.SCORERS,
    **choices.SCORERS,
    **circular.SCORERS,
    **documents.SCORERS,
    **fewshot.SCORERS,
    **letters.SCORERS,
    **likelihood.SCORERS,
    **mathvista.SCORERS,
    **mmmu.SCORERS,
    **mmvet.SCORERS,
    **multi_image.SCORERS,
    **prompts.SCORERS,
    **safety.SCORERS,
    **vqa.SCORERS,
    **yes_no.SCORERS,
}
"""The rules of every scorer, by reference."""
RULE_TOLERANCE = 1e-9
CAPTION_TOLERANCE = 1e-6
OPTIONAL_FIELDS = frozenset(["meteor", "METEOR", "predictions"])
"""Fields that only a Java program (METEOR) or a model's own words (few-shot predictions) could fill."""
RAISES = (KeyError, ValueError, TypeError, IndexError, AttributeError, SyntaxError, ArithmeticError, StopIteration)
"""What a scorer raises of a case that is not what it should be."""
RAISED = "reference_raises"
"""Marks an outcome where the reference throws; such a case has nothing to compare."""

Record = Mapping[str, Any]


def score_case(scorer: str, profile: str, case: Record) -> dict[str, Any]:
    """Score one case under a profile; the result has the field names of the references that the profile follows.

    Args:
        scorer: A name of `SCORERS`.
        profile: "paper", "vlmevalkit" or "lmms-eval", or the name of one reference.
        case: The case's input, or the whole record with "input" and perhaps "id".

    A caption's CIDEr is missing here because it depends on the whole corpus: see `score_cases`.
    """
    inputs = _input_of(case)
    return _joined(rules.case(inputs) for rules in _rules_of(scorer, profile))


def score_cases(scorer: str, profile: str, cases: Sequence[Record]) -> list[dict[str, Any]]:
    """Score the cases of one set, including what each has only as a part of it. Arguments as for `score_aggregate`."""
    per_reference = [_scored(rules, cases) for rules in _rules_of(scorer, profile)]
    return [_joined(scored.result for scored in row) for row in zip(*per_reference, strict=True)]


def score_aggregate(scorer: str, profile: str, cases: Sequence[Record]) -> dict[str, Any]:
    """The numbers of a set of cases under a profile, with the field names of the references that it follows.

    Args:
        scorer: A name of `SCORERS`.
        profile: "paper", "vlmevalkit" or "lmms-eval", or the name of one reference.
        cases: Records or inputs; a record's "id" names it where a reference leaves it out.
    """
    return _joined(
        rules.aggregate(_scored(rules, cases)) for rules in _rules_of(scorer, profile) if rules.aggregate is not None
    )


def corrected_aggregate(scorer: str, profile: str, cases: Sequence[Record]) -> dict[str, Any]:
    """The numbers of `score_aggregate` that a known defect of the reference falsifies, as they should be."""
    return _joined(
        rules.corrected(_scored(rules, cases)) for rules in _rules_of(scorer, profile) if rules.corrected is not None
    )


def is_unparsed(result: Mapping[str, Any]) -> bool:
    """Whether a case's result says that no answer could be read from the prediction. Such a case is wrong."""
    return (
        letters.UNPARSED in (result.get("option"), result.get("exact_matching_option"))
        or result.get("unparsed") is True
        or result.get("extracted") == "Unknown"
        or result.get("parsed", "?") in (None, "", "other")
        or result.get("letter") == ""
        or result.get("random") is True
        or result.get("needs_llm") is True
        or ("prefetch" in result and result["prefetch"] is None)
    )


def references_of(scorer: str, profile: str) -> tuple[str, ...]:
    """The references that a profile follows for a scorer: its own, or the first shared one that scores it at all."""
    if scorer not in SCORERS:
        raise ValueError(f"no scorer {scorer!r}: known are {sorted(SCORERS)}")
    followed = _followed_by(scorer, profile)
    if not followed:
        raise ValueError(f"{profile!r} has no rules for {scorer!r}: only {sorted(SCORERS[scorer])} have")
    return followed


def _followed_by(scorer: str, profile: str) -> tuple[str, ...]:
    known = SCORERS[scorer]
    if profile not in PROFILES:
        if not any(profile in rules for rules in SCORERS.values()):
            raise ValueError(f"{profile!r} is neither a profile ({', '.join(PROFILES)}) nor a reference of any scorer")
        return (profile,) if profile in known else ()
    own = tuple(reference for reference in PROFILES[profile] if reference in known)
    return own or tuple(reference for reference in SHARED if reference in known)[:1]


def _rules_of(scorer: str, profile: str) -> list[Rules]:
    return [SCORERS[scorer][reference] for reference in references_of(scorer, profile)]


def _input_of(case: Record) -> Record:
    return case["input"] if isinstance(case.get("input"), Mapping) else case


def _scored(rules: Rules, cases: Sequence[Record]) -> list[Scored]:
    inputs = [_input_of(case) for case in cases]
    results = rules.together(inputs) if rules.together is not None else [rules.case(item) for item in inputs]
    ids = [str(case.get("id", place)) for place, case in enumerate(cases)]
    return [Scored(id=i, input=x, result=y) for i, x, y in zip(ids, inputs, results, strict=True)]


def _joined(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One dictionary of several; where two references share a name (they agree there) the first one's value stays."""
    result: dict[str, Any] = {}
    for part in parts:
        result = {**part, **result}
    return result


# ---- comparison with stored outcomes ----


@dataclass
class Tally:
    """How many outcomes of one reference agree with ours."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    skipped: int = 0
    """Outcomes where the reference throws, or has rules that are not followed here."""


def differences(ours: Any, expected: Any, tolerance: float, path: str = "") -> list[str]:
    """Where two results differ, as "path: ours != expected"; fields that only ours has do not count."""
    if isinstance(expected, Mapping):
        if not isinstance(ours, Mapping):
            return [f"{path}: {ours!r} != {expected!r}"]
        lines = []
        for name, value in expected.items():
            if (name in OPTIONAL_FIELDS and name not in ours) or _raises(value):
                continue
            inner = f"{path}.{name}" if path else name
            lines += differences(ours[name], value, tolerance, inner) if name in ours else [f"{inner}: missing"]
        return lines
    if isinstance(expected, list):
        if not isinstance(ours, Sequence) or isinstance(ours, str) or len(ours) != len(expected):
            return [f"{path}: {ours!r} != {expected!r}"]
        pairs = enumerate(zip(ours, expected, strict=True))
        return [line for place, (a, b) in pairs for line in differences(a, b, tolerance, f"{path}[{place}]")]
    return [] if _equal(ours, expected, tolerance) else [f"{path}: {ours!r} != {expected!r}"]


def _raises(value: Any) -> bool:
    return isinstance(value, Mapping) and RAISED in value


def _equal(ours: Any, expected: Any, tolerance: float) -> bool:
    if expected == "NaN":
        return ours == "NaN" or (isinstance(ours, float) and math.isnan(ours))
    if expected in ("Infinity", "-Infinity") and isinstance(ours, float):
        return ours == float(expected)
    if isinstance(ours, int | float) and isinstance(expected, int | float):
        return ours == expected or abs(ours - expected) <= tolerance
    return ours == expected


def check(records: Sequence[Record], profile: str) -> dict[str, Tally]:
    """Compare our scores with the stored outcomes, by reference key.

    Args:
        records: Cases and aggregates, as the lines of a file of cases.
        profile: A profile, a reference, or "all" for every reference that has an outcome.
    """
    tallies: dict[str, Tally] = {}
    cases = {record["id"]: record for record in records if record["type"] == "case"}
    sets = [[cases[name] for name in record["case_ids"]] for record in records if record["type"] == "aggregate"]
    checked: set[str] = set()
    for group in [*sets, *([case] for case in cases.values())]:
        _check_cases(group, {case["id"] for case in group} - checked, profile, tallies)
        checked |= {case["id"] for case in group}
    for record, group in zip((r for r in records if r["type"] == "aggregate"), sets, strict=True):
        for reference, outcome in _followed(record, profile, tallies):
            try:
                ours = score_aggregate(record["scorer"], reference, group)
            except RAISES as error:
                tallies[reference].failures.append(f"{record['id']}: {type(error).__name__}: {error}")
            else:
                _note(tallies[reference], record, ours, outcome)
    return tallies


def _check_cases(group: Sequence[Record], names: set[str], profile: str, tallies: dict[str, Tally]) -> None:
    """Compare the named cases of a set. They are scored as a set, because a caption's CIDEr depends on its corpus."""
    chosen = [case for case in group if case["id"] in names]
    wanted = [(case, reference, outcome) for case in chosen for reference, outcome in _followed(case, profile, tallies)]
    for reference, entries in grouped(wanted, lambda entry: entry[1]).items():
        together = any(rules.together is not None for rules in _rules_of(group[0]["scorer"], reference))
        results: dict[str, dict[str, Any]] = {}
        if together:
            scored = score_cases(group[0]["scorer"], reference, group)
            results = {case["id"]: result for case, result in zip(group, scored, strict=True)}
        for case, _, outcome in entries:
            try:
                ours = results[case["id"]] if together else score_case(case["scorer"], reference, case)
            except RAISES as error:
                tallies[reference].failures.append(f"{case['id']}: {type(error).__name__}: {error}")
            else:
                _note(tallies[reference], case, ours, outcome)


def _followed(record: Record, profile: str, tallies: dict[str, Tally]) -> list[tuple[str, Any]]:
    """The outcomes of a record that the profile has to match; what cannot be compared is counted as skipped."""
    scorer = record["scorer"]
    followed = tuple(SCORERS[scorer]) if profile == "all" else _followed_by(scorer, profile)
    found = []
    for reference, outcome in record["expected"].items():
        tally = tallies.setdefault(reference, Tally())
        if reference not in followed or _raises(outcome):
            tally.skipped += 1
        else:
            found.append((reference, outcome))
    return found


def _note(tally: Tally, record: Record, ours: dict[str, Any], expected: Any) -> None:
    tolerance = CAPTION_TOLERANCE if record["scorer"] == "caption_metrics" else RULE_TOLERANCE
    lines = differences(ours, expected, tolerance)
    if lines:
        tally.failures.append(f"{record['id']}: {'; '.join(lines)}")
    else:
        tally.passed += 1


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file of cases, one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check files of cases and print the counts; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m xgenmm.evaluation.cases", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--profile", default="all", help=f"{', '.join(PROFILES)}, a reference's name, or all (default)")
    options = parser.parse_args(arguments)
    failed = 0
    for path in options.files:
        for reference, tally in check(read_records(path), options.profile).items():
            if not (tally.passed or tally.failures):
                continue
            print(
                *(path.name, reference, f"passed {tally.passed}", f"failed {len(tally.failures)}"),
                f"skipped {tally.skipped}",
                sep="\t",
            )
            for failure in tally.failures:
                print(f"    {failure}")
            failed += len(tally.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

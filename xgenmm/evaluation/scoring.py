"""Saved answers -> verdicts and figures under a profile. Needs no model and no pictures."""

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xgenmm.evaluation.answers import Answer, to_line
from xgenmm.evaluation.benchmarks.benchmark import BAD_ROW, Benchmark, Doc, explained
from xgenmm.evaluation.cases import (
    corrected_aggregate,
    is_unparsed,
    references_of,
    score_aggregate,
    score_cases,
)
from xgenmm.evaluation.samples import Sample, without_pictures
from xgenmm.evaluation.scorers.profiles import OPEN_FLAMINGO, PYCOCOEVALCAP, Scored
from xgenmm.evaluation.scorers.statistics import Number, clustered_error, mean

EXTRACTIONS = (
    *(
        "option",
        "exact_matching_option",
        "extracted",
        "parsed",
        "letter",
        "prefetch",
        "extraction",
        "filtered",
        "pred",
        "pred_tokens",
        "picked",
    ),
    *("rule_answer", "parsed_set"),
)
"""Fields of results that say what was read from an answer, in the order of preference."""


class ScoringError(ValueError):
    """A row lacks what its benchmark's rules need, or has something else in its place."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a set of answers amounts to."""

    samples: tuple[Sample, ...]
    """With verdicts."""
    references: tuple[str, ...]
    """The programs whose rules were followed."""
    aggregate: Mapping[str, Any]
    """The references' own numbers, nested as they have them."""
    corrected: Mapping[str, Any]
    """Those that a known defect of a reference falsifies, as they should be."""
    headline: tuple[str, Number] | None
    """Name and value of the number that tables quote."""
    score: Number | None
    """Mean of the samples' scores, in 0..1."""
    error: float | None
    """Standard error of `score`, clustered by group; None for fewer than two groups."""
    plain_error: float | None
    """The same as if no question depended on another."""
    digest: str
    """Of all rows, in order: results with equal digests are of the same questions."""
    notes: tuple[str, ...] = ()
    """What a reader of these figures must know."""

    @property
    def unparsed(self) -> int:
        """Answers that could not be read."""
        return sum(sample.unparsed for sample in self.samples)

    @property
    def faults(self) -> int:
        """Questions that could not be asked."""
        return sum(bool(sample.fault) for sample in self.samples)


def rules_for(benchmark: Benchmark, profile: str, *, few_shot: bool) -> tuple[str, ...]:
    """The references to follow. The few-shot suite is OpenFlamingo's under every profile.

    Raises:
        ValueError: The profile has no rules for it.
    """
    if benchmark.references:
        return benchmark.references
    if few_shot:
        return (PYCOCOEVALCAP if benchmark.scorer == "caption_metrics" else OPEN_FLAMINGO,)
    return references_of(benchmark.scorer, profile)


def sample_of(benchmark: Benchmark, doc: Doc, answer: Answer) -> Sample:
    """A question with its answer, not scored yet.

    Raises:
        ScoringError: The row is not what the benchmark expects.
    """
    try:
        key = benchmark.key(doc)
        return Sample(
            place=answer.place,
            key=key,
            doc=without_pictures(doc),
            prompt=answer.prompt,
            answer=answer.text,
            gold=benchmark.gold(doc),
            result={},
            fault=answer.fault,
            group=key if benchmark.group is None else benchmark.group(doc),
            demonstrations=answer.demonstrations,
            logps=answer.logps,
            tokens=answer.tokens,
        )
    except BAD_ROW as error:
        raise ScoringError(f"row {answer.place}: {explained(error)}") from error


def judge(benchmark: Benchmark, samples: Sequence[Sample], references: Sequence[str]) -> Outcome:
    """Score answers; what the samples said of verdicts before is replaced.

    Args:
        benchmark: Whose rules.
        samples: All questions of one run, in any order; the outcome has them by place.
        references: See `rules_for`.

    Raises:
        ScoringError: A row is not what the rules need.
    """
    ordered = sorted(samples, key=lambda sample: sample.place)
    try:
        return _outcome(benchmark, ordered, references)
    except BAD_ROW as error:
        raise ScoringError(f"{_first_bad(benchmark, ordered, references)}{explained(error)}") from error


def _first_bad(benchmark: Benchmark, samples: Sequence[Sample], references: Sequence[str]) -> str:
    """Names the question that cannot be scored, if one alone is to blame."""
    for sample in samples:
        try:
            _outcome(benchmark, [sample], references)
        except BAD_ROW:
            return f"{sample.key} cannot be scored: "
    return "the set cannot be scored: "


def _outcome(benchmark: Benchmark, ordered: Sequence[Sample], references: Sequence[str]) -> Outcome:
    cases = [_case(benchmark, sample) for sample in ordered]
    results: list[dict[str, Any]] = [{} for _ in ordered]
    aggregate: dict[str, Any] = {}
    corrected: dict[str, Any] = {}
    for reference in references:  # where two share a name they agree, and the first one's value stays
        scored = score_cases(benchmark.scorer, reference, cases)
        results = [{**new, **old} for old, new in zip(results, scored, strict=True)]
        aggregate = {**score_aggregate(benchmark.scorer, reference, cases), **aggregate}
        corrected = {**corrected_aggregate(benchmark.scorer, reference, cases), **corrected}
    if benchmark.extra is not None:
        inputs = zip(ordered, cases, results, strict=True)
        together = [Scored(id=sample.key, input=case["input"], result=result) for sample, case, result in inputs]
        aggregate = {**aggregate, **benchmark.extra(together)}
    judged = tuple(_judged(benchmark, *pair) for pair in zip(ordered, results, strict=True))
    scores = [(sample.score, sample.group) for sample in judged if sample.score is not None]
    values = [score for score, _ in scores]
    return Outcome(
        samples=judged,
        references=tuple(references),
        aggregate=aggregate,
        corrected=corrected,
        headline=benchmark.headline(aggregate, references),
        score=mean(values) if values else None,
        error=_error(values, [group for _, group in scores]),
        plain_error=_error(values, range(len(values))),
        digest=hashlib.sha256("".join(to_line(sample.doc) for sample in judged).encode()).hexdigest(),
    )


def _error(values: Sequence[Number], groups: Sequence[Hashable]) -> float | None:
    error = clustered_error(values, groups) if values else math.nan
    return None if math.isnan(error) else error


def flat(aggregate: Mapping[str, Any], place: str = "") -> dict[str, Number]:
    """The numbers of nested mappings by dotted names; texts and lists are left out.

    >>> flat({"Overall": {"acc": 0.5, "split": "dev"}})
    {'Overall.acc': 0.5}
    """
    found: dict[str, Number] = {}
    for name, value in aggregate.items():
        path = f"{place}.{name}" if place else str(name)
        if isinstance(value, Mapping):
            found |= flat(value, path)
        elif isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
            found[path] = value
    return found


def beside(benchmark: Benchmark, numbers: Mapping[str, Number]) -> dict[str, Number]:
    """Of some numbers by dotted names, those that belong beside the quoted one, in the benchmark's order."""
    return {
        name: value
        for wanted in benchmark.beside
        for name, value in numbers.items()
        if name == wanted or name.startswith(f"{wanted}.")
    }


def _case(benchmark: Benchmark, sample: Sample) -> dict[str, Any]:
    answer = benchmark.wrong(sample.doc) if sample.fault else sample.answer
    weighed = {} if benchmark.weighing is None else {"logps": sample.logps, "tokens": sample.tokens}
    verdict = {"judge": sample.verdict} if sample.verdict else {}
    return {"id": sample.key, "input": {**benchmark.case(sample.doc), **weighed, **verdict, "prediction": answer}}


def _judged(benchmark: Benchmark, sample: Sample, result: Mapping[str, Any]) -> Sample:
    score = benchmark.value(result, sample.doc)
    inner = result.get("default")
    fields = {**result, **inner} if isinstance(inner, Mapping) else result
    extraction = next((fields[name] for name in EXTRACTIONS if fields.get(name) is not None), sample.answer)
    return replace(
        sample,
        score=0.0 if sample.fault and score is not None else score,
        extraction=None if sample.fault else extraction,
        unparsed=not sample.fault and is_unparsed(fields),
        result=result,
    )

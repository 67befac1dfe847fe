"""Saved answers -> verdicts and figures under a profile. Needs no model and no pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xgenmm.evaluation.benchmarks.benchmark import Benchmark, Doc
from xgenmm.evaluation.cases import (
    corrected_aggregate,
    is_unparsed,
    references_of,
    score_aggregate,
    score_cases,
)
from xgenmm.evaluation.samples import Sample
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
    ),
    *("rule_answer", "parsed_set"),
)
"""Fields of results that say what was read from an answer, in the order of preference."""


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


def judge(benchmark: Benchmark, samples: Sequence[Sample], references: Sequence[str]) -> Outcome:
    """Score answers; what the samples said of verdicts before is replaced.

    Args:
        benchmark: Whose rules.
        samples: All questions of one run, in any order; the outcome has them by place.
        references: See `rules_for`.
    """
    ordered = sorted(samples, key=lambda sample: sample.place)
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
    error = clustered_error([score for score, _ in scores], [group for _, group in scores]) if scores else math.nan
    return Outcome(
        samples=judged,
        references=tuple(references),
        aggregate=aggregate,
        corrected=corrected,
        headline=benchmark.headline(aggregate, references),
        score=mean([score for score, _ in scores]) if scores else None,
        error=None if math.isnan(error) else error,
    )


def group_of(benchmark: Benchmark, doc: Doc, key: str) -> str:
    """What a question depends on others through; by default only on itself."""
    return key if benchmark.group is None else benchmark.group(doc)


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


def _case(benchmark: Benchmark, sample: Sample) -> dict[str, Any]:
    answer = benchmark.wrong(sample.doc) if sample.fault else sample.answer
    return {"id": sample.key, "input": {**benchmark.case(sample.doc), "prediction": answer}}


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

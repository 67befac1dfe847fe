"""Given answers by how likely a model finds them: right if the right one is the likeliest. Rules of our own.

An answer's likelihood is the sum of its tokens' log-probabilities, less how likely it is whatever the picture, where
that was weighed. A tie is wrong. What was weighed without the pictures is scored by the same rule under its own name.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from xgenmm.evaluation.scorers.profiles import XGENMM, Case, Rules, Scored, ScorerTable
from xgenmm.evaluation.statistics import mean, ratio, share

SEEN, PRIOR = "seen", "prior"
"""Names of the log-probabilities with a question's own pictures, and whatever the picture."""


def _case(case: Case) -> dict[str, Any]:
    """The verdict; under the name of each control, the same for it. Nothing was weighed of what could not be asked."""
    weighed: Mapping[str, Sequence[float]] = case["logps"]
    if SEEN not in weighed:
        return {"hit": False}
    controls = {name: _judged(case, weighed[name]) for name in weighed if name not in (SEEN, PRIOR)}
    return {**_judged(case, weighed[SEEN]), **controls}


def _judged(case: Case, logps: Sequence[float]) -> dict[str, Any]:
    """`loss` and `tokens` of the right answer; where more than it were weighed, which is picked and by what margin."""
    answer = case["answer"]
    result = {"loss": -logps[answer], "tokens": case["tokens"][answer]}
    if len(logps) < 2:
        return result
    prior = case["logps"].get(PRIOR) or [0.0] * len(logps)
    evidence = [logp - usual for logp, usual in zip(logps, prior, strict=True)]
    margin = evidence[answer] - max(value for place, value in enumerate(evidence) if place != answer)
    picked = case["candidates"][evidence.index(max(evidence))]
    return {**result, "picked": picked, "hit": margin > 0, "margin": margin}


def _aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Figures with 95 % intervals: `accuracy`, `margin` and `loss` in nats; the same with `_CONTROL` for each control;
    and `majority`, the accuracy of always giving the commonest right answer."""
    names = sorted({name for case in cases for name in case.input["logps"]} - {SEEN, PRIOR})
    golds = [case.input["candidates"][case.input["answer"]] for case in cases]
    ((commonest, _),) = Counter(golds).most_common(1)
    figures = {**_figures([case.result for case in cases]), "majority": share([gold == commonest for gold in golds])}
    for name in names:
        of_control = _figures([case.result[name] for case in cases if name in case.result])
        figures |= {f"{figure}_{name}": value for figure, value in of_control.items()}
    return {name: asdict(figure) for name, figure in figures.items()}


def _figures(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one way of asking. What could not be asked is no hit, and has neither margin nor loss."""
    hits = [result["hit"] for result in results if "hit" in result]
    margins = [result["margin"] for result in results if "margin" in result]
    weighed = [result for result in results if "loss" in result]
    figures = {"accuracy": share(hits)} if hits else {}
    if margins:
        figures["margin"] = mean(margins)
    if weighed:
        figures["loss"] = ratio([one["loss"] for one in weighed], [one["tokens"] for one in weighed])
    return figures


SCORERS: ScorerTable = {"likelihood": {XGENMM: Rules(case=_case, aggregate=_aggregate)}}

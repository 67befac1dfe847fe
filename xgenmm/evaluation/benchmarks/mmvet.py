"""MM-Vet: free answers about a picture. Its score needs a judge model; offline, only what can be known without one."""

from collections.abc import Callable, Sequence
from typing import Any

from xgenmm.evaluation.benchmarks.benchmark import (
    Benchmark,
    Doc,
    Headline,
    JudgeQuestion,
    Source,
    cells,
    column,
    number,
)
from xgenmm.evaluation.scorers.mmvet import OFFLINE
from xgenmm.evaluation.scorers.profiles import Scored
from xgenmm.evaluation.scorers.statistics import grouped, mean

MARKS = {f"{tenths / 10:.1f}": f"{tenths / 10:.1f}" for tenths in range(11)} | {"0": "0.0", "1": "1.0"}
"""What a judge may say, and the mark that it means."""


def judge_question(doc: Doc, answer: str) -> str:
    """How much of the reference answer the answer has."""
    return (
        f"Question: {doc['question']}\nReference answer: {doc['answer']}\nAnswer: {answer}\n"
        "In the reference answer <AND> joins parts that are all needed, and <OR> joins alternatives of which one is "
        "enough. Compare the answer with the reference answer, and reply with one number: how much of what is needed "
        "the answer gets right, from 0.0 (nothing) to 1.0 (all), in steps of 0.1."
    )


def by_capability(cases: Sequence[Scored]) -> dict[str, Any]:
    """Mean by integrated capabilities, such as "ocr,spat"; by a judge's marks, too, where there is one."""
    report: dict[str, Any] = {"by_capability": _means(cases, lambda case: case.result["contained"])}
    marked = [case for case in cases if case.input.get("judge")]
    if marked:
        report["judge"] = {
            "score": 100 * mean([_mark(case) for case in marked]),
            "by_capability": _means(marked, _mark),
            "n": len(marked),
            "n_failed": len(cases) - len(marked),
        }
    return report


def _mark(case: Scored) -> float:
    return float(case.input["judge"])


def _means(cases: Sequence[Scored], value: Callable[[Scored], float]) -> dict[str, float]:
    groups = grouped(cases, lambda case: str(case.input.get("capability")))
    return {name: 100 * mean([value(case) for case in group]) for name, group in groups.items()}


BENCHMARKS = (
    Benchmark(
        name="mmvet",
        title="MM-Vet (offline part)",
        source=Source(
            repo="lmms-lab/MMVet", split="test", columns=("question_id", "question", "answer", "capability", "image")
        ),
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
        beside=("judge",),
        judge=JudgeQuestion(ask=judge_question, words=MARKS),
        notes="MM-Vet's score is a judge's. Quoted is the share of answers that contain the gold words; with --judge, "
        "the mean of a judge's marks stands beside it, by our own question and not MM-Vet's.",
    ),
)

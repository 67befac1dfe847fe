"""MMStar."""

import re
from typing import Any

from xgenmm.evaluation.benchmarks.benchmark import HIT, Benchmark, Doc, Source, cells, choice_headlines, column

OPTION = re.compile(r"([A-D]): (.*?)(?=, [A-D]: |$)", re.DOTALL)
"""Options stand in the question: "Options: A: red, B: blue"."""


def with_options(doc: Doc) -> dict[str, Any]:
    """The options as a list, which VLMEvalKit's table has in columns."""
    listed = [text for _, text in OPTION.findall(str(doc["question"]).partition("Options: ")[2])]
    return {"options": listed, **doc}


BENCHMARKS = (
    Benchmark(
        name="mmstar",
        title="MMStar",
        source=Source(
            repo="Lin-Chen/MMStar",
            split="val",
            columns=("index", "question", "image", "answer", "category", "l2_category"),
        ),
        licence="see the card",
        scorer="mmstar",
        prompt="mmstar",
        headlines=choice_headlines(("average",)),
        images=cells("image"),
        key=column("index"),
        gold=column("answer"),
        case=with_options,
        value=HIT,
        notes="lmms-eval's average is the mean of 18 sub-category means, VLMEvalKit's is plain.",
    ),
)

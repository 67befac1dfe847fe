"""METEOR and SPICE of captions, by the Java programs that come with pycocoevalcap. Optional: nothing else needs Java.

What is missing is told, in the log and in the results; the other metrics do not wait for it.
"""

import importlib.util
import logging
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from xgenmm.evaluation.benchmarks.benchmark import Benchmark
from xgenmm.evaluation.scorers.captions import caption_scores
from xgenmm.evaluation.scoring import Outcome

log = logging.getLogger(__name__)

CORENLP = "stanford-corenlp-3.6.0"
"""What SPICE parses with; pycocoevalcap fetches it with `get_stanford_models()`."""
Texts = Mapping[int, list[str]]


def with_java_metrics(benchmark: Benchmark, outcome: Outcome) -> Outcome:
    """The outcome with METEOR and SPICE, in 0..1 as lmms-eval reports them, or with a note of what is missing.

    Other benchmarks than those of captions stay as they are.
    """
    if benchmark.scorer != "caption_metrics" or not outcome.samples:
        return outcome
    inputs = [benchmark.case(sample.doc)["references"] for sample in outcome.samples]
    answers = [benchmark.wrong(sample.doc) if sample.fault else sample.answer for sample in outcome.samples]
    tokens = caption_scores(answers, inputs)
    found, notes = {}, []
    for name, compute in METRICS.items():
        lacking = missing(name)
        try:
            if lacking:
                raise RuntimeError(lacking)
            found[name] = compute(tokens.candidate_tokens, tokens.reference_tokens)
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
            notes.append(f"{name} was not computed: {error}.")
            log.warning("%s: %s", benchmark.name, notes[-1])
    return replace(outcome, aggregate={**outcome.aggregate, **found}, notes=(*outcome.notes, *notes))


def missing(name: str) -> str:
    """What a metric lacks on this machine; empty if it can be computed."""
    if shutil.which("java") is None:
        return "there is no java on the PATH"
    folder = _folder()
    if folder is None:
        return "pycocoevalcap, which brings its program, is not installed (pip install pycocoevalcap==1.2)"
    if name == "SPICE" and not (folder / "spice" / "lib" / f"{CORENLP}.jar").is_file():
        return f"{CORENLP} is not in {folder / 'spice' / 'lib'}: pycocoevalcap.spice fetches it when it is first used"
    return ""


def _folder() -> Path | None:
    spec = importlib.util.find_spec("pycocoevalcap")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        return float(scorer.compute_score(*_texts(candidates, references))[0])
    finally:
        for stream in filter(None, (scorer.meteor_p.stdout, scorer.meteor_p.stderr)):
            stream.close()


def _spice(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from pycocoevalcap.spice.spice import Spice

    return float(Spice().compute_score(*_texts(candidates, references))[0])


def _texts(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Texts, Texts]:
    return {place: list(one) for place, one in enumerate(references)}, {n: [one] for n, one in enumerate(candidates)}


METRICS: Mapping[str, Callable[[Sequence[str], Sequence[Sequence[str]]], float]] = {"METEOR": _meteor, "SPICE": _spice}

"""Make parity cases by running the references, or compare ours with them on many more. Not a test.

    pip download --no-deps lmms-eval==0.7.3
    unzip lmms_eval-0.7.3-*.whl -d WHEELS/lmms-eval-0.7.3
    (the same for lmms-eval 0.7.2 and 0.2.1, ms-vlmeval 0.0.5 and 0.0.20, open-flamingo 2.0.1;
    VLGuard's own utils/utils.py to WHEELS/VLGuard; an empty WHEELS/pycocoevalcap-1.2 if it is installed)
    python tests/evaluation/parity/make.py WHEELS tests/evaluation/cases/generated
    python tests/evaluation/parity/make.py WHEELS --compare 2000

The first command writes files of cases, which every test run checks; the second one draws noisier answers, prints how
many outcomes agree, by scorer and reference, and ends with 1 if any does not. Both need what the wheels import.
"""

import argparse
import json
import logging
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from drawing import COGNITION, PERCEPTION, Case, Drawing
from lmms_eval_cases import LmmsEval, LmmsEval021, LmmsEval072
from other_cases import OpenFlamingo, PycocoEvalCap, VLGuard, caption_lines, java_tokens
from texts import AWKWARD
from vlmevalkit_cases import VLMEvalKit2024, VLMEvalKit2026

from xgenmm.evaluation.cases import differences, score_aggregate, score_case

Reference = LmmsEval | VLMEvalKit2024 | OpenFlamingo | VLGuard | PycocoEvalCap
REFERENCES: dict[str, Callable[[Path], Reference]] = {
    "lmms-eval-0.7.3": LmmsEval,
    "lmms-eval-0.2.1": LmmsEval021,
    "lmms-eval-0.7.2": LmmsEval072,
    "ms-vlmeval-0.0.5": VLMEvalKit2024,
    "ms-vlmeval-0.0.20": VLMEvalKit2026,
    "open-flamingo-2.0.1": OpenFlamingo,
    "VLGuard": VLGuard,
    "pycocoevalcap-1.2": PycocoEvalCap,
}
"""By folder."""
PYCOCOEVALCAP = "pycocoevalcap==1.2"
SEED = 20261122
SET = 28
"""Cases of one set in a comparison."""
THROWN = (
    *(TypeError, ValueError, AssertionError, ZeroDivisionError, OverflowError, IndexError, KeyError, SyntaxError),
    StopIteration,
)


def outcomes(
    reference: Reference, drawing: Drawing, scorer: str, count: int
) -> Iterator[tuple[Case, dict[str, Any] | None]]:
    """Drawn cases and what the reference says of them; nothing where it throws."""
    for _ in range(count):
        case = drawing(scorer)
        try:
            yield case, plain(reference.outcome(scorer, case))
        except THROWN:
            yield case, None


def plain(outcome: Any) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(outcome, default=float), parse_constant=lambda name: name)


def paired(scorer: str, cases: Sequence[Case]) -> list[Case]:
    """Cases as members of one set: two questions for an image of MME, rotations for one of MMBench, nothing twice."""
    if scorer == "mme":
        names = (*PERCEPTION, *COGNITION)
        same = [
            {"question_id": f"{place // 2}.png", "category": names[place // 2 % len(names)]}
            for place in range(len(cases) // 2 * 2)
        ]
    elif scorer == "mmbench_circular":
        questions = max(1, len(cases) // 3)
        same = []
        for place in range(len(cases)):
            rotation, question = divmod(place, questions)
            columns = {name: cases[question][name] for name in ("category", "L2-category")}
            same.append({"index": question + rotation * 10**6, **columns})
    elif scorer == "hallusion":
        names = ("category", "subcategory", "set_id", "figure_id", "question_id")
        return list({tuple(case[name] for name in names): case for case in cases}.values())
    else:
        return list(cases)
    return [{**case, **columns} for case, columns in zip(cases, same, strict=False)]


def compare(reference: Reference, scorer: str, count: int, seed: int) -> int:
    """Print one line; gives the number of differences."""
    drawing, tally, told = Drawing(seed, noisy=True), Counter(), []
    usable = []
    for case, expected in outcomes(reference, drawing, scorer, count):
        if expected is None:
            tally["thrown"] += 1
            continue
        usable.append(case)
        lines = differences(score_case(scorer, reference.reference, case), expected, 1e-9)
        tally["different" if lines else "equal"] += 1
        told += [f"    {json.dumps(case, ensure_ascii=False)[:400]}: {'; '.join(lines)}"] if lines else []
    for start in range(0, len(usable) - SET, SET):
        group = paired(scorer, usable[start : start + SET])
        try:
            expected = reference.set_outcome(scorer, group)
        except THROWN:
            tally["sets thrown"] += 1
            continue
        if expected is not None:
            ours = score_aggregate(scorer, reference.reference, group)
            lines = differences(ours, plain(expected), 1e-9)
            tally["sets different" if lines else "sets equal"] += 1
            told += [f"    set: {'; '.join(lines)}"] if lines else []
    counts = [f"{name} {number}" for name, number in sorted(tally.items())]
    lines = ["\t".join([scorer, reference.reference, *counts]), *told[:5]]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return tally["different"] + tally["sets different"]


def drawn(scorer: str, count: int) -> list[Case]:
    """So many different cases, every second one with noise."""
    drawings = [Drawing(SEED, noisy=noisy) for noisy in (False, True)]
    found: dict[str, Case] = {}
    for place in range(20 * count):
        case = drawings[place % 2](scorer)
        found.setdefault(json.dumps(case, sort_keys=True), case)
        if len(found) == count:
            break
    return paired(scorer, list(found.values()))


def record(scorer: str, place: int, case: Case) -> dict[str, Any]:
    """A case in the format of the parity data, without outcomes."""
    head = {"type": "case", "id": f"{scorer}-g{place:03d}", "scorer": scorer, "tags": ["generated"]}
    return {**head, "input": case, "expected": {}}


def make(found: Mapping[str, Path], count: int) -> dict[str, list[dict[str, Any]]]:
    """Records by scorer: cases with the outcomes of all references, and each reference's numbers of the set."""
    files: dict[str, list[dict[str, Any]]] = {}
    sets: dict[str, list[dict[str, Any]]] = {}
    for version, path in found.items():
        reference = REFERENCES[version](path)
        for scorer in reference.scorers():
            if scorer not in files:
                files[scorer] = [record(scorer, place, case) for place, case in enumerate(drawn(scorer, count))]
            usable = []
            for entry in files[scorer]:
                with suppress(*THROWN):
                    outcome = plain(reference.outcome(scorer, entry["input"]))
                    entry["expected"] |= {reference.reference: outcome} if outcome else {}
                    usable.append(entry)
            outcome = None
            with suppress(*THROWN):
                outcome = reference.set_outcome(scorer, [entry["input"] for entry in usable])
            if outcome is not None:
                ids = [entry["id"] for entry in usable]
                head = {"type": "aggregate", "id": f"{scorer}-generated-agg-{version}", "scorer": scorer}
                expected = {reference.reference: plain(outcome)}
                sets.setdefault(scorer, []).append({**head, "case_ids": ids, "expected": expected})
    return {
        scorer: [*(entry for entry in entries if entry["expected"] or scorer in sets), *sets.get(scorer, [])]
        for scorer, entries in files.items()
    }


def write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, help="folder with the unpacked wheels, by version")
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=48, help="cases per scorer in a file")
    parser.add_argument("--compare", type=int, metavar="N", help="compare on so many drawn cases per scorer instead")
    parser.add_argument("--seed", type=int, default=1, help="of a comparison")
    parser.add_argument("--scorers", nargs="*", help="compare only these")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with suppress(ImportError):
        from loguru import logger

        logger.remove()
    warnings.simplefilter("ignore")
    found = {version: options.wheels / version for version in REFERENCES if (options.wheels / version).is_dir()}
    if options.compare:
        different = 0
        for version, path in found.items():
            reference = REFERENCES[version](path)
            for scorer in options.scorers or reference.scorers():
                if scorer in reference.scorers():
                    different += compare(reference, scorer, options.compare, options.seed)
        return int(different > 0)
    options.output.mkdir(parents=True, exist_ok=True)
    for scorer, lines in make(found, options.count).items():
        write(options.output / f"{scorer}.jsonl", lines)
    lines = caption_lines(random.Random(SEED), AWKWARD["caption_words"], 150)
    entries = [record("ptb_tokenize", place, {"text": line}) for place, line in enumerate(lines)]
    for entry, tokens in zip(entries, java_tokens(lines), strict=True):
        entry["expected"][PYCOCOEVALCAP] = {"tokenized": tokens}
    write(options.output / "ptb_tokenize.jsonl", entries)
    return 0


if __name__ == "__main__":
    sys.exit(main())

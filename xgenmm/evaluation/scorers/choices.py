"""Which option an answer names: the extractors of the references, and the benchmarks scored by nothing else.

Every extractor returns the letter it read, or nothing. Where a reference then picks an option at random, the answer is
unparsed here: wrong, counted and shown. Source of all rules: eval.md, sections 1.3, 5 and 6.
"""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from xgenmm.evaluation.scorers.profiles import (
    LMMS_EVAL,
    LMMS_EVAL_021,
    LMMS_EVAL_072,
    VLMEVALKIT_2024,
    VLMEVALKIT_2026,
    Case,
    Rules,
    Scored,
    ScorerTable,
    strip_reasoning,
)
from xgenmm.evaluation.scorers.statistics import Number, grouped, mean

LETTERS = string.ascii_uppercase
UNPARSED = "Z"
"""VLMEvalKit's letter for an answer that names no option (or refuses)."""

# ---- VLMEvalKit ----

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
API_FAILURE = "Failed to obtain answer via API"
_SEPARATORS = {ord(char): " " for char in ".()[],:;!*#{}"}
_STATED_ANSWER = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
LAST_WORDS = 4
"""In 2026 a letter counts only if its first place is among so many last words."""


def infer_letter(answer: str, letters: Sequence[str], *, recent: bool) -> str | None:
    """The option letter that stands alone in an answer, ``Z`` for a refusal, or nothing.

    Args:
        answer: The raw answer.
        letters: Letters of the question's options.
        recent: The rules of 2026 (e8e78f0) rather than those of 2024 (820176c): the letter must be near the end, and
            "answer is X" is read as well, without asking whether the letter is a word ("the answer is Cold" names C).
    """
    if API_FAILURE in answer:
        return None
    if any(refusal in answer for refusal in REFUSALS):
        return UNPARSED
    words = answer.translate(_SEPARATORS).split()
    present = [letter for letter in letters if letter in words]
    if len(present) == 1 and (not recent or words.index(present[0]) >= len(words) - LAST_WORDS):
        return present[0]
    if not present and UNPARSED in words:
        return UNPARSED
    stated = _STATED_ANSWER.search(answer) if recent else None
    return stated[1].upper() if stated and stated[1].upper() in letters else None


def infer_text(answer: str, options: Mapping[str, str], *, recent: bool) -> str | None:
    """The one option whose text the answer contains, in any case; nothing if there are none or several.

    The rules of 2026 read no option from an answer longer than twice all option texts together.
    """
    if recent and len(answer.lower()) > 2 * sum(len(text) for text in options.values()):
        return None
    found = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return found[0] if len(found) == 1 else None


def infer_option(answer: str, options: Mapping[str, str], *, recent: bool) -> str | None:
    """VLMEvalKit's judge-free reading of an answer: by letter, else by text. Arguments as for `infer_letter`."""
    return infer_letter(answer, tuple(options), recent=recent) or infer_text(answer, options, recent=recent)


def lettered(options: Sequence[Any]) -> dict[str, str]:
    """Options by letter; a missing one (null) has none."""
    return {letter: str(text) for letter, text in zip(LETTERS, options, strict=False) if text is not None}


def exact_matching(answer: str, options: Mapping[str, str], gold: str, *, recent: bool) -> dict[str, Any]:
    """VLMEvalKit's verdict without a judge: what cannot be read is option ``Z``, and wrong."""
    option = infer_option(answer, options, recent=recent) or UNPARSED
    return {"option": option, "hit": int(option == gold)}


ABBREVIATIONS = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
"""VLMEvalKit's names of MMBench's second-level categories."""


def report_accuracy(rows: Sequence[tuple[Number, Mapping[str, Any]]], columns: Sequence[str]) -> dict[str, Any]:
    """VLMEvalKit's accuracy table as a dictionary: overall, then each category of each column, in alphabetical order.

    Args:
        rows: For every question its hit (0 or 1) and its columns; "split" is one of them or absent for all.
        columns: Which columns to break down, in the order of the table.
    """
    splits = list(grouped(rows, lambda row: row[1].get("split", "none")))

    def accuracies(chosen: Sequence[tuple[Number, Mapping[str, Any]]]) -> float | list[float]:
        values = [mean([hit for hit, cells in chosen if cells.get("split", "none") == split]) for split in splits]
        return values[0] if len(values) == 1 else values

    report: dict[str, Any] = {"split": splits[0] if len(splits) == 1 else splits, "Overall": accuracies(rows)}
    for column in columns:
        for name, chosen in sorted(grouped(rows, lambda row, column=column: row[1][column]).items()):
            report[ABBREVIATIONS.get(name, name)] = accuracies(chosen)
    return report


def _plain_report(cases: Sequence[Scored]) -> dict[str, Any]:
    return report_accuracy([(case.result["hit"], {}) for case in cases], [])


# ---- lmms-eval ----

PUNCTUATION = ",.!?;:'"
"""What is trimmed from both ends of an answer, each character in turn and once."""
ANSWER_PHRASES = (
    *(
        f"{article}{kind}{noun} is"
        for noun, kinds in (("answer", ("", "correct ", "best ")), ("option", ("correct ", "best ")))
        for kind in kinds
        for article in ("the ", "")
    ),
    *("the choice is", "choice is", "the correct choice is", "correct choice is", "my answer is", "my choice is"),
    *("i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
"""After one of these, in any case, every option letter is a candidate at its first place, even inside a word."""


def extract_letter(answer: str, letters: Sequence[str] = LETTERS[:8]) -> str:
    """lmms-eval's shared extractor: the best candidate by its form, then by its place; empty if there is none.

    Source: lmms-eval 0.7.3. Letters must be capitals, and some forms look inside words: "Apple" names A, "VISA " too.
    """
    padded = f" {_trimmed(answer.strip(), PUNCTUATION + chr(34))} "
    stripped = padded.strip()
    candidates: list[tuple[int, int, str]] = []
    for priority, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
        places = ((padded.rfind(form.format(letter)), letter) for letter in letters)
        candidates += [(priority, place, letter) for place, letter in places if place >= 0]
    lowered = padded.lower()
    for phrase in ANSWER_PHRASES:
        start = lowered.find(phrase)
        if start >= 0:
            places = ((padded.find(letter, start + len(phrase)), letter) for letter in letters)
            candidates += [(7, place, letter) for place, letter in places if place >= 0]
    for letter in letters:
        if stripped.startswith(letter) and not stripped[1:2].isalpha():
            candidates.append((10, 0, letter))
        if stripped.endswith(letter) and not stripped[-2:-1].isalpha():
            candidates.append((9, len(padded) - 1, letter))
    if not candidates:
        candidates = [(0, padded.rfind(letter), letter) for letter in letters if letter in padded]
    # Of candidates alike in form and place the first listed wins, which max() keeps.
    return max(candidates, key=lambda candidate: candidate[:2])[2] if candidates else ""


def _trimmed(text: str, characters: str) -> str:
    """Strip each character from both ends, in turn and once: "D,." keeps its comma, "D.," loses both."""
    for character in characters:
        text = text.strip(character)
    return text


def mmmu_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The option named last by the official MMMU rules, or nothing (where the reference draws one at random).

    Forms are tried in this order: ``(X)``, ``X`` before a space even inside a word, ``X.``, and for answers of more
    than five words an option's text. Source: lmms-eval 0.7.3, MMMU and Q-Bench.
    """
    padded = f" {_trimmed(answer, PUNCTUATION)} "
    for form, searched in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in options if form.format(letter) in padded]
        if found:
            # A candidate inside a word is not found as a word: its place is -1, and the first one listed wins.
            return max(found, key=lambda letter, searched=searched: padded.rfind(searched.format(letter)))
    if len(padded.split()) > 5:
        lowered = padded.lower()
        found = [letter for letter, text in options.items() if text.lower() in lowered]
        if found:
            return max(found, key=lambda letter: lowered.rfind(options[letter].lower()))
    return None


def leading_letter(answer: str) -> str:
    """The answer's first letter after brackets and spaces, of any kind: "The answer is B" names T.

    Source: lmms-eval 0.7.3 for CV-Bench, 0.7.2 for BLINK.
    """
    match = re.match(r"[(\s]*([A-Z])", answer.strip(), re.IGNORECASE)
    return match[1].upper() if match else ""


def blink_letter(answer: str, letters: str) -> str:
    """BLINK's rule of lmms-eval 0.7.3: a bare first line, a last stated answer, a last ``(X)``, or a leading letter."""
    answer = answer.strip()
    letter = f"([{re.escape(letters)}])"
    first_line = answer.partition("\n")[0].strip()
    match = re.match(rf"^\(?{letter}\)?[.\s:,)]*$", first_line, re.IGNORECASE) if len(first_line) <= 4 else None
    if match:
        return match[1].upper()
    stated = re.findall(rf"answers?(?:\s+is)?\s*[:\-]?\s*\(?{letter}\)?(?![A-Za-z])", answer, re.IGNORECASE)
    found = stated or re.findall(rf"\({letter}\)", answer)
    if found:
        return found[-1].upper()
    match = re.match(rf"[(\s]*{letter}", answer, re.IGNORECASE)
    return match[1].upper() if match else ""


def option_before_period(answer: str) -> str:
    """The capital at the start if a period follows it, else the whole answer (AI2D's filter in lmms-eval)."""
    match = re.match(r"\s*([A-Z])\.", answer)
    return match[1] if match else answer


def same_ignoring_punctuation(left: str, right: str) -> bool:
    """Equality in any case and without ASCII punctuation; spaces count. lmms-eval's match for AI2D and GQA."""
    drop = str.maketrans("", "", string.punctuation)
    return left.lower().translate(drop) == right.lower().translate(drop)


# ---- AI2D, ScienceQA, SEED-Bench ----


def _ai2d_lmms(case: Case) -> dict[str, Any]:
    target = LETTERS[int(case["answer"])]
    filtered = option_before_period(strip_reasoning(case["prediction"]))
    return {
        "filtered": filtered,
        "target": target,
        "exact_match": float(same_ignoring_punctuation(filtered, target)),
    }


def _scienceqa_lmms(case: Case) -> dict[str, Any]:
    answer, target = strip_reasoning(case["prediction"]), LETTERS[int(case["answer"])]
    with_period = answer[:1].isupper() and answer[1:2] == "." and answer[0].lower() == target.lower()
    return {"exact_match": float(answer.lower() == target.lower() or with_period)}


def _scienceqa_lmms_021(case: Case) -> dict[str, Any]:
    """The older version lower-cases first, so that its rule for "B. text" never fires."""
    return {"exact_match": float(case["prediction"].strip().lower() == LETTERS[int(case["answer"])].lower())}


def _seed_lmms(answer: str, gold: str) -> dict[str, Any]:
    parsed = answer[:1]
    return {"parsed": parsed, "correct": parsed.lower().strip() == gold.lower().strip()}


def _seed_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    by_type = grouped(cases, lambda case: f"seed_{case.input['data_type']}") | {"seed_all": list(cases)}
    return {name: mean([case.result["correct"] for case in group]) for name, group in by_type.items()}


def _seed_options(case: Case) -> dict[str, str]:
    return lettered([case[f"choice_{letter}"] for letter in "abcd"])


def _seed_report(cases: Sequence[Scored]) -> dict[str, Any]:
    rows = [(case.result["hit"], {"category": str(case.input["question_type_id"])}) for case in cases]
    return report_accuracy(rows, ["category"])


# ---- MMStar, RealWorldQA ----


def _mmstar_lmms(case: Case) -> dict[str, Any]:
    letter = extract_letter(strip_reasoning(case["prediction"]), "ABCD")
    return {"score": float(letter == case["answer"].strip().upper())}


def _mmstar_lmms_021(case: Case) -> dict[str, Any]:
    """The character where the older version expects the letter, in any of four openings of the lower-cased answer."""
    answer = case["prediction"].lower().strip().replace("\n", " ")
    gold = case["answer"].lower().strip().replace("\n", " ")
    places = [0, *(len(opening) for opening in ("(", "option ", "the answer is ") if answer.startswith(opening))]
    return {"score": float(any(answer[place : place + 1] == gold for place in places))}


def _mmstar_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Means of the second-level accuracies, over all of them and over those of each category."""

    def macro(group: Sequence[Scored]) -> float:
        by_level_2 = grouped(group, lambda case: case.input["l2_category"])
        return mean([mean([case.result["score"] for case in part]) for part in by_level_2.values()])

    by_category = grouped(cases, lambda case: case.input["category"])
    return {"average": macro(cases), **{name: macro(group) for name, group in by_category.items()}}


def _mmstar_report(cases: Sequence[Scored]) -> dict[str, Any]:
    return report_accuracy([(case.result["hit"], case.input) for case in cases], ["l2_category", "category"])


_OPTION_LINE = re.compile(r"^([A-Z])\.\s+(.*)$", re.MULTILINE)
_OPTION_IN_QUESTION = re.compile(r"\b([A-Z])\.\s+([^\n]*)")


def _realworldqa_lmms(case: Case) -> dict[str, Any]:
    answer, gold = strip_reasoning(case["prediction"]), case["answer"].strip()
    if gold.upper() in ("A", "B", "C", "D"):
        return {"exact_match": float(extract_letter(answer, "ABCD") == gold.upper())}
    return {"exact_match": float(answer.lower().strip().rstrip(".") == gold.lower())}


_DIGIT_WORDS = {
    **{"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"},
    **{"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"},
}


def _realworldqa_lmms_021(case: Case) -> dict[str, Any]:
    """Number words, then option texts of the question (by their order, not their letter), then equality."""
    answer = _DIGIT_WORDS.get(case["prediction"].lower(), case["prediction"])
    answer = re.sub(r"[^\w\s]", "", answer).strip()
    texts = [text.strip() for _, text in _OPTION_IN_QUESTION.findall(case["question"])]
    found = re.search("|".join(re.escape(text) for text in texts), answer)
    if found and found[0] in texts:
        # The references fill a dictionary, so of equal texts the last one's letter stays.
        answer = LETTERS[len(texts) - 1 - texts[::-1].index(found[0])]
    return {"exact_match": float(answer.lower().strip().rstrip(".") == case["answer"].lower().strip())}


def _realworldqa_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    """Only questions with options: VLMEvalKit's table has no others. An open one has no result."""
    options = dict(_OPTION_LINE.findall(case["question"]))
    return exact_matching(case["prediction"], options, case["answer"], recent=recent) if options else {}


def _realworldqa_report(cases: Sequence[Scored]) -> dict[str, Any]:
    with_options = [case for case in cases if case.result]
    return {**_plain_report(with_options), "excluded_case_ids": [case.id for case in cases if not case.result]}


# ---- BLINK, CV-Bench, Mantis ----


def _blink_lmms(case: Case) -> dict[str, Any]:
    letters = LETTERS[: len(case["choices"])] or LETTERS
    return _bracketed_gold(blink_letter(strip_reasoning(case["prediction"]), letters), case)


def _bracketed_gold(parsed: str, case: Case) -> dict[str, Any]:
    return {"parsed": parsed, "correct": parsed == case["answer"].strip("()")}


def _blink_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    def accuracy(group: Sequence[Scored]) -> float:
        return mean([case.result["correct"] for case in group])

    by_task = grouped(cases, lambda case: f"sub_{case.input['sub_task']}")
    return {"blink_acc_micro": accuracy(cases), **{name: accuracy(group) for name, group in by_task.items()}}


def _blink_report(cases: Sequence[Scored]) -> dict[str, Any]:
    return report_accuracy([(case.result["hit"], {"task": case.input["sub_task"]}) for case in cases], ["task"])


def _choices_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    return exact_matching(case["prediction"], lettered(case["choices"]), case["answer"].strip("()"), recent=recent)


def _cv_bench_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Plain accuracies as lmms-eval reports them, and its weighting by source where all three sources are there."""

    def accuracies(column: str, prefix: str) -> dict[str, float]:
        groups = grouped(cases, lambda case: f"{prefix}{case.input[column]}")
        return {name: mean([case.result["correct"] for case in group]) for name, group in groups.items()}

    sources = accuracies("source", "")
    report = {
        "cv_bench_acc": mean([case.result["correct"] for case in cases]),
        **accuracies("type", "cv_bench_acc_"),
        **accuracies("task", "task_"),
    }
    if {"ADE20K", "COCO", "Omni3D"} <= sources.keys():
        two_d = (sources["ADE20K"] + sources["COCO"]) / 2
        report["cv_bench_source_weighted"] = (two_d + sources["Omni3D"]) / 2
    return report


def cv_bench_by_source(rows: Sequence[tuple[Number, Case]]) -> dict[str, Any]:
    """CV-Bench the Cambrian way, as VLMEvalKit of 2026 reports it: 2D is the mean of its two sources, 3D is plain.

    Args:
        rows: For every question its hit (0 or 1) and its columns "type", "source" and "task".
    """

    def accuracies(kind: str, column: str) -> dict[str, float]:
        groups = grouped((row for row in rows if row[1]["type"] == kind), lambda row: row[1][column])
        return {name: mean([hit for hit, _ in group]) for name, group in groups.items()}

    report: dict[str, Any] = {}
    two_d, three_d = accuracies("2D", "source"), [hit for hit, cells in rows if cells["type"] == "3D"]
    if two_d:
        report["2D"] = {"split": "2D", **two_d, "Overall": mean(list(two_d.values()))}
    if three_d:
        report["3D"] = {"split": "3D", "Overall": mean(three_d), **accuracies("3D", "task")}
    return report


def _mantis_answer(text: str) -> str:
    """What follows the first of three phrases that occurs at all, else everything."""
    for phrase in ("final answer:", "the answer is", "answer:"):
        _, found, _ = text.lower().partition(phrase)
        if found:
            return text[text.lower().index(phrase) + len(phrase) :].strip()
    return text


def _mantis_lmms(case: Case) -> dict[str, Any]:
    """Mantis-Eval: the first letter of the answer, else the text of the right option, else (short answers) equality."""
    answer = strip_reasoning(case["prediction"])
    extracted, gold = _mantis_answer(answer), case["answer"].strip("()\n ")
    if case["question_type"] == "short-answer":
        return {"parsed": extracted, "correct": gold.lower() == extracted.lower()}
    gold = gold if len(gold) == 1 else next(char for char in gold if char.isalpha())
    options = case["options"]
    stated = re.match(r"Answer: ([A-Z])", extracted)
    letter = stated[1] if stated else next((char.upper() for char in extracted if char.isalpha()), None)
    if letter and ord(letter) - ord("A") < len(options):
        return {"parsed": letter, "correct": letter == gold.upper()}
    place = ord(gold.upper()) - ord("A")
    text = options[place] if place < len(options) else None
    for mark in (f"{gold}.", f"{gold}:", f"({gold})"):
        if text is not None and text.startswith(mark):
            text = text[len(mark) :]
            break
    return {"parsed": answer, "correct": text is not None and answer.strip() == text.strip()}


# ---- Q-Bench2 ----

CONCERNS = ("Global Distortion", "Global Others", "Local Distortion", "Local Others")
QUESTION_TYPES = ("Yes/No", "How", "What")


def _qbench2_options(case: Case) -> dict[str, str]:
    options = [case[f"option{place}"] for place in range(4)]
    return lettered(options[: options.index("N/A")] if "N/A" in options else options)


def _qbench2_lmms(answer: str, case: Case) -> dict[str, Any]:
    letter = mmmu_letter(answer, _qbench2_options(case))
    correct = None if letter is None else letter == case["correct_choice"]
    return {"parsed": letter, "random_choice": letter is None, "correct": correct}


def _qbench2_lmms_aggregate(cases: Sequence[Scored]) -> dict[str, Any]:
    """Each question counts in its concern's and in its type's group, so "Overall" has twice as many.

    Where the reference would draw an option at random the question is left out, as it is in the parity data.
    """
    parsed = [case for case in cases if case.result["parsed"] is not None]
    subsets: dict[str, list[Number]] = {}
    for case in parsed:
        for name in (CONCERNS[case.input["question_concern"]], QUESTION_TYPES[case.input["question_type"]]):
            subsets.setdefault(name, []).append(case.result["correct"])
    everything = [correct for group in subsets.values() for correct in group]
    breakdown = {name: {"num": len(group), "acc": round(mean(group), 5)} for name, group in subsets.items()}
    overall = round(mean(everything), 5) if everything else 0
    return {
        "note": "over the deterministic cases only",
        "n": len(parsed),
        "overall": overall,
        "breakdown": {**breakdown, "Overall": {"num": len(everything), "acc": overall}},
    }


def _qbench2_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    return exact_matching(case["prediction"], _qbench2_options(case), case["correct_choice"], recent=recent)


# ---- the extractors themselves ----


def _vlmevalkit_functions(case: Case, *, recent: bool) -> dict[str, Any]:
    options = lettered(case["options"])
    verdict = exact_matching(case["prediction"], options, case["gold"], recent=recent)
    return {
        "can_infer_option": infer_letter(case["prediction"], tuple(options), recent=recent) or False,
        "can_infer": infer_option(case["prediction"], options, recent=recent) or False,
        "exact_matching_option": verdict["option"],
        "hit": verdict["hit"],
    }


def _accuracy(name: str, column: str) -> Any:
    return lambda cases: {name: mean([case.result[column] for case in cases])}


def _both_years(case: Any, aggregate: Any = None, aggregate_2024: Any = None) -> dict[str, Rules]:
    """VLMEvalKit's two versions of a rule that takes ``recent``."""
    return {
        VLMEVALKIT_2026: Rules(case=lambda row: case(row, recent=True), aggregate=aggregate),
        VLMEVALKIT_2024: Rules(case=lambda row: case(row, recent=False), aggregate=aggregate_2024 or aggregate),
    }


def _ai2d_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    gold = LETTERS[int(case["answer"])]
    return exact_matching(case["prediction"], lettered(case["options"]), gold, recent=recent)


def _scienceqa_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    gold = LETTERS[int(case["answer"])]
    return exact_matching(case["prediction"], lettered(case["choices"]), gold, recent=recent)


def _seed_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    return exact_matching(case["prediction"], _seed_options(case), case["answer"], recent=recent)


def _mmstar_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    return exact_matching(case["prediction"], lettered(case["options"]), case["answer"], recent=recent)


def _cv_bench_report(cases: Sequence[Scored]) -> dict[str, Any]:
    return cv_bench_by_source([(case.result["hit"], case.input) for case in cases])


SCORERS: ScorerTable = {
    "mcq_extract_lmms": {
        LMMS_EVAL: Rules(
            case=lambda case: {"letter": extract_letter(case["prediction"], case["choices"] or LETTERS[:8])}
        ),
    },
    "mcq_infer_vlmevalkit": _both_years(_vlmevalkit_functions, _accuracy("acc", "hit")),
    "ai2d": {
        LMMS_EVAL: Rules(case=_ai2d_lmms, aggregate=_accuracy("exact_match", "exact_match")),
        **_both_years(_ai2d_vlmevalkit, _plain_report),
    },
    "scienceqa": {
        LMMS_EVAL: Rules(case=_scienceqa_lmms, aggregate=_accuracy("exact_match", "exact_match")),
        LMMS_EVAL_021: Rules(case=_scienceqa_lmms_021, aggregate=_accuracy("exact_match", "exact_match")),
        **_both_years(_scienceqa_vlmevalkit, _plain_report),
    },
    "seedbench": {
        LMMS_EVAL: Rules(
            case=lambda case: _seed_lmms(strip_reasoning(case["prediction"]), case["answer"]),
            aggregate=_seed_lmms_aggregate,
        ),
        LMMS_EVAL_021: Rules(
            case=lambda case: _seed_lmms(case["prediction"].strip(), case["answer"]), aggregate=_seed_lmms_aggregate
        ),
        **_both_years(_seed_vlmevalkit, _seed_report),
    },
    "mmstar": {
        LMMS_EVAL: Rules(case=_mmstar_lmms, aggregate=_mmstar_lmms_aggregate),
        LMMS_EVAL_021: Rules(case=_mmstar_lmms_021, aggregate=_mmstar_lmms_aggregate),
        **_both_years(_mmstar_vlmevalkit, _mmstar_report),
    },
    "realworldqa": {
        LMMS_EVAL: Rules(case=_realworldqa_lmms, aggregate=_accuracy("exact_match", "exact_match")),
        LMMS_EVAL_021: Rules(case=_realworldqa_lmms_021, aggregate=_accuracy("exact_match", "exact_match")),
        **_both_years(_realworldqa_vlmevalkit, _realworldqa_report),
    },
    "blink": {
        LMMS_EVAL: Rules(case=_blink_lmms, aggregate=_blink_lmms_aggregate),
        LMMS_EVAL_072: Rules(
            case=lambda case: _bracketed_gold(leading_letter(strip_reasoning(case["prediction"])), case),
            aggregate=_blink_lmms_aggregate,
        ),
        **_both_years(_choices_vlmevalkit, _blink_report),
    },
    "cv_bench": {
        LMMS_EVAL: Rules(
            case=lambda case: _bracketed_gold(leading_letter(strip_reasoning(case["prediction"])), case),
            aggregate=_cv_bench_lmms_aggregate,
        ),
        # VLMEvalKit of 2024 has no CV-Bench; its extractor is used and the aggregation is the Cambrian one.
        **_both_years(_choices_vlmevalkit, _cv_bench_report),
    },
    "mantis": {LMMS_EVAL: Rules(case=_mantis_lmms, aggregate=_accuracy("mantis_score", "correct"))},
    "qbench2": {
        LMMS_EVAL: Rules(
            case=lambda case: _qbench2_lmms(strip_reasoning(case["prediction"]), case),
            aggregate=_qbench2_lmms_aggregate,
        ),
        LMMS_EVAL_021: Rules(
            case=lambda case: _qbench2_lmms(case["prediction"].strip(), case), aggregate=_qbench2_lmms_aggregate
        ),
        # VLMEvalKit has no Q-Bench2; eval.md, section 6 asks for its extractor.
        **_both_years(_qbench2_vlmevalkit, _plain_report),
    },
}

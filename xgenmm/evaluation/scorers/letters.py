"""Which option an answer names, as each reference reads it. Knows no benchmark.

Every extractor returns the letter it read, or nothing. Where a reference then picks an option at random, the answer is
unparsed here: wrong, counted and shown. Source of all rules: eval.md, section 1.3.
"""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from xgenmm.evaluation.scorers.accuracies import both_years, share_of
from xgenmm.evaluation.scorers.profiles import LMMS_EVAL, Case, Rules, ScorerTable

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


def all_lettered(options: Sequence[Any]) -> dict[str, str]:
    """Options by letter, missing ones too: what reads a list, and no table's cells, has a letter for each."""
    return {letter: str(text) for letter, text in zip(LETTERS, options, strict=False)}


def lettered(options: Sequence[Any]) -> dict[str, str]:
    """Options by letter; a missing one (null) has none."""
    return {letter: str(text) for letter, text in zip(LETTERS, options, strict=False) if text is not None}


def exact_matching(answer: str, options: Mapping[str, str], gold: str, *, recent: bool) -> dict[str, Any]:
    """VLMEvalKit's verdict without a judge: what cannot be read is option ``Z``, and wrong."""
    option = infer_option(answer, options, recent=recent) or UNPARSED
    return {"option": option, "hit": int(option == gold)}


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
    """Equality in any case and without ASCII punctuation; spaces count. lmms-eval's match for AI2D and GQA.

    The reference lower-cases arrays of fixed width: what a letter gains ("İ" becomes two) is lost at the end.
    """
    drop = str.maketrans("", "", string.punctuation)

    def plain(text: str) -> str:
        return text.lower()[: len(text)].translate(drop).rstrip("\0")

    return plain(left) == plain(right)


def bracketed_gold(parsed: str, case: Case) -> dict[str, Any]:
    """The verdict on a letter where the gold answer is written as "(B)"."""
    return {"parsed": parsed, "correct": parsed == case["answer"].strip("()")}


def choices_vlmevalkit(case: Case, *, recent: bool) -> dict[str, Any]:
    """VLMEvalKit's verdict where options are a list and the gold answer is written as "(B)"."""
    return exact_matching(case["prediction"], lettered(case["choices"]), case["answer"].strip("()"), recent=recent)


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


SCORERS: ScorerTable = {
    "mcq_extract_lmms": {
        LMMS_EVAL: Rules(
            case=lambda case: {"letter": extract_letter(case["prediction"], case["choices"] or LETTERS[:8])}
        ),
    },
    "mcq_infer_vlmevalkit": both_years(_vlmevalkit_functions, share_of("acc", "hit")),
}

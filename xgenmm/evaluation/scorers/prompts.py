"""The text around a question: what each reference asks for each benchmark. Knows nothing of images or chat templates.

lmms-eval gives one text; VLMEvalKit gives messages, images first except for MMMU, whose images stand where the question
names them. Source: eval.md, sections 3 to 6.
"""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xgenmm.evaluation.scorers.circular import is_present
from xgenmm.evaluation.scorers.letters import LETTERS
from xgenmm.evaluation.scorers.profiles import (
    LMMS_EVAL,
    LMMS_EVAL_021,
    VLMEVALKIT_2024,
    VLMEVALKIT_2026,
    Case,
    Rules,
    ScorerTable,
)

Doc = Mapping[str, Any]

SHORT_ANSWER = "Answer the question using a single word or phrase."
CHART_ANSWER = "Answer the question with a single word."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
CAPTION = "Provide a one-sentence caption for the provided image."
YES_NO_ANSWER = " Please answer yes or no."
"""MME's own request, which lmms-eval replaces by its own."""
LETTERS_ONLY = "Note: You only need to respond with {} without providing any additional information.\n"
VLMEVALKIT_SELECT = "Please select the correct answer from the options above. \n"
"""The space before the line break is the reference's."""
IMAGE = "<img>"
"""Stands for a picture's path in messages."""

_MATHVISTA_HINTS: dict[str, str] = {
    "text": LETTER_ANSWER,
    "integer": "Answer the question using a single integer number.",
    "float1": "Answer the question using a single floating-point number with one decimal place.",
    "float2": "Answer the question using a single floating-point number with two decimal places.",
    "list": "Answer the question using a Python list.",
}
_MATHVISTA_LONG_HINTS: dict[str, str] = {
    "text": "and provide the correct option letter, e.g., A, B, C, D, at the end.",
    "integer": "requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end.",
    "float1": "requiring a floating-point number with one decimal place and provide the final value, e.g., 1.2, 1.3,"
    " 1.4, at the end.",
    "float2": "requiring a floating-point number with two decimal places and provide the final value, e.g., 1.23, 1.34,"
    " 1.45, at the end.",
    "list": "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the"
    " end.",
}


def option_lines(options: Sequence[Any], form: str = "{}. {}") -> str:
    """Options one a line with their letters."""
    return "\n".join(form.format(letter, option) for letter, option in zip(LETTERS, options, strict=False))


def with_suffix(suffix: str) -> Callable[[Doc], str]:
    """The question as it is, a line break and a request."""
    return lambda doc: f"{doc['question']}\n{suffix}"


# ---- lmms-eval ----


def _capitalized(suffix: str) -> Callable[[Doc], str]:
    # capitalize() also lower-cases the rest of the question: "How many DOGS" becomes "How many dogs".
    return lambda doc: f"{doc['question'].capitalize()}\n{suffix}"


def _with_options(column: str) -> Callable[[Doc], str]:
    return lambda doc: f"{doc['question']}\n{option_lines(doc[column])}\n{LETTER_ANSWER}"


def _scienceqa(doc: Doc) -> str:
    context = f"Context: {doc['hint']}\n" if doc["hint"] else ""
    return context + _with_options("choices")(doc)


def _seedbench(doc: Doc) -> str:
    options = [doc[f"choice_{letter}"] for letter in "abcd"]
    return f"{doc['question']}\n{option_lines(options)}\n{LETTER_ANSWER}"


def _mmbench(doc: Doc) -> str:
    options = [f"{letter}. {doc[letter]}" for letter in LETTERS[:5] if _is_filled(doc.get(letter))]
    listed = "\n".join(["There are several options:", *options])
    hint = doc["hint"]
    # An empty hint still gives its space.
    lead = f"{hint} " if is_present(hint) and hint != "nan" else ""
    return f"{lead}{doc['question']} {listed}\n\n{LETTER_ANSWER}"


def _is_filled(cell: Any) -> bool:
    return is_present(cell) and cell not in ("", "nan")


def _mmstar(doc: Doc) -> str:
    question = doc["question"].strip().replace(YES_NO_ANSWER, "")
    return f"{question}\n{LETTER_ANSWER.removesuffix('.')}"


def _mme(doc: Doc) -> str:
    return f"{doc['question'].strip().replace(YES_NO_ANSWER, '')}\n{SHORT_ANSWER}"


def _letters_first(separator: str) -> Callable[[Doc], str]:
    def build(doc: Doc) -> str:
        letters = ", ".join(LETTERS[: len(doc["choices"])])
        return LETTERS_ONLY.format(letters) + separator + doc["prompt"]

    return build


def _mmmu(doc: Doc) -> str:
    if doc["question_type"] == "multiple-choice":
        return f"{doc['question']}\n{option_lines(ast.literal_eval(doc['options']))}\n\n{LETTER_ANSWER}"
    return f"{doc['question']}\n\n{SHORT_ANSWER}"


def _mathvista_kind(doc: Doc) -> str:
    if doc["question_type"] == "multi_choice":
        return "text"
    kind = doc["answer_type"]
    return f"float{int(doc['precision'])}" if kind == "float" else kind


def mathvista_format(doc: Doc) -> str:
    """MathVista's "format" variant: the question, its options as "A. …", and a request for the bare answer."""
    unit = f" (Unit: {doc['unit']})" if doc.get("unit") else ""
    options = [option_lines(doc["choices"])] if doc["choices"] else []
    return "\n".join([f"{doc['question']}{unit}", *options, _MATHVISTA_HINTS[_mathvista_kind(doc)]]).strip()


def mathvista_cot(doc: Doc) -> str:
    """MathVista's "cot" variant: "Question:", choices as "(A) …" and the dataset's own hint."""
    unit = f" (Unit: {doc['unit']})" if doc.get("unit") else ""
    options = ["Choices:", option_lines(doc["choices"], "({}) {}")] if doc["choices"] else []
    hint = f"Hint: Please answer the question {_MATHVISTA_LONG_HINTS[_mathvista_kind(doc)]}"
    return "\n".join([f"Question: {doc['question']}{unit}", *options, hint]).strip()


def mathvista_solution(doc: Doc) -> str:
    """MathVista's "solution" variant: the same with the word that a solution would follow."""
    return f"{mathvista_cot(doc)}\nSolution:"


def _qbench2(doc: Doc) -> str:
    options = [doc[f"option{place}"] for place in range(4) if doc[f"option{place}"] != "N/A"]
    return f"{doc['question']}\n{option_lines(options)}\n{LETTER_ANSWER}\n"


def _mantis(doc: Doc) -> str:
    if doc["question_type"] == "short-answer":
        return (
            f"Given the images, answer the following short answer vqa question:\nQ: {doc['question']}\n"
            'You can first give your analysis, and then give your final answer as "Final Answer:"'
        )
    # The reference prints the list of options as Python would, directly behind the period.
    return f"{doc['question']}\n{LETTER_ANSWER}{doc['options']}"


def _stripped_question(doc: Doc) -> str:
    return doc["question"].strip()


LMMS_PROMPTS: dict[str, Callable[[Doc], str]] = {
    "coco": lambda _: CAPTION,
    "nocaps": lambda _: CAPTION,
    "textcaps": lambda _: CAPTION,
    "vqav2": with_suffix(SHORT_ANSWER),
    "ok_vqa": with_suffix(f"{UNANSWERABLE}\n{SHORT_ANSWER}"),
    "vizwiz": _capitalized(f"{UNANSWERABLE}\n{SHORT_ANSWER}"),
    "textvqa": _capitalized(SHORT_ANSWER),
    "docvqa": with_suffix(SHORT_ANSWER),
    "infovqa": with_suffix(SHORT_ANSWER),
    "chartqa": with_suffix(CHART_ANSWER),
    "gqa": with_suffix(SHORT_ANSWER),
    "ocrbench": _stripped_question,
    "seedbench": _seedbench,
    "mmbench": _mmbench,
    "mmstar": _mmstar,
    "mme": _mme,
    "cv_bench": _letters_first("\n"),
    "blink": _letters_first(""),
    "realworldqa": _stripped_question,
    "mmmu": _mmmu,
    "mathvista": mathvista_format,
    "mathvista_format": mathvista_format,
    "mathvista_cot": mathvista_cot,
    "mathvista_solution": mathvista_solution,
    "scienceqa": _scienceqa,
    "ai2d": _with_options("options"),
    "muirbench": _with_options("options"),
    "hallusion": lambda doc: doc["question"],
    "pope": lambda doc: f"{doc['question'].strip()}\n{SHORT_ANSWER}",
    "qbench2": _qbench2,
    "mantis": _mantis,
}
"""Prompt builders of lmms-eval 0.7.3, by benchmark."""


# ---- VLMEvalKit ----


def choice_prompt(question: str, options: Mapping[str, Any], hint: str | None = None) -> str:
    """VLMEvalKit's prompt of every multiple-choice set."""
    lines = [] if hint is None else [f"Hint: {hint}"]
    lines.append(f"Question: {question}")
    if options:
        lines += ["Options:", *(f"{letter}. {option}" for letter, option in options.items())]
    return "".join(f"{line}\n" for line in lines) + (VLMEVALKIT_SELECT if options else "")


def interleaved(text: str, images: Sequence[str]) -> list[dict[str, str]]:
    """A text and its images as messages: each image where the text says ``<image n>``, or first if it never does."""
    parts = re.split(r"<image (\d)>", text)
    if len(parts) == 1:
        return [*({"type": "image", "value": image} for image in images), {"type": "text", "value": text}]
    messages = [{"type": "text", "value": parts[0]}]
    for number, part in zip(parts[1::2], parts[2::2], strict=True):
        messages += [{"type": "image", "value": images[int(number) - 1]}, {"type": "text", "value": part}]
    return messages


def _choice_text(doc: Doc) -> str:
    return choice_prompt(doc["question"], _vlmevalkit_options(doc), _vlmevalkit_hint(doc))


def _vlmevalkit_options(doc: Doc) -> dict[str, Any]:
    """The columns A, B, … of VLMEvalKit's tables, from whichever form the dataset has its options in."""
    if "choice_a" in doc:
        options: Sequence[Any] = [doc[f"choice_{letter}"] for letter in "abcd"]
    elif "choices" in doc:
        options = doc["choices"] or []
    elif "options" in doc:
        options = ast.literal_eval(doc["options"]) if isinstance(doc["options"], str) else doc["options"]
    else:
        return {letter: doc[letter] for letter in LETTERS if is_present(doc.get(letter)) and doc[letter] != "nan"}
    return dict(zip(LETTERS, options, strict=False))


def _vlmevalkit_hint(doc: Doc) -> str | None:
    hint = doc.get("hint")
    return hint if is_present(hint) and hint != "nan" else None


def _question(doc: Doc) -> str:
    return doc["question"]


VLMEVALKIT_PROMPTS: dict[str, Callable[[Doc], str]] = {
    **dict.fromkeys(["textvqa", "docvqa", "infovqa", "chartqa", "gqa"], with_suffix(SHORT_ANSWER)),
    **dict.fromkeys(["ocrbench", "mme", "pope", "hallusion"], _question),
    **dict.fromkeys(
        ["seedbench", "mmbench", "mmstar", "realworldqa", "mmmu", "scienceqa", "ai2d", "blink", "muirbench"],
        _choice_text,
    ),
    "cv_bench": lambda doc: doc["prompt"],
}
"""Prompt builders of VLMEvalKit, by benchmark; the same in both versions."""
_NUM_IMAGES = {"blink": 2, "mmmu": 8}
"""Pictures that a parity case stands for; a real question has its own number."""

ALIASES = {
    "hallusionbench": "hallusion",
    "hallusion_bench": "hallusion",
    "vizwiz_vqa": "vizwiz",
    "okvqa": "ok_vqa",
    "coco_cap": "coco",
    "seed": "seedbench",
    "cvbench": "cv_bench",
    "chartqa_relaxed": "chartqa",
    "mmbench_circular": "mmbench",
    "mantis_eval": "mantis",
    "q_bench2": "qbench2",
}


def _name(case: Case) -> str:
    name = case["benchmark"].lower()
    return ALIASES.get(name, name)


def _lmms_case(case: Case) -> dict[str, Any]:
    builder = LMMS_PROMPTS.get(_name(case))
    if builder is None:
        raise ValueError(f"no lmms-eval prompt for benchmark {case['benchmark']!r}: known are {sorted(LMMS_PROMPTS)}")
    return {"text": builder(case["doc"])}


def _vlmevalkit_case(case: Case) -> dict[str, Any]:
    """Messages; nothing for a benchmark that VLMEvalKit does not have (VQAv2, COCO, Mantis)."""
    name = _name(case)
    if name not in VLMEVALKIT_PROMPTS:
        return {}
    text, images = VLMEVALKIT_PROMPTS[name](case["doc"]), [IMAGE] * _NUM_IMAGES.get(name, 1)
    if name == "mmmu":
        return {"messages": interleaved(text, images)}
    return {"messages": [*({"type": "image", "value": image} for image in images), {"type": "text", "value": text}]}


SCORERS: ScorerTable = {
    "prompt_format": {
        LMMS_EVAL: Rules(case=_lmms_case),
        LMMS_EVAL_021: Rules(case=_lmms_case),
        VLMEVALKIT_2026: Rules(case=_vlmevalkit_case),
        VLMEVALKIT_2024: Rules(case=_vlmevalkit_case),
    },
}

"""Captions that other models wrote, with words or boxes in them: BLIP3-OCR-200M, BLIP3-GROUNDING-50M."""

import ast
import math
import re
from collections.abc import Sequence
from typing import Any

from xgenmm.data.adapters.captions import row_picture
from xgenmm.data.adapters.choosing import Choose
from xgenmm.data.adapters.fields import not_blank, optional, parsed, required, typed
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import Row
from xgenmm.types import Document

OCR_LEVELS = 6
OCR_FILLER = re.compile(r"\b(?:the )?text(?: reads| says)?:? ?", re.IGNORECASE)
BOX_TAG = re.compile(r"<bbox>(.*?)</bbox>", re.DOTALL)
NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf)\w*", re.IGNORECASE)
TAGS = ("ocr", "bbox", "object", "ref")
ARTIFACTS = re.compile(
    r"\b(?:as an ai(?: language)? model|i(?:'|\u2019)?m sorry,? (?:but )?i can|i cannot (?:assist|help|provide)"
    r"|sentence structure|rewrit(?:e|ten) (?:caption|sentence)|merge the (?:two|following)|sentence [12]:"
    r"|raw caption|synthetic caption|alt[- ]text:|user:|assistant:)",
    re.IGNORECASE,
)
"""What a rewriting model says about its task, or that it refuses."""
KALE_ARTIFACTS = re.compile(r"\b(?:real-world|sentence [12])\b", re.IGNORECASE)
"""Words of KALE's prompt: its makers deleted the sentences that hold them (arXiv 2411.07461)."""
LOOP_WORDS, LOOP_TURNS, LONGEST_TURN = 16, 5, 40
"""A loop is at least so many words that are at least so many turns of at most so many words."""


def ocr(
    row: Row,
    choose: Choose,
    *,
    levels: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
    raw_caption: bool | None = None,
    remove_filler: bool = True,
) -> Document:
    """A row of BLIP3-OCR-200M or OCR-HD: one of twelve captions, six levels with and without the raw caption.

    Args:
        row: A parquet row with `captions`, a JSON text.
        choose: Draws the caption.
        levels: Granularities to draw from: 0 words only ... 5 words and boxes as tags.
        raw_caption: Draw only captions with (true) or without (false) the raw caption.
        remove_filler: Leave out filler such as "the text", as the paper does in loading.

    Raises:
        BadSample: The captions are not the twelve, a box is none, or a tag is left open.

    Source: spec 5.1 and 5.2.
    """
    entries = typed(parsed(required(row.fields, "captions", object), "captions"), list, "captions")
    found: dict[tuple[int, bool], str] = {}
    for entry in entries:
        fields = typed(entry, dict, "captions")
        level, raw = required(fields, "granularity", int), required(fields, "include_datacomp_raw_cap", bool)
        found[level, raw] = required(fields, "text", str)
    wanted = {(level, raw) for level in range(OCR_LEVELS) for raw in (False, True)}
    if set(found) != wanted or len(entries) != len(wanted):
        raise BadSample("sample_incomplete", f"{len(entries)} captions, and not the 12 that there should be")
    check_boxes(parsed(row.fields.get("metadata"), "metadata"))
    for text in found.values():  # what stands on a picture is nobody's artefact
        check_loops(text)
        check_marks(text)
    chosen = sorted(key for key in found if key[0] in levels and raw_caption in (None, key[1]))
    if not chosen:
        raise BadSample("schema_missing_field", f"no caption of levels {levels}")
    text = found[chosen[choose(len(chosen))]]
    if remove_filler:
        text = OCR_FILLER.sub("", text)
    return Document(id=row.id, parts=(row_picture(row), not_blank(text, "caption").strip()))


def grounding(row: Row, choose: Choose, *, levels: tuple[int, ...] = (0, 1, 2)) -> Document:
    """A row of BLIP3-GROUNDING-50M: one of its captions, from coarse places to boxes.

    Args:
        row: A parquet row with `captions`, a list of [caption, level, with raw caption] as Python or JSON text.
        choose: Draws the caption.
        levels: Granularities to draw from.

    Raises:
        BadSample: The captions cannot be read, a box is none, or a tag is left open.

    Source: spec 5.1.
    """
    entries = _literal(required(row.fields, "captions", object), "captions")
    captions = []
    for entry in typed(entries, list, "captions"):
        if not isinstance(entry, list | tuple) or len(entry) < 2 or not isinstance(entry[0], str):
            raise BadSample("schema_wrong_type", f"a caption must be [text, level, with raw caption], not {entry!r}")
        check_artifacts(entry[0])
        check_loops(entry[0])
        check_marks(entry[0])
        if entry[1] in levels:
            captions.append(entry[0])
    if not captions:
        raise BadSample("schema_missing_field", f"no caption of levels {levels}")
    check_boxes(_literal(row.fields.get("metadata"), "metadata"))
    return Document(id=row.id, parts=(row_picture(row), not_blank(captions[choose(len(captions))], "caption").strip()))


def kale(row: Row, choose: Choose, *, prefix: str = "") -> Document:
    """A row of BLIP3-KALE: `url` and `caption`, a dense caption with knowledge.

    Args:
        row: A parquet row.
        choose: Not used.
        prefix: Text between the picture and the caption.

    Raises:
        BadSample: No address, no caption, or one in which the rewriting model speaks of its task or repeats itself.

    Source: spec 5.1.
    """
    del choose
    caption = not_blank(required(row.fields, "caption", str), "caption").strip()
    check_artifacts(caption, ARTIFACTS, KALE_ARTIFACTS)
    check_loops(caption)
    check_marks(caption)
    return Document(id=row.id, parts=(row_picture(row), prefix + caption))


def check_artifacts(text: str, *patterns: re.Pattern[str]) -> None:
    """Refuse a caption in which the model that wrote it speaks of its task, or refuses it.

    Raises:
        BadSample: See above.
    """
    for pattern in patterns or (ARTIFACTS,):
        if found := pattern.search(text):
            raise BadSample("caption_artifact", f"it says {found[0]!r}")


def check_loops(text: str) -> None:
    """Refuse a text that says the same again and again.

    Raises:
        BadSample: See above.
    """
    if repeats(text):
        raise BadSample("caption_repetition", "it says the same again and again")


def check_marks(text: str) -> None:
    """Refuse tags that are left open, and boxes that are none.

    Raises:
        BadSample: See above.
    """
    for tag in TAGS:
        check_balance(text, tag)
    for inside in BOX_TAG.findall(text):
        check_box([float(number) for number in NUMBER.findall(inside)])


def check_balance(text: str, tag: str) -> None:
    """Refuse a tag that is not opened and closed in turn.

    Raises:
        BadSample: See above.
    """
    depth = 0
    for mark in re.findall(rf"</?{tag}>", text):
        depth += -1 if mark.startswith("</") else 1
        if depth not in (0, 1):
            break
    if depth:
        raise BadSample("tag_unbalanced", f"<{tag}> is not opened and closed in turn")


def repeats(text: str) -> bool:
    """Whether a part of a text is a loop: the same words in the same order, again and again.

    Sentences of one form ("the text A is above the text B, the text C is ...") are none: their words differ.

    >>> repeats("a cat on a mat " * 10), repeats("a cat on a mat"), repeats("It is red. " + "very " * 20)
    (True, False, True)
    """
    words = text.casefold().split()
    if len(words) - len(set(words)) < LOOP_WORDS // 2:
        return False  # too few words come twice
    for turn in range(1, min(LONGEST_TURN, len(words) // LOOP_TURNS) + 1):
        needed, run = max(LOOP_WORDS, turn * LOOP_TURNS) - turn, 0
        for before, word in zip(words, words[turn:], strict=False):
            run = run + 1 if before == word else 0
            if run >= needed:
                return True
    return False


def check_boxes(metadata: Any) -> None:
    """Refuse metadata with a box that is none. Rows without metadata have none to check.

    Raises:
        BadSample: See `check_box`.
    """
    if metadata is None:
        return
    for entity in optional(typed(metadata, dict, "metadata"), "entities", list) or ():
        box = entity.get("bbox") if isinstance(entity, dict) else entity[:4] if isinstance(entity, list) else None
        if not isinstance(box, list):
            raise BadSample("bbox_invalid", f"{entity!r} has no box")
        check_box([number for point in box for number in (point if isinstance(point, list) else [point])])


def check_box(box: Sequence[Any]) -> None:
    """Refuse what is no box [x1, y1, x2, y2] in shares of the picture.

    Raises:
        BadSample: Not four finite numbers from 0 to 1, or the second corner is not beyond the first.
    """
    numbers = [value for value in box if isinstance(value, int | float) and not isinstance(value, bool)]
    whole = len(numbers) == len(box) == 4 and all(math.isfinite(value) and 0 <= value <= 1 for value in numbers)
    if not whole or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        raise BadSample("bbox_invalid", f"{list(box)} is no box x1, y1, x2, y2 in shares of the picture")


def _literal(value: Any, name: str) -> Any:
    """A list or an object that is written as JSON or as Python (`True`, single quotes)."""
    if not isinstance(value, str):
        return value
    try:
        return parsed(value, name)
    except BadSample:
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise BadSample("json_invalid", f"{name}: neither JSON nor Python: {error}") from error

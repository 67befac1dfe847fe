"""Boxes that a row of OCR or grounding data has for its picture, wherever they are written down."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xgenmm.data.adapters.fields import parsed
from xgenmm.data.adapters.synthetic import BOX_TAG, NUMBER, check_box
from xgenmm.data.quarantine import BadSample

NAMED = re.compile(r"<(ocr|object|ref)>(.*?)</\1>\s*$", re.DOTALL)
"""What stands in front of a box in a text: the words that it is around."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A part of a picture, in shares of its width and height, and the words for it."""

    words: str
    left: float
    top: float
    right: float
    bottom: float


def boxes_of(fields: Mapping[str, Any], texts: Sequence[str]) -> list[Box]:
    """The boxes of a row: those of its metadata, and those that its texts have as tags. What is no box is left out.

    Args:
        fields: The row.
        texts: What a model is shown of it.
    """
    found = [*_of_metadata(fields.get("metadata")), *(box for text in texts for box in _of_text(text))]
    return list(dict.fromkeys(box for box in found if box is not None))


def _of_metadata(metadata: Any) -> Iterator[Box | None]:
    try:
        content = parsed(metadata, "metadata")
    except BadSample:
        return
    entities = content.get("entities") if isinstance(content, Mapping) else None
    for entity in entities if isinstance(entities, list) else ():
        if isinstance(entity, Mapping):
            yield _box(entity.get("bbox"), entity.get("text", ""))
        elif isinstance(entity, list):
            yield _box(entity[:4], entity[5] if len(entity) > 5 else "")


def _of_text(text: str) -> Iterator[Box | None]:
    for match in BOX_TAG.finditer(text):
        words = NAMED.search(text[: match.start()])
        yield _box([float(number) for number in NUMBER.findall(match[1])], words[2] if words else "")


def _box(place: Any, words: Any) -> Box | None:
    if not isinstance(place, list):
        return None
    flat = [number for point in place for number in (point if isinstance(point, list) else [point])]
    try:
        check_box(flat)
    except BadSample:
        return None
    left, top, right, bottom = flat
    return Box(words=str(words), left=left, top=top, right=right, bottom=bottom)

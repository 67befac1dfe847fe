"""Placeholders in texts that somebody has rendered, Hugging Face's way: pictures dealt to them, and one for each vision
token.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from PIL import Image

from xgenmm.processor.images import load_image
from xgenmm.processor.prompt import IMAGE, IMAGE_PLACEHOLDER


def spread_placeholders(
    name: str, row: Sequence[int], counts: Sequence[int], placeholder: int, filler: int
) -> list[int]:
    """One placeholder for each vision token.

    Text has either one a picture, as in LAVIS, or one and a filler for every further vision token, as in the released
    Hugging Face base model.
    """
    ids: list[int] = []
    remaining = iter(counts)
    position = 0
    while position < len(row):
        token, position = row[position], position + 1
        if token == placeholder:
            fillers = sum(1 for _ in itertools.takewhile(lambda other: other == filler, row[position:]))
            count = next(remaining)
            if fillers not in (0, count - 1):
                raise ValueError(
                    f"{name}: {fillers} {IMAGE_PLACEHOLDER} behind an {IMAGE} whose picture has {count} vision tokens: "
                    f"write none, or {count - 1}"
                )
            ids += [placeholder] * count
            position += fillers
        elif token == filler:
            raise ValueError(f"{name}: {IMAGE_PLACEHOLDER} without {IMAGE} in front of it")
        else:
            ids.append(token)
    return ids


def images_by_row(images: Any, placeholders: Sequence[int]) -> list[list[Image.Image]]:
    """Deal pictures to texts by their numbers of placeholders.

    Args:
        images: None, one picture, a list of them, or a list with a list (or None) for each text.
        placeholders: Number of placeholders in each text.
    """
    listed = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
    by_row = [list(row or ()) for row in listed] if listed and _is_nested(listed) else None
    if by_row is None:
        if len(listed) != sum(placeholders):
            raise ValueError(_mismatch("in all", sum(placeholders), len(listed)))
        rest = iter(listed)
        by_row = [list(itertools.islice(rest, count)) for count in placeholders]
    if len(by_row) != len(placeholders):
        raise ValueError(f"{len(by_row)} lists of images for {len(placeholders)} texts: give one list a text")
    for index, (count, row) in enumerate(zip(placeholders, by_row, strict=True)):
        if count != len(row):
            raise ValueError(_mismatch(f"in text {index}", count, len(row)))
    return [[load_image(image) for image in row] for row in by_row]


def _is_nested(images: Sequence[Any]) -> bool:
    return all(image is None or isinstance(image, (list, tuple)) for image in images)


def _mismatch(where: str, placeholders: int, images: int) -> str:
    return (
        f"{placeholders} {IMAGE} placeholders {where} for {images} images: whoever writes the text puts one {IMAGE} "
        "where each picture belongs (truncation can lose them)"
    )

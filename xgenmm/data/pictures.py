"""Which pictures a data set may use: found in them by scan, index and training alike. Decodes nothing."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xgenmm.data.files import Place, Remote
from xgenmm.data.quarantine import BadSample
from xgenmm.processor.images import ImageError
from xgenmm.types import Document, Picture, Preference, Sample

MAX_PIXELS = 100_000_000
"""Larger pictures are refused from their header."""
MIN_SIDE = 8
MAX_ASPECT = 20.0
"""Longer side by shorter one, for captioned pictures."""
CAPTIONED = ("caption_pairs", "caption_rows", "kale", "ocr", "grounding", "visual_genome")
"""Adapters whose pictures may not be strips."""
INTERLEAVED = ("mint", "interleaved_rows")
"""Adapters of documents, in which a bad picture falls out alone."""


def pictures_of(sample: Sample) -> list[Picture]:
    """All pictures of a sample."""
    if isinstance(sample, Preference):
        sample = sample.prompt
    turns = [sample.parts] if isinstance(sample, Document) else [turn.parts for turn in sample.turns]
    return [part for parts in turns for part in parts if isinstance(part, Picture)]


@dataclass(kw_only=True)
class Looked:
    """What somebody who looked at the pictures of a record found."""

    failed: dict[Picture, BadSample] = field(default_factory=dict)
    absent: list[Picture] = field(default_factory=list)
    """Addresses whose pictures are not in the folder that `xgenmm data fetch` fills."""
    looked_at: int = 0


def look_at(
    pictures: Sequence[Picture], adapter: str, size: Callable[[Picture], tuple[int, int]], roots: Sequence[Place] = ()
) -> Looked:
    """Look at every picture of a record.

    Args:
        pictures: All of them.
        adapter: Whose record it is.
        size: Gives width and height of a picture, or raises an ImageError.
        roots: Folders that picture files must really lie in, links followed.

    Raises:
        BadSample: A picture leads out of the data set's folders.
    """
    looked = Looked()
    for picture in pictures:
        if _is_not_fetched(picture):
            looked.absent.append(picture)
            continue
        _stay_inside(picture, roots)
        looked.looked_at += 1
        try:
            _check_size(picture, *size(picture), adapter)
        except ImageError as error:
            looked.failed[picture] = BadSample(f"image_{error.reason}", str(error))
        except BadSample as error:
            looked.failed[picture] = error
    return looked


def _check_size(picture: Picture, width: int, height: int, adapter: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise BadSample("image_too_small", f"{picture.name}: {width} x {height} pixels")
    if adapter in CAPTIONED and max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSample("image_aspect", f"{picture.name}: {width} x {height} pixels")


def _is_not_fetched(picture: Picture) -> bool:
    source = picture.source
    if not picture.name.startswith(("http://", "https://")) or isinstance(source, bytes):
        return False
    if isinstance(source, Path):
        return not os.path.exists(source)
    return isinstance(source, Remote) and not source.exists()


def _stay_inside(picture: Picture, roots: Sequence[Place]) -> None:
    folders = [root for root in roots if isinstance(root, Path)]
    if folders and isinstance(picture.source, Path) and os.path.exists(picture.source):  # a name may be too long to ask
        real = picture.source.resolve()
        if not any(folder.resolve() in real.parents for folder in folders):
            raise BadSample("path_escape", f"{picture.name} is a link that leads to {real}")

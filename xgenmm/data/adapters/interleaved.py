"""Documents of text and pictures in reading order: MINT-1T's PDFs and ArXiv papers, its web pages, OBELICS."""

import struct
from collections.abc import Callable, Iterator
from typing import Any

from xgenmm.data.adapters.choosing import Choose
from xgenmm.data.adapters.fields import bytes_member, fetched_picture, json_member, required, sound, typed
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import Row
from xgenmm.types import Document, Part, Picture


def mint(row: Row, choose: Choose, *, max_images: int = 30) -> Document:
    """An interleaved document of MINT-1T (PDF, ArXiv): `{key}.json` with `texts` and `images`, `{key}.tiff` with pages.

    The two lists are parallel, and at every place one is null; the n-th image is the n-th page of the TIFF (`.tiff` or
    `.tif`).

    Args:
        row: A tar's row.
        choose: Not used: a document is what it is.
        max_images: A document with more is left out.

    Raises:
        BadSample: The lists do not fit each other or the TIFF, or there are no or too many images.

    Source: spec 5.1 (the published card); limit of 30 images: arXiv 2406.11271.
    """
    del choose
    content = json_member(row, "json")
    pages = _pages(row)

    def page(image: Any) -> Picture:
        found = next(pages, None)
        if found is None:
            raise BadSample("image_missing", "the document names more images than the TIFF has pages")
        return Picture(source=found, name=f"{row.id}.tiff ({image})")

    return _document(row.id, content, page, max_images)


def interleaved_rows(row: Row, choose: Choose, *, max_images: int = 30) -> Document:
    """A web page of OBELICS or MINT-1T HTML: parallel lists `texts` and `images`, the latter of addresses.

    A picture that stands twice in a document is used once. `images` of the source is the folder that `xgenmm data
    fetch` filled.

    Args:
        row: A parquet row.
        choose: Not used.
        max_images: A document with more is left out.

    Raises:
        BadSample: The lists do not fit each other, or there are no or too many images.

    Source: spec 5.1 (the published cards).
    """
    del choose
    return _document(row.id, row.fields, lambda image: fetched_picture(row, image), max_images)


def _pages(row: Row) -> Iterator[bytes]:
    """Reads the TIFF when its first page is asked for, so that a document's other faults are told first."""
    yield from split_tiff(bytes_member(row, "tiff" if "tiff" in row.fields or "tif" not in row.fields else "tif"))


def _document(name: str, content: Any, open_picture: Callable[[Any], Picture], max_images: int) -> Document:
    texts, images = required(content, "texts", list), required(content, "images", list)
    if len(texts) != len(images):
        raise BadSample("interleaved_length_mismatch", f"{len(texts)} texts, {len(images)} images")
    for place, (text, image) in enumerate(zip(texts, images, strict=True)):
        if (text is None) == (image is None):
            raise BadSample(f"interleaved_both_{'null' if text is None else 'set'}", f"at place {place}")
    num_images = sum(image is not None for image in images)
    if not num_images:
        raise BadSample("no_image", "every image is null")
    if num_images > max_images:
        raise BadSample("too_many_images", f"{num_images}, and {max_images} are allowed")
    parts: list[Part] = []
    seen: set[str] = set()
    for place, (text, image) in enumerate(zip(texts, images, strict=True)):
        if image is None:
            parts.append(sound(typed(text, str, f"texts[{place}]"), f"texts[{place}]"))
            continue
        picture = open_picture(image)
        if picture.name not in seen:
            parts.append(picture)
        seen.add(picture.name)
    if not any(isinstance(part, str) and part.strip() for part in parts):
        raise BadSample("text_empty", "no place has text")
    return Document(id=name, parts=tuple(parts))


def split_tiff(data: bytes) -> Iterator[bytes]:
    """The pages of a TIFF, each as a TIFF whose first page it is, without decoding anything.

    A TIFF's header says where its first page is described, and every description says where the next one is: so a page
    becomes the first by writing another number into the header.

    Raises:
        BadSample: Not a TIFF, or its chain of pages leads outside the file or in a circle.

    Source: TIFF 6.0, section 2.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise BadSample("image_corrupt", "not a TIFF file")
    seen: set[int] = set()
    try:
        (offset,) = struct.unpack_from(f"{order}I", data, 4)
        while offset:
            if offset in seen:
                raise BadSample("image_corrupt", "the TIFF's chain of pages is a circle")
            seen.add(offset)
            (entries,) = struct.unpack_from(f"{order}H", data, offset)
            (following,) = struct.unpack_from(f"{order}I", data, offset + 2 + 12 * entries)
            yield data[:4] + struct.pack(f"{order}I", offset) + data[8:]
            offset = following
    except struct.error as error:
        raise BadSample("image_corrupt", "the TIFF's chain of pages leads outside the file") from error

"""Rows -> the addresses of their pictures, and pictures that lie in a row beside their address."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xgenmm.data.adapters import Adapter
from xgenmm.data.adapters.captions import ADDRESSES, row_picture
from xgenmm.data.adapters.choosing import Asked
from xgenmm.data.adapters.fields import cache_name, json_member
from xgenmm.data.pictures import pictures_of
from xgenmm.data.readers import PICTURE_SUFFIXES, Row
from xgenmm.data.schemas import schema_of_row

WEB = ("http://", "https://")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A picture that a cache should have."""

    url: str
    file: Path
    row: str
    """Id of the row that names it."""
    content: bytes | Path | None = None
    """The picture, where the row has it: then nobody needs to be asked for it."""


def wanted_of(row: Row, adapter: Adapter, cache: Path) -> Iterator[Wanted]:
    """What a row wants to find in a cache.

    Raises:
        BadSample: The row cannot be used, so its pictures are not worth fetching.
    """
    row = dataclasses.replace(row, root=cache)
    brought = _brought(row, cache)
    if brought is not None:
        yield brought
        return
    if _is_nothing_but_address(row.fields):
        pictures = [row_picture(row)]
    else:
        found = adapter(row, Asked())
        pictures = [one for sample in (found if isinstance(found, tuple) else (found,)) for one in pictures_of(sample)]
    for picture in pictures:
        if isinstance(picture.source, Path) and picture.name.startswith(WEB):
            yield Wanted(url=picture.name, file=picture.source, row=row.id)


def _is_nothing_but_address(fields: Mapping[str, Any]) -> bool:
    """Whether a row has an address and no text, as in tables that are to be captioned.

    >>> _is_nothing_but_address({"url": "https://example.org/a.jpg", "uid": "7"})
    True
    """
    return bool(fields.keys() & set(ADDRESSES)) and schema_of_row(fields, Path()) is None


def _brought(row: Row, cache: Path) -> Wanted | None:
    """The picture of img2dataset's shards, folders and tables, in which picture and address stand side by side."""
    content = next((row.fields[name] for name in PICTURE_SUFFIXES if row.fields.get(name) is not None), None)
    if not isinstance(content, bytes | Path):
        return None
    url = json_member(row, "json").get("url") if "json" in row.fields else row.fields.get("url")
    if not isinstance(url, str) or not url.startswith(WEB):
        return None
    return Wanted(url=url, file=cache / cache_name(url), row=row.id, content=content)

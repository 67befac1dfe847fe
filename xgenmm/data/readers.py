"""The inside of the formats: members of a tar as samples, elements of a JSON list, lines. Knows no data set."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xgenmm.data.files import BinaryFile, Place
from xgenmm.data.quarantine import BadSample
from xgenmm.data.tar import TarDamage, TarMember, walk_tar

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
PICTURE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record as it lies in its file."""

    id: str
    """`source/file:key`, unique in a run; the key is a member's name, a line or an element's number."""
    fields: Mapping[str, Any]
    """Tar and folder: lower-case extension -> bytes or path. JSON: as read."""
    root: Place
    """The folder at which relative picture names start."""


TarRows = dict[str, dict[str, tuple[int, int]]]
"""Sample -> extension -> where the member lies: offset and length."""


def index_tar(file: BinaryFile, size: int) -> tuple[TarRows, list[tuple[str, str, str]]]:
    """The whole samples of a shard, and (key, reason, detail) of what is none; the key of the archive itself is ""."""
    rows: TarRows = {}
    faults: list[tuple[str, str, str]] = []
    spoilt: set[str] = set()
    last = ""
    for entry in walk_tar(file, size):
        if isinstance(entry, TarDamage):
            faults.append(("", entry.reason, entry.detail))
            continue
        if entry.is_folder and not entry.is_named_like_a_picture:
            continue
        reason, detail = _judged(entry, rows, last)
        if reason:
            if reason != "key_duplicate":
                rows.pop(entry.key, None)  # half a sample is none
                spoilt.add(entry.key)
            faults.append((entry.key, reason, detail))
        elif entry.key not in spoilt:
            rows.setdefault(entry.key, {})[entry.extension] = (entry.offset, entry.size)
        last = entry.key
    return rows, faults


def _judged(entry: TarMember, rows: TarRows, last: str) -> tuple[str, str]:
    """Why a member cannot be used; two empty texts if it can."""
    if entry.escapes:
        return "path_escape", f"{entry.name} leads out of the archive"
    if not entry.key.isprintable():
        return "key_invalid", f"{entry.name!r} is no name"
    if not entry.is_file:
        return "archive_member_type", f"{entry.name} is no file"
    if entry.cut:
        return "archive_truncated", f"{entry.name} is cut off"
    if entry.extension in rows.get(entry.key, {}):
        return "key_duplicate", f"{entry.name} stands twice; the first is used"
    if entry.key in rows and entry.key != last:
        return "key_fragmented", f"{entry.name} stands apart from the rest of its sample"
    return "", ""


def tsv_fields(line: bytes) -> dict[str, Any]:
    """Address and caption of a line.

    Raises:
        BadSample: Not UTF-8, or not two cells.
    """
    try:
        cells = line.decode("utf-8-sig").rstrip("\r\n").split("\t")
    except UnicodeDecodeError as error:
        raise BadSample("text_invalid_utf8", str(error)) from error
    if len(cells) != 2:
        raise BadSample("schema_missing_field", f"{len(cells)} cells, and address and caption are two")
    if not cells[0].startswith(("http://", "https://")):
        cells.reverse()
    return {"url": cells[0], "caption": cells[1]}


def json_elements(content: bytes) -> tuple[list[Any], tuple[str, str]]:
    """The elements of a JSON list, those before a damage included, and reason and detail of the damage, if any.

    One object of equally long lists (SBU's file) counts as its rows.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return [], ("text_invalid_utf8", str(error))
    try:
        whole = json.loads(text)
    except ValueError as error:
        return _elements_before(text), ("json_invalid", str(error))
    except RecursionError:
        return [], ("json_invalid", "nested too deeply")
    if isinstance(whole, dict) and whole and all(isinstance(column, list) for column in whole.values()):
        columns = list(whole.values())
        if len({len(column) for column in columns}) == 1:
            return [dict(zip(whole, cells, strict=True)) for cells in zip(*columns, strict=True)], ("", "")
    if not isinstance(whole, list):
        return [], ("json_invalid", "the file holds no list of objects")
    return whole, ("", "")


def _elements_before(text: str) -> list[Any]:
    """What a list holds before the place where it cannot be read."""
    decoder, found = json.JSONDecoder(), []
    place = text.find("[") + 1
    if not place or text[: place - 1].strip():
        return []
    while True:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        try:
            element, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return found
        found.append(element)


def json_spans(content: bytes) -> tuple[list[tuple[int, int]] | None, tuple[str, str]]:
    """Byte offset and length of every element of a JSON list, without keeping any, and reason and detail of a damage.

    The elements before a damage count. None: the file holds something else than a list.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return [], ("text_invalid_utf8", str(error))
    begin = _behind_space(text, 0)
    if text[begin : begin + 1] != "[":
        return None, ("", "")
    spans: list[tuple[int, int]] = []
    place, told = begin + 1, len(content) - len(text.encode())
    offset = told + len(text[:place].encode())
    place_of_offset = place
    expected = "an element or the end of the list"
    while True:
        start = _behind_space(text, place)
        if text[start : start + 1] == "]" and (not spans or expected == "a comma or the end of the list"):
            rest = text[start + 1 :].strip(" \t\r\n")
            return spans, ("json_invalid", f"behind the list stands {rest[:20]!r}") if rest else ("", "")
        if expected == "a comma or the end of the list":
            if text[start : start + 1] != ",":
                return spans, ("json_invalid", f"expected {expected} at character {start}")
            place, expected = start + 1, "an element"
            continue
        try:
            _, place = _DECODER.raw_decode(text, start)
        except ValueError as error:
            return spans, ("json_invalid", str(error))
        except RecursionError:
            return spans, ("json_invalid", "nested too deeply")
        offset += len(text[place_of_offset:start].encode())
        length = len(text[start:place].encode())
        spans.append((offset, length))
        offset, place_of_offset = offset + length, place
        expected = "a comma or the end of the list"


def _behind_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()


def lines_in(file: BinaryFile) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), offset and content of every line that is not blank."""
    offset = 0
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield number, offset, line
        offset += len(line)


def json_line(line: bytes) -> dict[str, Any]:
    """The object of one line.

    Raises:
        BadSample: Not UTF-8, no JSON, or no object.
    """
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadSample("text_invalid_utf8", str(error)) from error
    except (ValueError, RecursionError) as error:
        raise BadSample("json_invalid", str(error)) from error
    return as_object(fields)


def as_object(fields: Any) -> dict[str, Any]:
    """A row that is an object.

    Raises:
        BadSample: It is something else.
    """
    if not isinstance(fields, dict):
        raise BadSample("schema_wrong_type", "the row is no JSON object")
    return fields

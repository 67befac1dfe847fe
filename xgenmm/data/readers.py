"""The inside of the formats: members of a tar as samples, elements of a JSON list, lines. Knows no data set."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xgenmm.data.files import BinaryFile, Place
from xgenmm.data.quarantine import BadSample
from xgenmm.data.tar import TarDamage, TarMember, walk_tar

LONGEST_LINE = 64 << 20
"""Bytes of one row of text; more are no row."""
LARGEST_MEMBER = 256 << 20
"""Bytes of one member of an archive."""
_READ_AT_ONCE = 1 << 20
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
    if entry.size > LARGEST_MEMBER:
        reason = "image_too_large" if entry.is_named_like_a_picture else "text_too_long"
        return reason, f"{entry.name} has {entry.size} bytes, and {LARGEST_MEMBER} are allowed"
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


def json_columns(content: bytes) -> list[dict[str, Any]]:
    """The rows of one JSON object of equally long lists (SBU's file).

    Raises:
        BadSample: It is something else.
    """
    try:
        whole = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadSample("text_invalid_utf8", str(error)) from error
    except (ValueError, RecursionError) as error:
        raise BadSample("json_invalid", str(error)) from error
    columns = list(whole.values()) if isinstance(whole, dict) else []
    if not columns or not all(isinstance(column, list) for column in columns) or len({*map(len, columns)}) > 1:
        raise BadSample("json_invalid", "the file holds no list of objects")
    return [dict(zip(whole, cells, strict=True)) for cells in zip(*columns, strict=True)]


def lines_in(file: BinaryFile) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), offset and content of every line that is not blank; of one that is too long, its beginning."""
    number, offset, parts, size = 1, 0, [], 0
    while chunk := file.read(_READ_AT_ONCE):
        pieces = chunk.splitlines(keepends=True) if b"\r" not in chunk else _split(chunk)
        for piece in pieces:
            size += len(piece)
            if size - len(piece) <= LONGEST_LINE:
                parts.append(piece)
            if piece.endswith(b"\n"):
                if (line := b"".join(parts)).strip():
                    yield number, offset, line
                number, offset, parts, size = number + 1, offset + size, [], 0
    if (line := b"".join(parts)).strip():
        yield number, offset, line


def _split(chunk: bytes) -> list[bytes]:
    """Lines with their ends: `bytes.splitlines` would end one at a carriage return, too."""
    pieces = [piece + b"\n" for piece in chunk.split(b"\n")]
    pieces[-1] = pieces[-1][:-1]
    return pieces if pieces[-1] else pieces[:-1]


def json_object(content: bytes) -> dict[str, Any]:
    """The object of one line, or of one element of a list.

    Raises:
        BadSample: Too long, not UTF-8, no JSON, no object, or one that gives a name twice: one of the two would be
            lost.
    """
    if len(content) > LONGEST_LINE:
        raise BadSample("text_too_long", f"a line of more than {LONGEST_LINE} bytes")
    try:
        return as_object(json.loads(content.decode("utf-8-sig"), object_pairs_hook=_once_each))
    except UnicodeDecodeError as error:
        raise BadSample("text_invalid_utf8", str(error)) from error
    except BadSample:
        raise
    except (ValueError, RecursionError) as error:
        raise BadSample("json_invalid", str(error)) from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        name = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
        raise BadSample("json_invalid", f'"{name}" stands twice in one object')
    return fields


def as_object(fields: Any) -> dict[str, Any]:
    """A row that is an object.

    Raises:
        BadSample: It is something else.
    """
    if not isinstance(fields, dict):
        raise BadSample("schema_wrong_type", "the row is no JSON object")
    return fields

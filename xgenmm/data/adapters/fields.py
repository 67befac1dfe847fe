"""What all adapters ask of a row: members, typed fields, text that is text, pictures by name, member or address."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import PICTURE_SUFFIXES, Row
from xgenmm.types import Picture

LONGEST_TEXT = 100_000
"""Characters of one text: a longer one is a file that went astray."""
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
"""Characters of no width: a text of nothing else is empty."""
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
"""Control characters that no text has. Tabs, line and page breaks are none of them."""


def picture_member(row: Row) -> Picture:
    """The picture of a tar's or a folder's row."""
    extension = next((e for e in PICTURE_SUFFIXES if e in row.fields), None)
    if extension is None:
        raise BadSample("sample_incomplete", f"no picture among {', '.join(row.fields)}")
    return Picture(source=row.fields[extension], name=f"{row.id}.{extension}")


def bytes_member(row: Row, extension: str) -> bytes:
    """The contents of a member."""
    if extension not in row.fields:
        raise BadSample("sample_incomplete", f'no ".{extension}" among {", ".join(row.fields)}')
    content = row.fields[extension]
    return content if isinstance(content, bytes) else content.read_bytes()


def text_member(row: Row, extension: str) -> str:
    """A member as text."""
    try:
        return bytes_member(row, extension).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("text_invalid_utf8", str(error)) from error


def json_member(row: Row, extension: str) -> dict[str, Any]:
    """A member that holds a JSON object."""
    try:
        content = json.loads(text_member(row, extension))
    except json.JSONDecodeError as error:
        raise BadSample("json_invalid", str(error)) from error
    return typed(content, dict, f".{extension}")


def required(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    """A field that must be there, of this type."""
    if name not in fields:
        raise BadSample("schema_missing_field", f'no "{name}"; there are {", ".join(map(str, fields))}')
    return typed(fields[name], kind, name)


def optional(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    """A field that may be missing or null."""
    return None if fields.get(name) is None else typed(fields[name], kind, name)


def typed(value: Any, kind: type, name: str) -> Any:
    """The value, if it has this type."""
    if not isinstance(value, kind):
        raise BadSample("schema_wrong_type", f'"{name}" must be {kind.__name__}, but is {type(value).__name__}')
    return value


def not_blank(text: str, name: str) -> str:
    """A text that can be learnt from.

    Raises:
        BadSample: It shows nothing, holds control characters or half characters, or is far too long.
    """
    if not text.strip().strip(INVISIBLE).strip():
        raise BadSample("text_empty", f"the {name} is blank")
    return sound(text, name)


def sound(text: str, name: str) -> str:
    """A text that may be empty.

    Raises:
        BadSample: As `not_blank`, but for being blank.
    """
    if found := CONTROL.search(text):
        raise BadSample("text_control_chars", f"{found[0]!r} at character {found.start()} of the {name}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadSample("text_invalid_utf8", f"half a character in the {name}: {error.reason}") from error
    if len(text) > LONGEST_TEXT:
        raise BadSample("text_too_long", f"the {name} has {len(text)} characters, and {LONGEST_TEXT} are allowed")
    return text


def parsed(value: Any, name: str) -> Any:
    """A field that holds JSON as text, or its contents already.

    Raises:
        BadSample: The text is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise BadSample("json_invalid", f"{name}: {error}") from error


def named_picture(row: Row, name: Any) -> Picture:
    """A picture that a row names, as a path under the row's root.

    Raises:
        BadSample: The name is none, or leads elsewhere.
    """
    path = Path(typed(name, str, "image"))
    if path.is_absolute() or ".." in path.parts or "://" in name or name.startswith("file:") or "\0" in name:
        raise BadSample("path_escape", f"{name} is no name in the data set's folder")
    return Picture(source=row.root / name, name=str(row.root / name))


def fetched_picture(row: Row, url: Any) -> Picture:
    """The picture of an address, where `xgenmm data fetch` keeps it under the row's root.

    Raises:
        BadSample: It is no address of a web server.
    """
    address = typed(url, str, "url")
    if not address.startswith(("http://", "https://")):
        raise BadSample("path_escape", f"{address} is no address of a web server")
    sound(address, "url")
    return Picture(source=row.root / cache_name(address), name=address)


def cache_name(url: str) -> str:
    """The file of an address in a cache folder.

    >>> cache_name("https://example.org/a.jpg")
    '70/700caca5ae8f856fc70b39312664d5c97f25108545c8f774199da1edfcc4ac60'
    """
    digest = hashlib.sha256(url.encode()).hexdigest()
    return f"{digest[:2]}/{digest}"


def embedded_picture(row: Row, value: Any, name: str) -> Picture:
    """A picture as tables hold it: {bytes, path}, bytes, a name, or an address.

    Raises:
        BadSample: There is none.
    """
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if isinstance(content, bytes | bytearray) and content:
            return Picture(source=bytes(content), name=f"{row.id} {path or name}")
        if content:  # bytes(10**12) would be a terabyte of zeros
            raise BadSample("schema_wrong_type", f"{name}: its bytes are of type {type(content).__name__}")
        value = path
    if isinstance(value, bytes | bytearray):
        return Picture(source=bytes(value), name=f"{row.id} {name}")
    if value is None:
        raise BadSample("no_image", f"{name} is null")
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return fetched_picture(row, value)
    return named_picture(row, value)

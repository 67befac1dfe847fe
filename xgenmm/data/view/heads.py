"""The first bytes of what cannot be used, as people look at bytes."""

from pathlib import Path

from xgenmm.data.readers import PICTURE_SUFFIXES, Row

HEAD = 128
"""Bytes that are shown."""


def head_of(row: Row, reason: str) -> bytes:
    """The first bytes of what a record was refused for: of its picture, or of what it says."""
    pictures = [content for name, content in row.fields.items() if name in PICTURE_SUFFIXES]
    others = [content for name, content in row.fields.items() if name not in PICTURE_SUFFIXES]
    for content in pictures + others if reason.startswith("image_") else others + pictures:
        if isinstance(content, Path) and content.is_file():
            with content.open("rb") as file:
                return file.read(HEAD)
        if isinstance(content, bytes):
            return content[:HEAD]
    return repr(dict(row.fields)).encode(errors="backslashreplace")[:HEAD]


def hexdump(content: bytes) -> list[tuple[str, str, str]]:
    """Offset, bytes and letters of each 16 bytes.

    >>> hexdump(b"A\\0")
    [('0000', '41 00', 'A.')]
    """
    rows = []
    for first in range(0, len(content), 16):
        part = content[first : first + 16]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        rows.append((f"{first:04x}", part.hex(" "), letters))
    return rows

"""The members of a tar archive, with every damage told and everything behind a damage found again.

Python's `tarfile` takes a damaged header for the end of the archive and says nothing. Here the next whole header is
searched, block by block, and the loss is named. Headers of GNU and pax (long names) are followed.

Source: POSIX.1-2001, "pax interchange format"; GNU tar manual, "Basic Tar Format".
"""

import functools
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from xgenmm.data.files import BinaryFile

BLOCK = tarfile.BLOCKSIZE
PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")
_LONGEST_EXTENSION = 1 << 20
GZIP = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """Where a member lies."""

    name: str
    offset: int
    size: int
    is_file: bool
    is_folder: bool
    cut: bool
    """Its contents go on behind the end of the archive."""

    @functools.cached_property
    def key(self) -> str:
        """Its sample: the path, cut at the first dot of the base name."""
        path = PurePosixPath(self.name)
        return str(path.with_name(path.name.partition(".")[0] or path.name)) if path.name else self.name

    @functools.cached_property
    def extension(self) -> str:
        """What follows that dot, in lower case."""
        return PurePosixPath(self.name).name.partition(".")[2].lower()

    @property
    def escapes(self) -> bool:
        """Whether its name leads out of the folder that it would be unpacked into."""
        return self.name.startswith("/") or ".." in PurePosixPath(self.name).parts

    @property
    def is_named_like_a_picture(self) -> bool:
        """Whether it is named like a picture."""
        return self.extension.rpartition(".")[2] in PICTURES


@dataclass(frozen=True, kw_only=True)
class TarDamage:
    """Something that is wrong with the archive as a whole."""

    reason: str
    """archive_corrupt, archive_truncated or shard_empty."""
    detail: str


def walk_tar(file: BinaryFile, size: int) -> Iterator[TarMember | TarDamage]:
    """Members in order, and damages where they are met.

    Names that begin with a dot are left out: macOS puts `._NAME` beside every `NAME`.
    """
    if size == 0:
        yield TarDamage(reason="shard_empty", detail="the file has no bytes")
        return
    yield from _walk(file, size)


def _walk(file: BinaryFile, size: int) -> Iterator[TarMember | TarDamage]:
    place, long_name, anything, ended = 0, None, False, False
    while place < size:
        file.seek(place)
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            yield TarDamage(reason="archive_truncated", detail=f"a header is cut off at byte {place} of {size}")
            return
        if ended := not block.strip(b"\0"):
            place += BLOCK
            continue
        header = _header(block)
        if header is None:
            damage, place = _lost(file, place, size, block)
            yield damage
            if place >= size:
                return
            anything, long_name = True, None
            continue
        start = place + BLOCK
        place = start + -(-header.size // BLOCK) * BLOCK if _has_contents(header) else start
        if header.type in _EXTENSIONS:
            long_name = _long_name(file, header, start) or long_name
            continue
        member = _member(long_name or header.name, header, start, size)
        anything, long_name = True, None
        if not PurePosixPath(member.name).name.startswith(".") or member.escapes:
            yield member
        if member.cut:
            yield TarDamage(reason="archive_truncated", detail=f"{member.name} is cut off at byte {size}")
            return
    if not anything:
        yield TarDamage(reason="shard_empty", detail="no member in it")
    elif not ended:
        yield TarDamage(reason="archive_truncated", detail="the end blocks are missing: members may be, too")


def _lost(file: BinaryFile, place: int, size: int, block: bytes) -> tuple[TarDamage, int]:
    """A header that is none, and where the next whole one begins (or the end)."""
    following = _next_header(file, place + BLOCK, size)
    end = size if following is None else following
    if place == 0 and following is None:
        detail = "gzip-compressed: decompress it first" if block[:2] == GZIP else "not a tar archive"
    else:
        detail = f"damaged header at byte {place}: {end - place} bytes up to byte {end} of {size} are lost"
    return TarDamage(reason="archive_corrupt", detail=detail), end


def _member(name: str, header: tarfile.TarInfo, start: int, size: int) -> TarMember:
    return TarMember(
        name=name,
        offset=start,
        size=header.size,
        is_file=header.isreg(),
        is_folder=header.isdir(),
        cut=header.isreg() and start + header.size > size,
    )


def _header(block: bytes) -> tarfile.TarInfo | None:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return header if header.size >= 0 else None  # a negative size would lead backwards, for ever


def _has_contents(header: tarfile.TarInfo) -> bool:
    return header.isreg() or header.type in _EXTENSIONS or header.type not in tarfile.SUPPORTED_TYPES


def _next_header(file: BinaryFile, place: int, size: int) -> int | None:
    """Where the next whole header begins."""
    while place + BLOCK <= size:
        file.seek(place)
        block = file.read(BLOCK)
        if block.strip(b"\0") and block[257:262] == b"ustar" and _header(block) is not None:
            return place
        place += BLOCK
    return None


def _long_name(file: BinaryFile, header: tarfile.TarInfo, start: int) -> str | None:
    """The next member's name, if this extension gives one."""
    if header.size > _LONGEST_EXTENSION or header.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
        return None
    file.seek(start)
    content = file.read(header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return content.rstrip(b"\0").decode("utf-8", "surrogateescape")
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or int(length) == 0:
            return None
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        key, _, value = record.partition(b"=")
        if key == b"path":
            return value.rstrip(b"\n").decode("utf-8", "surrogateescape")
    return None

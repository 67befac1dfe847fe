"""What a shard gives: records, where their bytes lie, and damages. Knows no format."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from xgenmm.data.files import Place, Remote, Stamp, stamp_of


class Member(NamedTuple):
    """A part of a record, and where its bytes lie."""

    name: str
    """Tar, folder: extension. Parquet: "" (offset is the row group, size the row in it). Lines, JSON: ""."""
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record of a shard."""

    key: str
    """Its name in the shard, as reports give it."""
    members: tuple[Member, ...] = ()
    fields: dict[str, Any] | None = None
    """None if it is none."""
    reason: str = ""
    """Why it is none."""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What is wrong with a shard as a whole."""

    reason: str
    detail: str
    lost: int | None = None
    """Number of records that it cost, where that can be counted."""


@runtime_checkable
class Shard(Protocol):
    """A file (or a folder of pictures) with records in it."""

    place: Place

    def walk(self, *, contents: bool = True) -> Iterator[Record | Damage]:
        """All records and damages, once, in the order of the file. Without contents, records say only where they lie:
        what is wrong inside of one is not found.
        """
        ...

    def read(self, key: str, members: Sequence[Member]) -> dict[str, Any]:
        """The fields of one record again. May be called from several threads.

        Raises:
            BadSample, OSError: It cannot be read.
        """
        ...

    def root(self, key: str) -> Place:
        """The folder at which the record's relative picture names start."""
        ...

    def picture_roots(self) -> tuple[Place, ...]:
        """Folders that the picture files of its records must really lie in; none where records bring their own."""
        ...

    def stamp(self) -> Stamp:
        """By what a change of it is noticed."""
        ...


def read_at(place: Place, members: Sequence[Member]) -> Iterator[bytes]:
    """The bytes of members; short reads are errors."""
    if isinstance(place, Remote):
        yield from (place.read_range(member.offset, member.size) for member in members)
        return
    file = os.open(place, os.O_RDONLY)  # a file object would take as long as reading a small picture
    try:
        for member in members:
            content = os.pread(file, member.size, member.offset)
            if len(content) != member.size:
                raise OSError(f"{place}: {len(content)} of {member.size} bytes at {member.offset}")
            yield content
    finally:
        os.close(file)


class InTables:
    """A file of rows that may name pictures."""

    def __init__(self, place: Place, images: Place | None) -> None:
        self.place = place
        self._root = place.parent if images is None else images

    def root(self, key: str) -> Place:
        del key
        return self._root

    def picture_roots(self) -> tuple[Place, ...]:
        return (self._root,)

    def stamp(self) -> Stamp:
        return stamp_of(self.place)

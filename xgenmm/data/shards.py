"""Files as people have them, walked once in order and read again row by row: tar, parquet, JSON, lines, TSV, folders.

A walk gives every record with where its bytes lie, and every damage; a read needs nothing but that place. Knows no data
set.
"""

import functools
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from xgenmm.config import ConfigError
from xgenmm.data.files import Place, Remote, Stamp, files_under, find, is_folder, open_binary, stamp_of
from xgenmm.data.quarantine import BadSample, Fault
from xgenmm.data.readers import (
    PICTURE_SUFFIXES,
    Row,
    as_object,
    index_tar,
    json_elements,
    json_line,
    json_spans,
    lines_in,
    tsv_fields,
)

KEPT_GROUPS = 8
KEPT_BYTES = 512 << 20
"""How much of parquet files stays in memory: rows are read in an order that stays near a row group for a while."""


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


def open_shards(source: str, patterns: Sequence[str], images: Place | None = None) -> list[Shard]:
    """The shards that paths, globs, folders and URLs stand for, in their order.

    Args:
        source: The data set's name in the recipe, for messages.
        patterns: A folder stands for the shards and tables in it; one that has none is a set of pictures.
        images: Where relative picture names of tables start; by default beside the table.

    Raises:
        ConfigError: A pattern matches nothing, kinds are mixed, or the kind is unknown.
    """
    places: list[Place] = []
    for place in find(source, patterns):
        places += _tables_in(place) or [place] if is_folder(place) else [place]
    kinds = sorted({_kind(place) for place in places})
    if len(kinds) > 1:
        raise ConfigError(f'data set "{source}": one kind of file at a time, but found {", ".join(kinds)}')
    if kinds[0] not in SHARDS:
        raise ConfigError(f'data set "{source}": cannot read {places[0]}; known are {", ".join(SHARDS)}')
    return [SHARDS[kinds[0]](place, images) for place in places]


def rows_of(source: str, shard: Shard) -> Iterator[Row | Fault]:
    """All rows of a shard, once and in order; faults where there are none, and for damages."""
    for item in shard.walk():
        name = row_id(source, shard, item.key if isinstance(item, Record) else "")
        if isinstance(item, Record) and item.fields is not None:
            yield Row(id=name, fields=item.fields, root=shard.root(item.key))
        else:
            yield Fault(source=source, id=name, reason=item.reason, detail=item.detail)


def row_id(source: str, shard: Shard, key: str) -> str:
    """What a record is called in a run, or with an empty key, its shard."""
    return f"{source}/{shard.place.name}" + (f":{key}" if key else "")


def _kind(place: Place) -> str:
    suffix = place.suffix.lower()
    return suffix if suffix in SHARDS else "folder" if is_folder(place) else suffix


def _tables_in(folder: Place) -> list[Place]:
    """Shards and tables under a folder. A text beside a picture of its name belongs to the picture."""
    found = files_under(folder)
    pictures = {_stem(place) for place in found if place.suffix[1:].lower() in PICTURE_SUFFIXES}
    return [place for place in found if place.suffix.lower() in SHARDS and _stem(place) not in pictures]


def _stem(place: Place) -> str:
    text = str(place)
    return text[: len(text) - len(place.suffix)]


def _read_at(place: Place, members: Sequence[Member]) -> Iterator[bytes]:
    """The bytes of members; short reads are errors."""
    if isinstance(place, Remote):
        yield from (place.read_range(member.offset, member.size) for member in members)
        return
    with place.open("rb", buffering=0) as file:
        for member in members:
            file.seek(member.offset)
            content = file.read(member.size)
            if len(content) != member.size:
                raise OSError(f"{place}: {len(content)} of {member.size} bytes at {member.offset}")
            yield content


class _InTables:
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


class TarShard(_InTables):
    """WebDataset: members that share a path up to the first dot of their base name are a record."""

    def __init__(self, place: Place, images: Place | None) -> None:
        del images  # pictures are members
        super().__init__(place, None)

    def picture_roots(self) -> tuple[Place, ...]:
        return ()

    def walk(self, *, contents: bool = True) -> Iterator[Record | Damage]:
        with open_binary(self.place) as file:
            rows, faults = index_tar(file, stamp_of(self.place).size)
            for key, places in rows.items():
                members = tuple(Member(name, offset, size) for name, (offset, size) in places.items())
                fields = {}
                for member in members if contents else ():
                    file.seek(member.offset)
                    fields[member.name] = file.read(member.size)
                yield Record(key=key, members=members, fields=fields)
        for key, reason, detail in faults:
            if key:
                yield Record(key=key, reason=reason, detail=detail)
            else:
                yield Damage(reason=reason, detail=detail)

    def read(self, key: str, members: Sequence[Member]) -> dict[str, Any]:
        del key
        return dict(zip((member.name for member in members), _read_at(self.place, members), strict=True))


class LinesShard(_InTables):
    """One record a line; only the lines' places are kept."""

    parse: Callable[[bytes], dict[str, Any]] = staticmethod(json_line)

    def walk(self, *, contents: bool = True) -> Iterator[Record | Damage]:
        empty = True
        with open_binary(self.place) as file:
            for number, offset, line in lines_in(file):
                empty = False
                members = (Member("", offset, len(line)),)
                parse = functools.partial(self.parse, line) if contents else dict
                yield _parsed(f"line{number}", members, parse)
        if empty:
            yield Damage(reason="shard_empty", detail="no line in it", lost=0)

    def read(self, key: str, members: Sequence[Member]) -> dict[str, Any]:
        del key
        return self.parse(next(_read_at(self.place, members)))


class TsvShard(LinesShard):
    """Tab-separated address and caption without a header, in either order (CC12M has the address first, CC3M last)."""

    parse = staticmethod(tsv_fields)


class JsonShard(_InTables):
    """One JSON list of objects; or one object of equally long lists (SBU's file), which counts as its rows."""

    def walk(self, *, contents: bool = True) -> Iterator[Record | Damage]:
        with open_binary(self.place) as file:
            content = file.read()
        spans, (reason, detail) = json_spans(content)
        number = -1
        if spans is None:
            rows, (reason, detail) = json_elements(content)
            for number, fields in enumerate(rows):
                yield Record(key=str(number), members=(Member("row", number, 0),), fields=fields)
        else:
            for number, (offset, size) in enumerate(spans):
                element = content[offset : offset + size]
                parse = functools.partial(_element, element) if contents else dict
                yield _parsed(str(number), (Member("", offset, size),), parse)
        if reason:
            yield Damage(reason=reason, detail=detail)
        elif number < 0:
            yield Damage(reason="shard_empty", detail="an empty list", lost=0)

    def read(self, key: str, members: Sequence[Member]) -> dict[str, Any]:
        del key
        (member,) = members
        if member.name == "row":
            return _columns_as_rows(self.place)[member.offset]
        return _element(next(_read_at(self.place, members)))


@functools.lru_cache(maxsize=2)
def _columns_as_rows(place: Place) -> list[dict[str, Any]]:
    with open_binary(place) as file:
        return json_elements(file.read())[0]


def _element(text: bytes) -> dict[str, Any]:
    return as_object(json.loads(text))


def _parsed(key: str, members: tuple[Member, ...], parse: Callable[[], dict[str, Any]]) -> Record:
    try:
        return Record(key=key, members=members, fields=parse())
    except BadSample as error:
        return Record(key=key, reason=error.reason, detail=error.detail)


class ParquetShard(_InTables):
    """Parquet, read a row group at a time; pages that carry a checksum are verified. A damaged row group costs its rows
    and no others.
    """

    def walk(self, *, contents: bool = True) -> Iterator[Record | Damage]:
        try:
            with open_binary(self.place) as file:
                metadata = pq.read_metadata(file)
        except (OSError, pa.ArrowException) as error:
            yield Damage(reason="parquet_corrupt", detail=" ".join(str(error).split()))
            return
        first = 0
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            try:
                table = _read_row_group(self.place, group) if contents else None
            except BadSample as error:
                detail = f"rows {first} to {first + count - 1}: {error.detail}"
                yield Damage(reason=error.reason, detail=detail, lost=count)
            else:
                for row in range(count):
                    fields = {} if table is None else _row_of(table, row)
                    yield Record(key=str(first + row), members=(Member("", group, row),), fields=fields)
            first += count
        if not first:
            yield Damage(reason="shard_empty", detail="no row in it", lost=0)

    def read(self, key: str, members: Sequence[Member]) -> dict[str, Any]:
        del key
        ((_, group, row),) = members
        return _row_of(_kept_groups.get(self.place, group), row)


def _row_of(table: pa.Table, row: int) -> dict[str, Any]:
    return table.slice(row, 1).to_pylist()[0]


def _read_row_group(place: Place, group: int) -> pa.Table:
    """One row group, its checksums verified where the file has some.

    Raises:
        BadSample: It is damaged.
    """
    try:
        with open_binary(place) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
            return file.read_row_group(group)
    except (OSError, pa.ArrowException) as error:
        raise BadSample("parquet_corrupt", f"row group {group}: {error}") from error


class _KeptGroups:
    """The row groups that were used last, for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[Place, int], pa.Table] = OrderedDict()

    def get(self, place: Place, group: int) -> pa.Table:
        with self._lock:
            if (table := self._tables.get((place, group))) is not None:
                self._tables.move_to_end((place, group))
                return table
            table = self._tables[place, group] = _read_row_group(place, group)
            while len(self._tables) > 1 and (len(self._tables) > KEPT_GROUPS or self._bytes() > KEPT_BYTES):
                self._tables.popitem(last=False)
            return table

    def _bytes(self) -> int:
        return sum(table.nbytes for table in self._tables.values())


_kept_groups = _KeptGroups()


class FolderShard:
    """A folder of pictures; files beside a picture with its name (`.txt`, `.json`) belong to its record."""

    def __init__(self, place: Place, images: Place | None) -> None:
        del images  # pictures are found by their files
        self.place = place

    def walk(self, *, contents: bool = True) -> Iterator[Record | Damage]:
        del contents  # fields are paths
        records: dict[str, dict[str, Place]] = {}
        prefix = f"{str(self.place).rstrip('/')}/"
        for file in files_under(self.place):
            records.setdefault(_stem(file).removeprefix(prefix), {})[file.suffix[1:]] = file
        empty = True
        for key, files in records.items():
            members = tuple(Member(name, 0, stamp_of(file).size) for name, file in files.items())
            if {name.lower() for name in files} & set(PICTURE_SUFFIXES):
                empty = False
                yield Record(key=key, members=members, fields=self.read(key, members))
        if empty:
            yield Damage(reason="shard_empty", detail="no picture in it", lost=0)

    def read(self, key: str, members: Sequence[Member]) -> dict[str, Any]:
        return {member.name.lower(): self.place / f"{key}.{member.name}" for member in members}

    def root(self, key: str) -> Place:
        return (self.place / key).parent

    def picture_roots(self) -> tuple[Place, ...]:
        return ()

    def stamp(self) -> Stamp:
        stamps = {str(file).removeprefix(str(self.place)): stamp_of(file) for file in files_under(self.place)}
        version = hashlib.blake2b(repr(list(stamps.items())).encode(), digest_size=8).hexdigest()
        return Stamp(size=sum(stamp.size for stamp in stamps.values()), version=version)


SHARDS: dict[str, Callable[[Place, Place | None], Shard]] = {
    ".tar": TarShard,
    ".parquet": ParquetShard,
    ".json": JsonShard,
    ".jsonl": LinesShard,
    ".ndjson": LinesShard,
    ".tsv": TsvShard,
    "folder": FolderShard,
}

"""Files as people have them, walked once in order and read again row by row: tar, parquet, JSON, lines, TSV, folders.

A walk gives every record with where its bytes lie, and every damage; a read needs nothing but that place. Knows no data
set.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from xgenmm.config import ConfigError
from xgenmm.data.files import Place, Stamp, files_under, find, is_folder, open_binary, stamp_of
from xgenmm.data.json_list import Broken, Element, elements_in
from xgenmm.data.parquet import ParquetShard
from xgenmm.data.quarantine import BadSample, Fault
from xgenmm.data.readers import (
    PICTURE_SUFFIXES,
    Row,
    index_tar,
    json_columns,
    json_object,
    lines_in,
    tsv_fields,
)
from xgenmm.data.records import Damage, InTables, Member, Record, Shard, read_at


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


class TarShard(InTables):
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
        return dict(zip((member.name for member in members), read_at(self.place, members), strict=True))


class LinesShard(InTables):
    """One record a line; only the lines' places are kept."""

    parse: Callable[[bytes], dict[str, Any]] = staticmethod(json_object)

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
        return self.parse(next(read_at(self.place, members)))


class TsvShard(LinesShard):
    """Tab-separated address and caption without a header, in either order (CC12M has the address first, CC3M last)."""

    parse = staticmethod(tsv_fields)


class JsonShard(InTables):
    """One JSON list of objects. Or one object of equally long lists (SBU's file), which counts as its rows; or, under
    the name of JSON, one object a line.
    """

    def walk(self, *, contents: bool = True) -> Iterator[Record | Damage]:
        if not stamp_of(self.place).size:
            yield Damage(reason="shard_empty", detail="the file has no bytes", lost=0)
            return
        with open_binary(self.place) as file:
            if (elements := elements_in(file)) is not None:
                yield from _listed(elements, contents)
                return
        if _is_of_lines(self.place):
            yield from LinesShard(self.place, self._root).walk(contents=contents)
            return
        try:
            rows = _columns_as_rows(self.place)
        except BadSample as error:
            yield Damage(reason=error.reason, detail=error.detail)
            return
        for number, fields in enumerate(rows):
            yield Record(key=str(number), members=(Member("row", number, 0),), fields=fields)
        if not rows:
            yield Damage(reason="shard_empty", detail="empty lists", lost=0)

    def read(self, key: str, members: Sequence[Member]) -> dict[str, Any]:
        del key
        (member,) = members
        if member.name == "row":
            return _columns_as_rows(self.place)[member.offset]
        return json_object(next(read_at(self.place, members)))


def _listed(elements: Iterator[Element | Broken], contents: bool) -> Iterator[Record | Damage]:
    number, broken = 0, None
    for element in elements:
        if isinstance(element, Broken):
            broken = element
            break
        members = (Member("", element.offset, element.size),)
        parse = functools.partial(json_object, element.content) if contents else dict
        yield _parsed(str(number), members, parse)
        number += 1
    if broken is not None:
        yield Damage(reason=broken.reason, detail=broken.detail)
    elif not number:
        yield Damage(reason="shard_empty", detail="an empty list", lost=0)


@functools.lru_cache(maxsize=2)
def _columns_as_rows(place: Place) -> list[dict[str, Any]]:
    with open_binary(place) as file:
        return json_columns(file.read())


def _is_of_lines(place: Place) -> bool:
    """Whether the first line is an object by itself and not the last one."""
    with open_binary(place) as file:
        lines = lines_in(file)
        try:
            json_object(next(lines, (0, 0, b""))[2])
        except BadSample:
            return False
        return next(lines, None) is not None


def _parsed(key: str, members: tuple[Member, ...], parse: Callable[[], dict[str, Any]]) -> Record:
    try:
        return Record(key=key, members=members, fields=parse())
    except BadSample as error:
        return Record(key=key, reason=error.reason, detail=error.detail)


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

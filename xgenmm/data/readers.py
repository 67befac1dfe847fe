"""Files as people have them -> raw rows: WebDataset tars, parquet, JSON, JSON lines, TSV, image folders.

Knows no data set.
"""

import bisect
import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from xgenmm.config import ConfigError
from xgenmm.data.quarantine import BadSample, Fault
from xgenmm.data.tar import TarDamage, TarMember, walk_tar

PICTURE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record as it lies in its file."""

    id: str
    """`source/file:key`, unique in a run; the key is a member's name, a line or an element's number."""
    fields: Mapping[str, Any]
    """Tar and folder: lower-case extension -> bytes or path. JSON: as read."""
    root: Path
    """The folder at which relative picture names start."""


@runtime_checkable
class Reader(Protocol):
    """Rows by number."""

    faults: list[Fault]
    """What the first pass over the files already found unusable: shards, and rows that are in no count."""

    def __len__(self) -> int: ...

    def row_id(self, index: int) -> str:
        """What a row is called, whether or not it can be read."""
        ...

    def read(self, index: int) -> Row:
        """The row's contents.

        Raises:
            BadSample: The row is there but cannot be read.
        """
        ...


def open_reader(source: str, patterns: Sequence[str], images: Path | None = None) -> Reader:
    """The reader for files of one kind, chosen by suffix: `.tar`, `.parquet`, `.json`, `.jsonl`, `.tsv`, or a folder of
    pictures.

    Args:
        source: The data set's name in the recipe; row ids begin with it.
        patterns: Paths or globs, read in sorted order within each.
        images: Where relative picture names of JSON rows start; by default beside the JSON file.

    Raises:
        ConfigError: A pattern matches nothing, kinds are mixed, or the kind is unknown.
    """
    paths = find_files(source, patterns)
    kinds = sorted({"folder" if path.is_dir() else path.suffix.lower() for path in paths})
    if len(kinds) > 1:
        raise ConfigError(f'data set "{source}": one kind of file at a time, but found {", ".join(kinds)}')
    if kinds[0] not in READERS:
        raise ConfigError(f'data set "{source}": cannot read {paths[0]}; known are {", ".join(READERS)}')
    return READERS[kinds[0]](source, paths, images)


def find_files(source: str, patterns: Sequence[str]) -> list[Path]:
    """The files that paths or globs stand for, sorted within each.

    Raises:
        ConfigError: One of them matches nothing.
    """
    paths = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise ConfigError(f'data set "{source}": no file matches {pattern}')
        paths += [Path(name) for name in found]
    return paths


class TarReader:
    """WebDataset shards: members that share a path up to the first dot of their base name are one row.

    One pass over the headers notes where each member lies; contents are read when asked for.
    """

    def __init__(self, source: str, paths: Sequence[Path], images: Path | None) -> None:
        del images  # pictures are members
        self.source = source
        self.faults: list[Fault] = []
        self._rows: list[tuple[Path, str, dict[str, tuple[int, int]]]] = []
        for path in paths:
            rows = self._index(path)
            if not rows:
                self._fault(path, "", "shard_empty", "no sample in it")
            self._rows += [(path, key, members) for key, members in rows.items()]

    def __len__(self) -> int:
        return len(self._rows)

    def row_id(self, index: int) -> str:
        path, key, _ = self._rows[index]
        return f"{self.source}/{path.name}:{key}"

    def read(self, index: int) -> Row:
        path, _, members = self._rows[index]
        fields = {}
        with path.open("rb") as file:
            for extension, (offset, size) in members.items():
                file.seek(offset)
                fields[extension] = file.read(size)
        return Row(id=self.row_id(index), fields=fields, root=path.parent)

    def _index(self, path: Path) -> dict[str, dict[str, tuple[int, int]]]:
        rows, faults = index_tar(path)
        for key, reason, detail in faults:
            self._fault(path, key, reason, detail)
        return rows

    def _fault(self, path: Path, key: str, reason: str, detail: str) -> None:
        name = f"{self.source}/{path.name}" + (f":{key}" if key else "")
        self.faults.append(Fault(source=self.source, id=name, reason=reason, detail=detail))


TarRows = dict[str, dict[str, tuple[int, int]]]
"""Sample -> extension -> where the member lies: offset and length."""


def index_tar(path: Path) -> tuple[TarRows, list[tuple[str, str, str]]]:
    """The whole samples of a shard, and (key, reason, detail) of what is none; the key of the archive itself is ""."""
    rows: TarRows = {}
    faults: list[tuple[str, str, str]] = []
    spoilt: set[str] = set()
    last = ""
    for entry in walk_tar(path):
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


class JsonReader:
    """Files that each hold one JSON list of objects."""

    def __init__(self, source: str, paths: Sequence[Path], images: Path | None) -> None:
        self.source = source
        self.faults: list[Fault] = []
        self._images = images
        self._rows: list[tuple[Path, int, Any]] = []
        for path in paths:
            rows, (reason, detail) = json_elements(path.read_bytes())
            if reason:
                self.faults.append(Fault(source=source, id=f"{source}/{path.name}", reason=reason, detail=detail))
            self._rows += [(path, number, fields) for number, fields in enumerate(rows)]

    def __len__(self) -> int:
        return len(self._rows)

    def row_id(self, index: int) -> str:
        path, number, _ = self._rows[index]
        return f"{self.source}/{path.name}:{number}"

    def read(self, index: int) -> Row:
        path, _, fields = self._rows[index]
        return Row(id=self.row_id(index), fields=as_object(fields), root=self._images or path.parent)


class JsonLinesReader:
    """Files with one JSON object a line; only the lines' places are kept in memory."""

    def __init__(self, source: str, paths: Sequence[Path], images: Path | None) -> None:
        self.source = source
        self.faults: list[Fault] = []
        self._images = images
        self._rows: list[tuple[Path, int, int, int]] = []
        for path in paths:
            self._rows += [(path, *place) for place in lines_of(path)]

    def __len__(self) -> int:
        return len(self._rows)

    def row_id(self, index: int) -> str:
        path, number, _, _ = self._rows[index]
        return f"{self.source}/{path.name}:line{number}"

    def read(self, index: int) -> Row:
        path, _, offset, size = self._rows[index]
        with path.open("rb") as file:
            file.seek(offset)
            line = file.read(size)
        return Row(id=self.row_id(index), fields=json_line(line), root=self._images or path.parent)


class FolderReader:
    """Folders of pictures; files beside a picture with its name (`.txt`, `.json`) belong to its row."""

    def __init__(self, source: str, paths: Sequence[Path], images: Path | None) -> None:
        del images  # pictures are found by their files
        self.source = source
        self.faults: list[Fault] = []
        self._rows: list[tuple[Path, Path, dict[str, Path]]] = []
        for folder in paths:
            rows: dict[Path, dict[str, Path]] = {}
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                if not file.name.startswith("."):
                    rows.setdefault(file.with_suffix(""), {})[file.suffix[1:].lower()] = file
            self._rows += [(folder, s, files) for s, files in rows.items() if files.keys() & set(PICTURE_SUFFIXES)]

    def __len__(self) -> int:
        return len(self._rows)

    def row_id(self, index: int) -> str:
        folder, stem, _ = self._rows[index]
        return f"{self.source}/{folder.name}:{stem.relative_to(folder)}"

    def read(self, index: int) -> Row:
        _, stem, files = self._rows[index]
        return Row(id=self.row_id(index), fields=files, root=stem.parent)


class ParquetReader:
    """Parquet files, read a row group at a time; pages that carry a checksum are verified.

    A damaged row group costs its rows and no others.
    """

    def __init__(self, source: str, paths: Sequence[Path], images: Path | None) -> None:
        self.source = source
        self.faults: list[Fault] = []
        self._images = images
        self._groups: list[tuple[Path, int, int]] = []
        """File, row group, number of its first row in the file."""
        self._starts = [0]
        self._kept: tuple[int, Any] | None = None
        for path in paths:
            try:
                metadata = pq.read_metadata(path)
            except (OSError, pa.ArrowException) as error:
                self._fault(path, "parquet_corrupt", str(error))
                continue
            first = 0
            for group in range(metadata.num_row_groups):
                self._groups.append((path, group, first))
                first += metadata.row_group(group).num_rows
                self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
            if not first:
                self._fault(path, "shard_empty", "no row in it")

    def __len__(self) -> int:
        return self._starts[-1]

    def row_id(self, index: int) -> str:
        number = self._group_of(index)
        path, _, first = self._groups[number]
        return f"{self.source}/{path.name}:{first + index - self._starts[number]}"

    def read(self, index: int) -> Row:
        number = self._group_of(index)
        path, group, _ = self._groups[number]
        if self._kept is None or self._kept[0] != number:
            self._kept = (number, read_row_group(path, group))
        fields = self._kept[1].slice(index - self._starts[number], 1).to_pylist()[0]
        return Row(id=self.row_id(index), fields=fields, root=self._images or path.parent)

    def _group_of(self, index: int) -> int:
        return bisect.bisect_right(self._starts, index) - 1

    def _fault(self, path: Path, reason: str, detail: str) -> None:
        self.faults.append(Fault(source=self.source, id=f"{self.source}/{path.name}", reason=reason, detail=detail))


def read_row_group(path: Path, group: int) -> pa.Table:
    """One row group, its checksums verified where the file has some.

    Raises:
        BadSample: It is damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read_row_group(group)
    except (OSError, pa.ArrowException) as error:
        raise BadSample("parquet_corrupt", f"row group {group}: {error}") from error


class TsvReader:
    """Tab-separated address and caption without a header, in either order (CC12M has the address first, CC3M last)."""

    def __init__(self, source: str, paths: Sequence[Path], images: Path | None) -> None:
        self.source = source
        self.faults: list[Fault] = []
        self._images = images
        self._rows = [(path, *place) for path in paths for place in lines_of(path)]

    def __len__(self) -> int:
        return len(self._rows)

    def row_id(self, index: int) -> str:
        path, number, _, _ = self._rows[index]
        return f"{self.source}/{path.name}:line{number}"

    def read(self, index: int) -> Row:
        path, _, offset, size = self._rows[index]
        with path.open("rb") as file:
            file.seek(offset)
            fields = tsv_fields(file.read(size))
        return Row(id=self.row_id(index), fields=fields, root=self._images or path.parent)


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


READERS = {
    ".tar": TarReader,
    ".parquet": ParquetReader,
    ".json": JsonReader,
    ".jsonl": JsonLinesReader,
    ".tsv": TsvReader,
    "folder": FolderReader,
}


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


def lines_of(path: Path) -> Iterator[tuple[int, int, int]]:
    """Number (from 1), offset and length of every line that is not blank."""
    with path.open("rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, offset, len(line)
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

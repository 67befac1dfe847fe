"""Files as people have them -> raw rows: WebDataset tars, JSON, JSON lines, image folders. Knows no data set."""

import glob
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from xgenmm.config import ConfigError
from xgenmm.data.quarantine import BadSample, Fault

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
    """The reader for files of one kind, chosen by suffix: `.tar`, `.json`, `.jsonl`, or a folder of pictures.

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

    One pass over the headers notes where each member lies; contents are read when asked for. Python's `tarfile` takes a
    damaged header for the end of the archive and says nothing, so the pass checks that the archive really ends there.
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
        rows: dict[str, dict[str, tuple[int, int]]] = {}
        size = path.stat().st_size
        try:
            with tarfile.open(path, mode="r:") as archive:
                for member in archive:
                    self._note(path, size, member, rows)
                end = archive.offset
        except (tarfile.TarError, OSError, EOFError) as error:
            reason = "archive_truncated" if "unexpected end" in str(error) else "archive_corrupt"
            self._fault(path, "", reason, str(error))
            return rows
        with path.open("rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                detail = f"damaged header at byte {end} of {size}: what follows is lost"
                self._fault(path, "", "archive_corrupt", detail)
        return rows

    def _note(
        self, path: Path, size: int, member: tarfile.TarInfo, rows: dict[str, dict[str, tuple[int, int]]]
    ) -> None:
        name = PurePosixPath(member.name)
        stem, _, extension = name.name.partition(".")
        key, extension = str(name.with_name(stem or name.name)), extension.lower()
        if member.isdir() or not stem:  # dot files: macOS puts `._name` beside every `name`
            return
        if not member.isreg():
            self._fault(path, member.name, "archive_member_type", "neither a file nor a folder")
        elif member.offset_data + member.size > size:
            rows.pop(key, None)  # half a row is no row
            self._fault(path, key, "archive_truncated", f"{member.name} is cut off")
        elif extension in rows.get(key, {}):
            self._fault(path, key, "key_duplicate", f"{member.name} stands twice; the first is used")
        else:
            rows.setdefault(key, {})[extension] = (member.offset_data, member.size)

    def _fault(self, path: Path, key: str, reason: str, detail: str) -> None:
        name = f"{self.source}/{path.name}" + (f":{key}" if key else "")
        self.faults.append(Fault(source=self.source, id=name, reason=reason, detail=detail))


class JsonReader:
    """Files that each hold one JSON list of objects."""

    def __init__(self, source: str, paths: Sequence[Path], images: Path | None) -> None:
        self.source = source
        self.faults: list[Fault] = []
        self._images = images
        self._rows: list[tuple[Path, int, Any]] = []
        for path in paths:
            try:
                content = json.loads(path.read_text(encoding="utf-8-sig"))
                if not isinstance(content, list):
                    raise ValueError("the file holds no list of objects")
            except ValueError as error:
                fault = Fault(source=source, id=f"{source}/{path.name}", reason="json_invalid", detail=str(error))
                self.faults.append(fault)
            else:
                self._rows += [(path, number, fields) for number, fields in enumerate(content)]

    def __len__(self) -> int:
        return len(self._rows)

    def row_id(self, index: int) -> str:
        path, number, _ = self._rows[index]
        return f"{self.source}/{path.name}:{number}"

    def read(self, index: int) -> Row:
        path, _, fields = self._rows[index]
        return Row(id=self.row_id(index), fields=_object(fields), root=self._images or path.parent)


class JsonLinesReader:
    """Files with one JSON object a line; only the lines' places are kept in memory."""

    def __init__(self, source: str, paths: Sequence[Path], images: Path | None) -> None:
        self.source = source
        self.faults: list[Fault] = []
        self._images = images
        self._rows: list[tuple[Path, int, int, int]] = []
        for path in paths:
            with path.open("rb") as file:
                offset = 0
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        self._rows.append((path, number, offset, len(line)))
                    offset += len(line)

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
        try:
            fields = json.loads(line.decode("utf-8-sig"))
        except ValueError as error:
            raise BadSample("json_invalid", str(error)) from error
        return Row(id=self.row_id(index), fields=_object(fields), root=self._images or path.parent)


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


READERS = {".tar": TarReader, ".json": JsonReader, ".jsonl": JsonLinesReader, "folder": FolderReader}


def _object(fields: Any) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise BadSample("schema_wrong_type", "the row is no JSON object")
    return fields

"""Where data lie: files of this machine as `Path`, everything else as a URL that fsspec opens. Knows no format."""

import glob
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar, runtime_checkable

import fsspec

from xgenmm.config import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")
TRIES = 4
"""How often a remote read is tried, with pauses of 0.5, 1 and 2 seconds."""


@dataclass(frozen=True)
class Remote:
    """A file or a folder behind a URL, with as much of `Path`'s interface as data needs."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self.url.rstrip('/')}/{name}")

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(self.url.partition("://")[2].partition("?")[0])

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return self._path.name

    @property
    def suffix(self) -> str:
        """Of the name, with its dot."""
        return self._path.suffix

    @property
    def parent(self) -> "Remote":
        """The folder that it lies in."""
        return Remote(self.url.rstrip("/").rpartition("/")[0])

    def exists(self) -> bool:
        """Whether there is such a file."""
        system, path = fsspec.core.url_to_fs(self.url)
        return bool(system.exists(path))

    def read_bytes(self) -> bytes:
        """The whole content.

        Raises:
            OSError: It cannot be read, after several tries.
        """
        system, path = fsspec.core.url_to_fs(self.url)
        return _tried(lambda: system.cat_file(path), self.url)

    def read_range(self, offset: int, size: int) -> bytes:
        """A part of the content.

        Raises:
            OSError: It cannot be read whole, after several tries.
        """
        system, path = fsspec.core.url_to_fs(self.url)

        def read() -> bytes:
            content = system.cat_file(path, start=offset, end=offset + size)
            if len(content) != size:
                raise OSError(f"{self.url}: {len(content)} of {size} bytes at {offset} came")
            return content

        return _tried(read, self.url)


@runtime_checkable
class BinaryFile(Protocol):
    """A file that is open for reading."""

    def read(self, size: int = -1, /) -> bytes:
        """So many bytes, or all."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place."""
        ...

    def __iter__(self) -> Iterator[bytes]: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> Any: ...


Place = Path | Remote
"""Where a file or a folder lies."""


def _tried(read: Callable[[], T], url: str) -> T:
    for attempt in range(TRIES):
        try:
            return read()
        except FileNotFoundError:
            raise
        except Exception as error:
            if attempt == TRIES - 1:
                raise OSError(f"{url}: {error}") from error
            log.warning("%s: %s; trying again", url, error)
            time.sleep(0.5 * 2**attempt)
    raise AssertionError


def place_of(text: str) -> Place:
    """A path, or a URL if it has a scheme. `file://` is a path.

    >>> place_of("data/a.tar"), place_of("s3://bucket/a.tar")
    (PosixPath('data/a.tar'), Remote(url='s3://bucket/a.tar'))
    """
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return Remote(text) if "://" in text else Path(text)


def find(source: str, patterns: Sequence[str]) -> list[Place]:
    """The files and folders that paths, globs and URLs stand for, sorted within each.

    Raises:
        ConfigError: One of them matches nothing, or cannot be looked up.
    """
    places: list[Place] = []
    for pattern in patterns:
        found = _find_remote(source, pattern) if isinstance(place_of(pattern), Remote) else _find_local(pattern)
        if not found:
            raise ConfigError(f'data set "{source}": no file matches {pattern}')
        places += found
    return places


def _find_local(pattern: str) -> list[Place]:
    pattern = pattern.removeprefix("file://")
    if os.path.exists(pattern):  # before globbing: names may hold brackets
        return [Path(pattern)]
    return [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]


def _find_remote(source: str, pattern: str) -> list[Place]:
    try:
        system, path = fsspec.core.url_to_fs(pattern)
        if not glob.has_magic(path):
            return [Remote(system.unstrip_protocol(path))] if system.exists(path) else []
        return [Remote(system.unstrip_protocol(name)) for name in sorted(system.glob(path))]
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f'data set "{source}": cannot look up {pattern}: {error}') from error


def is_folder(place: Place) -> bool:
    """Whether it is a folder."""
    if isinstance(place, Path):
        return place.is_dir()
    system, path = fsspec.core.url_to_fs(place.url)
    return bool(system.isdir(path))


def files_under(folder: Place) -> list[Place]:
    """All files of a folder and of those in it, sorted; none whose name begins with a dot."""
    if isinstance(folder, Path):
        found: list[Place] = [path for path in folder.rglob("*") if path.is_file()]
    else:
        system, path = fsspec.core.url_to_fs(folder.url)
        found = [Remote(system.unstrip_protocol(name)) for name in system.find(path)]
    return sorted((place for place in found if not place.name.startswith(".")), key=str)


def open_binary(place: Place) -> BinaryFile:
    """Opened for reading, at any place of it."""
    if isinstance(place, Path):
        return place.open("rb")
    system, path = fsspec.core.url_to_fs(place.url)
    return system.open(path, "rb")


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """By what a changed file is noticed without reading it."""

    size: int
    version: str
    """Time of the last change, or a store's own mark of the content."""


def stamp_of(place: Place) -> Stamp:
    """The stamp of a file as it is now.

    Raises:
        OSError: There is no such file.
    """
    if isinstance(place, Path):
        status = place.stat()
        return Stamp(size=status.st_size, version=str(status.st_mtime_ns))
    system, path = fsspec.core.url_to_fs(place.url)
    details: dict[str, Any] = _tried(lambda: system.info(path), place.url)
    marks = (details.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created"))
    return Stamp(size=int(details["size"] or 0), version=next((str(mark) for mark in marks if mark), ""))

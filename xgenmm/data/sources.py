"""A path that somebody names -> sources: which files belong together, and how their rows are written down."""

import glob
import itertools
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xgenmm.config import ConfigError
from xgenmm.data.corpus import ARCHIVE, TABLES, look_through
from xgenmm.data.records import Record
from xgenmm.data.scan import is_document
from xgenmm.data.schemas import AUTO, LOOKED_AT, adapter_name, schema_of_rows
from xgenmm.data.shards import open_shards
from xgenmm.data.source import SourceConfig
from xgenmm.data.tar import TarMember, walk_tar

log = logging.getLogger(__name__)

MOST_MEMBERS = 64
"""Members of a tar's first sample."""


def find_sources(name: str, *, schema: str = AUTO, images: Path | None = None) -> list[SourceConfig]:
    """The sources of a file, a folder or a glob: shards of one kind that lie together are one.

    Args:
        name: What somebody typed.
        schema: An adapter's or a data set's name; `auto` looks at the first file of each source.
        images: Where picture names start, and where fetched pictures lie; by default beside the files.

    Raises:
        ConfigError: There is no such path or schema, or nothing to read in it.
    """
    if schema != AUTO:
        adapter_name(schema)  # before any file is opened
    groups: dict[tuple[Path, str, str], list[Path]] = {}
    for path in _files(name):
        if path.suffix.lower() in (".tar", *TABLES):
            groups.setdefault((path.parent, path.suffix, re.sub(r"\d+", "#", path.stem)), []).append(path)
        else:
            groups.setdefault((path.parent if path.is_file() else path, "", ""), []).append(path)
    sources: list[SourceConfig] = []
    for (folder, suffix, stem), paths in sorted(groups.items()):
        adapter = adapter_of_file(paths[0], schema) if suffix else "caption_pairs"
        title = _title(folder, stem, paths) if suffix else folder.name
        taken = {source.name for source in sources}
        sources.append(
            SourceConfig(
                name=next(one for one in _numbered(title) if one not in taken),
                adapter=adapter,
                path=tuple(glob.escape(str(path)) for path in (paths if suffix else [folder])),
                images=None if images is None else str(images),
            )
        )
    return sources


def adapter_of_file(path: Path, schema: str = AUTO) -> str:
    """How the rows of one shard or table are written down: as somebody says, or by its first rows, or by its name."""
    if schema != AUTO:
        return adapter_name(schema, in_tar=path.suffix.lower() == ARCHIVE)
    if path.suffix.lower() == ".tar":
        return "mint" if is_document(_first_sample(path), path) else "caption_pairs"
    return schema_of_rows(first_rows(path), path)


def first_rows(path: Path) -> list[Any]:
    """Some rows from the beginning of a table; fewer, or none, where it is damaged."""
    (shard,) = open_shards(str(path), [str(path)])
    found = itertools.islice(shard.walk(), LOOKED_AT)
    return [item.fields for item in found if isinstance(item, Record) and item.fields is not None]


def _first_sample(path: Path) -> dict[str, bytes]:
    """The first sample of a tar; only what is JSON is read."""
    fields: dict[str, bytes] = {}
    first = None
    with path.open("rb") as file:
        for entry in itertools.islice(walk_tar(file, path.stat().st_size), MOST_MEMBERS):
            if not isinstance(entry, TarMember) or not entry.is_file:
                continue
            first = first or entry.key
            if entry.key != first:
                break
            file.seek(entry.offset)
            fields[entry.extension] = file.read(entry.size) if entry.extension == "json" else b""
    return fields


def _files(name: str) -> list[Path]:
    """Shards, tables and pictures."""
    places = [Path(name)] if Path(name).exists() else [Path(one) for one in sorted(glob.glob(name, recursive=True))]
    found: list[Path] = []
    for place in places:
        corpus = look_through(place)
        found += corpus.files
        found += [path for folder in corpus.folders for files in folder.records.values() for path in files.values()]
        for one in corpus.unopened:
            log.warning("%s is left out: %s", one.place, one.damage.detail)
    return found or _nothing(name)


def _nothing(name: str) -> list[Path]:
    raise ConfigError(f"{name}: no file that can be read ({', '.join(['.tar', *TABLES])}, or pictures)")


def _title(folder: Path, stem: str, paths: list[Path]) -> str:
    """A file's own name, or what shards have in common."""
    if len(paths) == 1:
        return paths[0].stem
    words = stem.replace("#", "").strip("-_. ")
    return words or folder.name or str(folder)


def _numbered(title: str) -> Iterable[str]:
    return itertools.chain([title], (f"{title}-{number}" for number in itertools.count(2)))

"""What is known of a source without reading it: the lengths of its rows, and where their bytes lie."""

import bisect
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from xgenmm.data.columns import COLUMNS_VERSION, DTYPES, build
from xgenmm.data.cutting import Window
from xgenmm.data.index import (
    QUARANTINE,
    WHOLE,
    Setting,
    digest_of_text,
    index_path,
    is_current,
    make_indexes,
    read_origin,
)
from xgenmm.data.lengths import SourceLengths
from xgenmm.data.prepare import Excerpt, Preparer
from xgenmm.data.quarantine import DataError, Fault
from xgenmm.data.records import Member, Shard
from xgenmm.data.shards import row_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where a document of a plan lies."""

    shard: int
    key: str
    members: tuple[Member, ...]
    choice: int
    """What the adapter takes of its alternatives."""
    excerpt: Excerpt | None
    """None: all of the row."""
    piece: int | None
    """Its number, where the row has several."""
    tokens: int
    tiles: int


class SourceIndex:
    """A source's usable rows: their lengths for the planner, their places for the reader."""

    def __init__(self, name: str, folder: Path, shards: Sequence[Shard]) -> None:
        """Map the columns.

        Raises:
            DataError: No row of the source can be used.
        """
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.name = name
        self.shards = shards
        self.paths = [Path(path) for path in meta["indexes"]]
        """Where the shards' indexes lie."""
        self.records: int = meta["records"]
        self.reasons: dict[str, int] = meta["reasons"]
        """Records that cannot be used, by reason."""
        self.missing: int = meta["missing"]
        self._names: list[str] = meta["names"]
        self._first_rows: list[int] = meta["first_rows"]
        self._columns = {
            column: np.asarray(np.memmap(folder / column, dtype=DTYPES[column], mode="r"))  # slices of maps are slow
            for column in meta["columns"]
            if meta["rows"] and (folder / column).stat().st_size
        }
        if not meta["rows"]:
            raise DataError(
                f'data set "{name}" gives nothing to learn from: none of {self.records} records is usable with '
                f"supervised tokens ({meta['example'] or 'there is no record'})"
            )
        self.lengths = SourceLengths(
            name=name,
            digest=meta["digest"],
            shards=self._columns["groups"],
            tokens=self._columns["tokens"],
            tiles=self._columns["tiles"],
            loss_tokens=self._columns["loss_tokens"],
            longest=meta["longest"],
            most_tiles=meta["most_tiles"],
            variants=self._columns.get("variants"),
            pieces=self._columns.get("pieces"),
        )

    @property
    def quarantined(self) -> int:
        """Records that cannot be used."""
        return sum(self.reasons.values())

    def locate(self, row: int, variant: int, piece: int) -> Located:
        """Where a document lies."""
        columns = self._columns
        shard = bisect.bisect_right(self._first_rows, row) - 1
        first, last = columns["members"][row : row + 2]
        places = zip(
            columns["member_names"][first:last].tolist(),
            columns["member_offsets"][first:last].tolist(),
            columns["member_sizes"][first:last].tolist(),
            strict=True,
        )
        begin, end = columns["keys"][row : row + 2]
        number = row + variant if "variants" not in columns else int(columns["variants"][row]) + variant
        place, count = number, 1
        if "pieces" in columns:
            place, stop = (int(offset) for offset in columns["pieces"][number : number + 2])
            place, count = place + piece, stop - place
        return Located(
            shard=shard,
            key=columns["key_bytes"][begin:end].tobytes().decode(),
            members=tuple(Member(self._names[name], offset, size) for name, offset, size in places),
            choice=int(columns["choices"][number]) if "choices" in columns else variant,
            excerpt=self._excerpt(place),
            piece=piece if count > 1 else None,
            tokens=int(columns["tokens"][place]),
            tiles=int(columns["tiles"][place]),
        )

    def _excerpt(self, place: int) -> Excerpt | None:
        if "excerpts" not in self._columns:
            return None
        code = tuple(self._columns["excerpts"][6 * place : 6 * place + 6].tolist())
        if code == WHOLE:
            return None
        return Excerpt(*code[:2], window=Window(*code[2:]) if any(code[2:]) else None)

    def faults(self) -> Iterator[Fault]:
        """Everything that the indexes found unusable: records, and damages of whole shards."""
        columns = ["key", "status", "reason", "detail"]
        for shard, path in zip(self.shards, self.paths, strict=True):
            table = pq.read_table(path, columns=columns, filters=[("status", "=", QUARANTINE)])
            for line in table.to_pylist():
                name = row_id(self.name, shard, line["key"])
                yield Fault(source=self.name, id=name, reason=line["reason"], detail=line["detail"])


def open_index(
    name: str,
    shards: Sequence[Shard],
    setting: Setting,
    preparer: Preparer,
    folder: Path,
    *,
    refresh: bool = False,
    workers: int | None = None,
) -> SourceIndex:
    """The index of a source; shards that have none are indexed first.

    Args:
        name: The source's name.
        shards: All of its shards.
        setting: What lengths depend on.
        preparer: Measures rows.
        folder: Of all indexes.
        refresh: Index shards again that changed, or whose records lacked picture files.
        workers: As in `make_indexes`.

    Raises:
        DataError: A shard changed since it was indexed, or no row of the source can be used.
    """
    paths = [index_path(folder, setting, shard) for shard in shards]
    columns = folder / setting.digest / f"columns-{digest_of_text(json.dumps([str(path) for path in paths]))}"
    if refresh or not _are_current(columns, shards, paths):
        _complete(name, shards, paths, setting, preparer, refresh=refresh, workers=workers)
        build(columns, shards, paths, setting)
    index = SourceIndex(name, columns, shards)
    if index.missing:
        log.info(
            "%s: pictures of %d records are missing; once they are there, `xgenmm data index` takes the records in",
            name,
            index.missing,
        )
    return index


def _complete(
    name: str,
    shards: Sequence[Shard],
    paths: Sequence[Path],
    setting: Setting,
    preparer: Preparer,
    *,
    refresh: bool,
    workers: int | None,
) -> None:
    """Index what has no index; refuse, or index again, what changed."""
    wanted = []
    for shard, path in zip(shards, paths, strict=True):
        origin = read_origin(path)
        if origin is None or (refresh and (origin.missing or not is_current(origin, shard))):
            wanted.append((shard, path))
        elif not is_current(origin, shard):
            raise DataError(
                f'data set "{name}": {shard.place} changed since it was indexed; places and lengths of its records are '
                "not known any more. `xgenmm data index` indexes it again"
            )
    make_indexes(
        [shard for shard, _ in wanted], [path for _, path in wanted], setting, preparer, name=name, workers=workers
    )


def _are_current(folder: Path, shards: Sequence[Shard], paths: Sequence[Path]) -> bool:
    """Whether columns are there and were made of these indexes, of shards that are still the same."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["version"] != COLUMNS_VERSION or meta["times"] != [path.stat().st_mtime_ns for path in paths]:
            return False
    except FileNotFoundError:
        return False
    return meta["stamps"] == [asdict(shard.stamp()) for shard in shards]

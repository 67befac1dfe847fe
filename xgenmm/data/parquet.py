"""Parquet files as shards: walked a row group at a time, a damaged one told and passed over; read again by place."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xgenmm.data.files import Place, open_binary, stamp_of
from xgenmm.data.quarantine import BadSample
from xgenmm.data.records import Damage, InTables, Member, Record

KEPT_GROUPS = 8
KEPT_BYTES = 512 << 20
"""How much of parquet files stays in memory: rows are read in an order that stays near a row group for a while."""
WALKED_BYTES = 16 << 20
"""How much of a row group is in memory at a time while a file is walked."""
WALKED_ROWS = 256
"""And so many rows at most: a value that stands in many rows counts once in the size that a file tells, and may be a
megabyte."""
BUFFER_BYTES = 1 << 20
"""How much of a column is read at once."""


class ParquetShard(InTables):
    """Parquet; pages that carry a checksum are verified. A damaged row group costs its rows and no others."""

    def walk(self, *, contents: bool = True) -> Iterator[Record | Damage]:
        if not stamp_of(self.place).size:
            yield Damage(reason="shard_empty", detail="the file has no bytes", lost=0)
            return
        try:
            with open_binary(self.place) as file:
                metadata = pq.read_metadata(file)
        except (OSError, pa.ArrowException) as error:
            yield Damage(reason="parquet_corrupt", detail=" ".join(str(error).split()))
            return
        first = 0
        for group in range(metadata.num_row_groups):
            described = metadata.row_group(group)
            count, size = described.num_rows, described.total_byte_size
            try:
                tables = _walked(self.place, group, count, size) if contents else None
            except BadSample as error:
                detail = f"rows {first} to {first + count - 1}: {error.detail}"
                yield Damage(reason=error.reason, detail=detail, lost=count)
            else:
                yield from self._rows(group, first, count, tables)
            first += count
        if not first:
            yield Damage(reason="shard_empty", detail="no row in it", lost=0)

    def _rows(self, group: int, first: int, count: int, tables: Iterator[pa.Table] | None) -> Iterator[Record]:
        if tables is None:
            yield from (
                Record(key=str(first + row), members=(Member("", group, row),), fields={}) for row in range(count)
            )
            return
        row = 0
        for table in tables:
            for place in range(table.num_rows):
                key, members = str(first + row), (Member("", group, row),)
                try:
                    yield Record(key=key, members=members, fields=_row_of(table, place))
                except BadSample as error:
                    yield Record(key=key, reason=error.reason, detail=error.detail)
                row += 1

    def read(self, key: str, members: Sequence[Member]) -> dict[str, Any]:
        del key
        ((_, group, row),) = members
        return _row_of(_kept_groups.get(self.place, group), row)


def _row_of(table: pa.Table, row: int) -> dict[str, Any]:
    """One row.

    Raises:
        BadSample: A text of it is none.
    """
    try:
        return table.slice(row, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        raise BadSample("text_invalid_utf8", str(error)) from error


def _walked(place: Place, group: int, rows: int, size: int) -> Iterator[pa.Table]:
    """A row group in parts of `WALKED_BYTES`. That all of it is whole is made sure of before the first part is given.

    Raises:
        BadSample: It is damaged.
    """
    at_once = max(1, min(WALKED_ROWS, rows * WALKED_BYTES // max(size, 1)))
    kept: list[pa.Table] = []
    held = 0
    for part in _parts(place, group, at_once):
        held += part.nbytes
        if held <= WALKED_BYTES:
            kept.append(part)
        else:
            kept.clear()
    return iter(kept) if held <= WALKED_BYTES else _parts(place, group, at_once)


def _parts(place: Place, group: int, rows: int) -> Iterator[pa.Table]:
    # buffered, or pyarrow would fetch the whole row group before its first row
    with _told(group), _opened(place, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
        for batch in file.iter_batches(rows, row_groups=[group]):
            yield pa.Table.from_batches([batch])


def _read_row_group(place: Place, group: int) -> pa.Table:
    """One row group, its checksums verified where the file has some.

    Raises:
        BadSample: It is damaged.
    """
    with _told(group), _opened(place) as file:
        return file.read_row_group(group)


@contextmanager
def _opened(place: Place, **settings: Any) -> Iterator[pq.ParquetFile]:
    with ExitStack() as stack:
        # a file of this machine is opened by pyarrow: through Python, each page would be held once more
        source = place if isinstance(place, Path) else stack.enter_context(open_binary(place))
        yield stack.enter_context(pq.ParquetFile(source, page_checksum_verification=True, **settings))


@contextmanager
def _told(group: int) -> Iterator[None]:
    try:
        yield
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

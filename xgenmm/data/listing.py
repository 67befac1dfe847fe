"""The rows of a source without an index, by number: gone through as far as somebody has asked.

For looking at data that nobody trains on yet, and for making other data of them.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xgenmm.data.files import Place
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import Row
from xgenmm.data.records import Member, Record, Shard
from xgenmm.data.shards import open_shards, row_id


@dataclass(frozen=True, slots=True)
class _Listed:
    """Where a row lies, or why there is none."""

    shard: Shard
    key: str
    members: tuple[Member, ...] = ()
    fault: tuple[str, str] | None = None
    """Reason and detail."""


class ListedRows:
    """What the rows hold is read when somebody asks for it. A damage, of a shard or a record, is a row that cannot be
    read.
    """

    judged = 0
    """Nothing is known of any row."""

    def __init__(self, source: str, patterns: Sequence[str], images: Place | None = None) -> None:
        """Stand before the first row.

        Args:
            source: The data set's name; row ids begin with it.
            patterns: As in `open_shards`.
            images: As in `open_shards`.

        Raises:
            ConfigError: As `open_shards`.
        """
        self._source = source
        self._rows: list[_Listed] = []
        self._rest = _walk(open_shards(source, patterns, images))
        self._lock = threading.Lock()

    def has(self, number: int) -> bool:
        """Whether there is a row of this number."""
        with self._lock:
            while len(self._rows) <= number:
                row = next(self._rest, None)
                if row is None:
                    return False
                self._rows.append(row)
        return number >= 0

    def verdict(self, number: int) -> tuple[str, str]:
        """Of no row."""
        raise IndexError(f"nothing is known of row {number}")

    def find(self, name: str) -> int | None:
        """The number of a row by its id."""
        number = 0
        while self.has(number):
            if self.row_id(number) == name:
                return number
            number += 1
        return None

    def row_id(self, number: int) -> str:
        """What a row is called, whether or not it can be read."""
        row = self._row(number)
        return row_id(self._source, row.shard, row.key)

    def read(self, number: int) -> Row:
        """A row's contents.

        Raises:
            BadSample: The row is there but cannot be read.
        """
        row = self._row(number)
        if row.fault is not None:
            raise BadSample(*row.fault)
        return Row(id=self.row_id(number), fields=row.shard.read(row.key, row.members), root=row.shard.root(row.key))

    def picture_roots(self, number: int) -> tuple[Place, ...]:
        """Folders that a row's picture files must really lie in."""
        return self._row(number).shard.picture_roots()

    def _row(self, number: int) -> _Listed:
        if not self.has(number):
            raise IndexError(f"{self._source} has no row {number}")
        return self._rows[number]


def _walk(shards: Sequence[Shard]) -> Iterator[_Listed]:
    for shard in shards:
        for item in shard.walk(contents=False):
            if isinstance(item, Record) and item.fields is not None:
                yield _Listed(shard, item.key, item.members)
            else:
                key = item.key if isinstance(item, Record) else ""
                yield _Listed(shard, key, fault=(item.reason, item.detail))

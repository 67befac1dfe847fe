"""The rows of an indexed source by number: those that cannot be used first, then those that a plan draws from."""

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from xgenmm.data.files import Place
from xgenmm.data.index import OK, QUARANTINE
from xgenmm.data.plan import Slot
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import Row
from xgenmm.data.records import Member, Shard
from xgenmm.data.shards import row_id
from xgenmm.data.source import Source


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A record, or a whole shard, that the index found unusable."""

    id: str
    shard: Shard
    key: str
    members: tuple[Member, ...]
    """None where there is no record to be read."""
    reason: str
    detail: str


class IndexedRows:
    """Opened at once, however many rows there are."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._refused: list[Refused] | None = None

    @property
    def refused(self) -> list[Refused]:
        """What the index found unusable; read when it is first asked for."""
        if self._refused is None:
            self._refused = [one for place in range(len(self._source.shards)) for one in self._refused_in(place)]
        return self._refused

    def has(self, number: int) -> bool:
        """Whether there is a row of this number."""
        return 0 <= number < len(self.refused) + self._source.index.lengths.rows

    @property
    def judged(self) -> int:
        """How many rows, from the first on, are known to be unusable."""
        return len(self.refused)

    def number_of(self, row: int) -> int:
        """The number of a row that a plan names."""
        return len(self.refused) + row

    def verdict(self, number: int) -> tuple[str, str]:
        """Reason and detail of what the index refused."""
        one = self.refused[number]
        return one.reason, one.detail

    def row_id(self, number: int) -> str:
        """What a row is called."""
        if number < len(self.refused):
            return self.refused[number].id
        return self._source.row_id(self._source.locate(Slot(0, number - len(self.refused), 0, 0, 0)))

    def find(self, name: str) -> int | None:
        """The number of a row by its id; only the keys of its own shard are gone through."""
        usable = 0
        for place, shard in enumerate(self._source.shards):
            prefix = row_id(self._source.name, shard, "") + ":"
            table = pq.read_table(self._source.index.paths[place], columns=["kind", "key", "status"])
            kind, key, status = (table[column].to_numpy() for column in ("kind", "key", "status"))
            keys = key[(kind == "record") & (status == OK)]
            if name.startswith(prefix) and len(found := np.flatnonzero(keys == name.removeprefix(prefix))):
                return self.number_of(usable + int(found[0]))
            usable += len(keys)
        return next((number for number, one in enumerate(self.refused) if one.id == name), None)

    def read(self, number: int) -> Row:
        """A row's contents.

        Raises:
            BadSample: There is nothing that could be read.
        """
        if number < len(self.refused):
            one = self.refused[number]
            if not one.members:
                raise BadSample(one.reason, one.detail)
            return Row(id=one.id, fields=one.shard.read(one.key, one.members), root=one.shard.root(one.key))
        located = self._source.locate(Slot(0, number - len(self.refused), 0, 0, 0))
        shard = self._source.shards[located.shard]
        fields = shard.read(located.key, located.members)
        return Row(id=self._source.row_id(located), fields=fields, root=shard.root(located.key))

    def picture_roots(self, number: int) -> tuple[Place, ...]:
        """Folders that a usable row's picture files must really lie in."""
        located = self._source.locate(Slot(0, number - len(self.refused), 0, 0, 0))
        return self._source.shards[located.shard].picture_roots()

    def _refused_in(self, place: int) -> list[Refused]:
        shard = self._source.shards[place]
        columns = ["kind", "key", "reason", "detail", "members"]
        table = pq.read_table(
            self._source.index.paths[place], columns=[*columns, "status"], filters=[("status", "=", QUARANTINE)]
        )
        return [
            Refused(
                id=row_id(self._source.name, shard, line["key"] if line["kind"] == "record" else ""),
                shard=shard,
                key=line["key"],
                members=tuple(Member(**member) for member in line["members"]),
                reason=line["reason"],
                detail=line["detail"],
            )
            for line in table.to_pylist()
        ]

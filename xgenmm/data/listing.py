"""All rows of a data set by number, without an index: for looking at data that nobody trains on yet."""

from collections.abc import Sequence

from xgenmm.data.files import Place
from xgenmm.data.quarantine import Fault
from xgenmm.data.readers import Row
from xgenmm.data.records import Member, Record, Shard
from xgenmm.data.shards import open_shards, row_id


class Listing:
    """Where every row lies, and what is damaged. Contents are read when somebody asks for them."""

    def __init__(self, source: str, patterns: Sequence[str], images: Place | None = None) -> None:
        """Walk over the shards.

        Args:
            source: The data set's name; row ids begin with it.
            patterns: As in `open_shards`.
            images: As in `open_shards`.

        Raises:
            ConfigError: As `open_shards`.
        """
        self._source = source
        self._rows: list[tuple[Shard, str, tuple[Member, ...]]] = []
        self.faults: list[Fault] = []
        """Damages of whole shards, and records of which nothing can be read."""
        for shard in open_shards(source, patterns, images):
            for item in shard.walk(contents=False):
                if isinstance(item, Record) and item.fields is not None:
                    self._rows.append((shard, item.key, item.members))
                else:
                    name = row_id(source, shard, item.key if isinstance(item, Record) else "")
                    self.faults.append(Fault(source=source, id=name, reason=item.reason, detail=item.detail))

    def __len__(self) -> int:
        return len(self._rows)

    def row_id(self, number: int) -> str:
        """What a row is called, whether or not it can be read."""
        shard, key, _ = self._rows[number]
        return row_id(self._source, shard, key)

    def read(self, number: int) -> Row:
        """A row's contents.

        Raises:
            BadSample: The row is there but cannot be read.
        """
        shard, key, members = self._rows[number]
        return Row(id=row_id(self._source, shard, key), fields=shard.read(key, members), root=shard.root(key))

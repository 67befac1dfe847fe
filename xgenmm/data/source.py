"""One data set of a mixture: its settings, and what they open."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xgenmm.config import ConfigError, Count, NotNegative, bind, nearest
from xgenmm.data.adapters import ADAPTERS, Adapter
from xgenmm.data.adapters.choosing import pick
from xgenmm.data.files import Place, place_of
from xgenmm.data.index import index_path, read_origin, settings_of
from xgenmm.data.mixture import AtEnd
from xgenmm.data.plan import Slot
from xgenmm.data.prepare import Limits, Opened, Preparer
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import Row
from xgenmm.data.shards import open_shards, row_id
from xgenmm.data.source_index import Located, open_index
from xgenmm.processor.outline import Outline
from xgenmm.processor.processor import XGenMMProcessor


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One data set of a stage's mixture."""

    name: str
    """What logs, sample ids and the report call it."""
    adapter: str
    """How its rows are written down: a key of `data.adapters.ADAPTERS`."""
    path: str | tuple[str, ...]
    """Files, globs, folders or URLs: `.tar` shards, `.parquet`, `.json`, `.jsonl`, `.tsv`, or folders of pictures."""
    images: str | None = None
    """Folder at which the picture names of tables start, and where fetched pictures lie; by default the table's own."""
    weight: NotNegative | None = None
    """Share in the mixture; all sources have one, or none: then their sizes count."""
    samples: Count | None = None
    """Train on so many rows, drawn once; more than there are repeats rows. By default all, each once an epoch."""
    at_end: AtEnd | None = None
    """What happens when it has given all its rows, where that is not the mixture's `at_end`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the adapter."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """`path` as a list, whatever it was written as."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def picture_place(self) -> Place | None:
        """Where pictures are that rows only name."""
        return None if self.images is None else place_of(self.images)

    def bind_adapter(self) -> Adapter:
        """The adapter with its options.

        Raises:
            ConfigError: There is no such adapter, or it has no such option.
        """
        where = f'data set "{self.name}"'
        if self.adapter not in ADAPTERS:
            raise ConfigError(f'{where}: unknown adapter "{self.adapter}"; {nearest(self.adapter, ADAPTERS)}')
        return bind(ADAPTERS[self.adapter], self.options, f"{where}: options")


def is_indexed(config: SourceConfig, processor: XGenMMProcessor, limits: Limits, folder: Path) -> bool:
    """Whether a source can be opened as it is, and nothing has to be indexed first.

    Raises:
        ConfigError: A path matches nothing.
    """
    shards = open_shards(config.name, config.patterns, config.picture_place)
    setting = settings_of(config.adapter, config.options, processor, limits, config.images)
    origins = [(read_origin(index_path(folder, setting, shard)), shard.stamp()) for shard in shards]
    return all(origin is not None and origin.stamp == stamp for origin, stamp in origins)


def index_folder(folder: str | None = None) -> Path:
    """Where indexes are kept: the folder that somebody named, or the user's cache."""
    if folder is not None:
        return Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "xgenmm" / "index"


class Source:
    """A data set that is indexed and can be read, document by document."""

    def __init__(
        self,
        config: SourceConfig,
        processor: XGenMMProcessor,
        limits: Limits,
        folder: Path,
        *,
        refresh: bool = False,
        workers: int | None = None,
    ) -> None:
        """Open it; what is not indexed yet is indexed first.

        Args:
            config: Its settings.
            processor: Turns samples into tokens and tiles.
            limits: How long a document may be.
            folder: Of indexes.
            refresh: Index again what changed, instead of refusing it.
            workers: Processes that index.

        Raises:
            ConfigError: A path matches nothing, or adapter or options are unknown.
            DataError: No row can be used, or a shard changed since it was indexed.
        """
        self.config = config
        self.name = config.name
        self.preparer = Preparer(processor, config.adapter, config.bind_adapter(), limits)
        self.shards = open_shards(config.name, config.patterns, config.picture_place)
        setting = settings_of(config.adapter, config.options, processor, limits, config.images)
        self.index = open_index(
            config.name, self.shards, setting, self.preparer, folder, refresh=refresh, workers=workers
        )

    def locate(self, slot: Slot) -> Located:
        """Where a planned document lies."""
        return self.index.locate(slot.row, slot.variant, slot.piece)

    def row_id(self, located: Located) -> str:
        """What the document's row is called: `source/file:key`."""
        return row_id(self.name, self.shards[located.shard], located.key)

    def open(self, located: Located) -> Opened:
        """A row's samples, with the headers of their pictures read.

        Raises:
            BadSample, OSError: It cannot be read.
        """
        shard = self.shards[located.shard]
        fields = shard.read(located.key, located.members)
        row = Row(id=self.row_id(located), fields=fields, root=shard.root(located.key))
        return self.preparer.open(row, pick(located.choice), shard.picture_roots())

    def outline(self, opened: Opened, located: Located) -> Outline:
        """A planned document before its pictures are decoded.

        Raises:
            BadSample: It is not as long as it was when it was indexed.
        """
        excerpt = located.excerpt or self.preparer.whole(opened)
        outline = self.preparer.outline(opened, excerpt)
        if (outline.tokens, outline.tiles) != (located.tokens, located.tiles):
            raise BadSample(
                "image_corrupt",
                f"{outline.tokens} tokens and {outline.tiles} tiles, but {located.tokens} and {located.tiles} when "
                "it was indexed: a picture of it changed. `xgenmm data index` indexes it again",
            )
        return outline if located.piece is None else outline.named(f"{outline.example.id}#{located.piece}")

    def begin(self, located: Located) -> tuple[Opened, Outline]:
        """A planned document as `Preparer.fill` takes it.

        Raises:
            BadSample, OSError: It cannot be used.
        """
        opened = self.open(located)
        return opened, self.outline(opened, located)


def open_sources(
    configs: Sequence[SourceConfig],
    processor: XGenMMProcessor,
    limits: Limits,
    folder: Path,
    *,
    refresh: bool = False,
    workers: int | None = None,
) -> list[Source]:
    """All data sets of a mixture, in order.

    Raises:
        ConfigError: There is none, or names stand twice; and as `Source`.
        DataError: As `Source`.
    """
    names = [config.name for config in configs]
    if not configs or len(set(names)) < len(names):
        raise ConfigError(f"data: needs at least one source, and each its own name, but has {names}")
    return [Source(config, processor, limits, folder, refresh=refresh, workers=workers) for config in configs]

"""Sources -> the batches of every optimizer step. Knows no model.

Which documents make up step N is planned (`data.planner`) before a byte of them is read; what happens here is reading
them, by threads that keep nothing. So a stopped run goes on at step N at once, and neither threads nor ranks nor speed
change a batch.
"""

import dataclasses
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from xgenmm.config import ConfigError, Count, Positive
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.plan import Row, Slot, StepPlan, deal
from xgenmm.data.planner import BatchConfig, MixtureSource, Planner
from xgenmm.data.prepare import NO_LIMIT, Decode, Limits
from xgenmm.data.quarantine import BadSample, DataError, Fault
from xgenmm.data.report import ROWS_BEFORE_SHARE_COUNTS, Tally
from xgenmm.data.source import SourceConfig, index_folder, open_sources
from xgenmm.data.source_index import Located
from xgenmm.processor.images import ImageError
from xgenmm.processor.packing import pack
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import IGNORE_INDEX, Batch, Example, Preference

log = logging.getLogger(__name__)

T = TypeVar("T")

NOTHING = "nothing"
"""Id of a position of padding that stands for a whole batch."""
_TOKEN_BYTES = 32
_AT_ONCE = 32
"""Documents that a thread opens in a row before it decodes their pictures, and tiles of all of them together. Decoding
empties the processor's caches, and the first document that is opened afterwards fills them again."""


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How a machine reads what was planned. Changes speed and memory; only `decode` changes a pixel."""

    threads: Count | None = None
    """Threads that read and decode; by default one per core."""
    prefetch_mb: Count = 512
    """Megabytes of documents that are read ahead of training."""
    decode: Decode = "draft"
    """`draft`: JPEGs much larger than their tiles are decoded at a half, a quarter or an eighth of their size, and all
    pictures are resized by torch; several times as fast, and pixels differ by less than a grey level on average.
    `exact`: whole, resized by Pillow, as evaluation does."""
    slow_seconds: Positive = 30.0
    """A document that takes longer is named in the log."""
    index: str | None = None
    """Folder of indexes; by default `xgenmm/index` in the user's cache."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """This rank's part of one optimizer step."""

    number: int
    """Counted from 0."""
    batches: tuple[Batch, ...]
    """One for each forward pass; all ranks have equally many."""
    sources: Mapping[str, str]
    """Document id -> name of its source."""
    faults: tuple[Fault, ...]
    """Documents that could not be read; padding without targets stands in their place."""
    wait: float
    """Seconds for which the consumer waited for this step."""
    tallies: Mapping[str, Tally]
    """What this rank's part counts for, by source."""
    plan: Mapping[str, Any]
    """The planner's state behind this step, for `Loader.steps` to go on from."""


_Document = tuple[Slot, Located]
"""A planned document, and where it lies."""


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """Planned documents of a row that one thread reads, one behind the other."""

    documents: Sequence[_Document]
    bytes: int
    read: "Future[list[Example | Fault]]"


@dataclass(kw_only=True)
class _Planned:
    """This rank's part of a step that is planned, and as much of it as is being read."""

    number: int
    plan: Mapping[str, Any]
    waiting: deque[Row]
    """Rows that nobody reads yet."""
    located: deque[list[_Document]] = field(default_factory=deque)
    """The documents of the first of these: those that go into the batch that is being filled."""
    rows: list[list[_Reading]] = field(default_factory=list)
    pixels: list[Tensor] = field(default_factory=list)
    """One for each batch: its documents write their tiles where they will stay."""
    written: int = 0
    """Tiles of the last of these that belong to a document."""


def document_limits(batch: BatchConfig, processor: XGenMMProcessor) -> Limits:
    """How long a document may be: as long as a row, and as the processor allows."""
    most = processor.config.max_tokens
    return Limits(tokens=min(batch.tokens or most, most), tiles=batch.tiles or NO_LIMIT)


class Loader:
    """Reads a mixture of sources as the batches of steps 0, 1, 2, …, decoding ahead."""

    def __init__(
        self,
        sources: Sequence[SourceConfig],
        batch: BatchConfig,
        processor: XGenMMProcessor,
        *,
        pairs: bool,
        seed: int,
        mixture: MixtureConfig | None = None,
        epochs: float | None = None,
        reading: ReadConfig | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Open the sources; what is not indexed yet is indexed first.

        Args:
            sources: The mixture's data sets.
            batch: How a step is made up.
            processor: Turns samples into tokens and tiles.
            pairs: Whether the objective wants preferences or plain samples.
            seed: Of order, draws and choices.
            mixture: How the data sets share the steps.
            epochs: Passes over the data after which there are no more steps; None: no end of one's own.
            reading: How this machine reads.
            rank: Whose part of every step is wanted.
            world_size: Number of ranks that share a step.

        Raises:
            ConfigError: A path matches nothing, or settings are unknown or contradict each other.
            DataError: A source has no usable row, or changed since it was indexed.
        """
        self.batch = batch
        self.processor = processor
        self.pairs = pairs
        self.reading = reading or ReadConfig()
        self.mixture = mixture or MixtureConfig()
        self._rank, self._world_size = rank, world_size
        config = processor.config
        limits = document_limits(batch, processor)
        self.sources = open_sources(sources, processor, limits, index_folder(self.reading.index))
        self.planner = Planner(
            [
                MixtureSource(
                    lengths=source.index.lengths,
                    weight=source.config.weight,
                    samples=source.config.samples,
                    at_end=source.config.at_end,
                )
                for source in self.sources
            ],
            self.mixture,
            batch,
            seed=seed,
            max_tokens=config.max_tokens,
            tokens_per_tile=config.tokens_per_tile,
            epochs=epochs,
        )
        self._begin = self.planner.state()
        self._running: dict[int, tuple[_Document, float]] = {}
        """Thread -> what it reads, and since when."""

    @property
    def shares(self) -> dict[str, float]:
        """Share of each source that its weight, or without weights its size, asks for when training begins."""
        weights = {
            source.name: source.config.samples or source.index.lengths.rows
            if source.config.weight is None
            else source.config.weight
            for source in self.sources
        }
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    def shard_faults(self) -> Iterator[Fault]:
        """What the indexes found: damaged shards, and records that are not planned because they cannot be used."""
        for source in self.sources:
            yield from source.index.faults()

    def check(self) -> None:
        """Make sure, before the first step, that every source gives samples of the right kind, and enough of them.

        Raises:
            DataError: Too large a share of a source is unusable.
            ConfigError: The objective wants preferences and the source has none, or the other way round.
        """
        for source in self.sources:
            index = source.index
            if index.records >= ROWS_BEFORE_SHARE_COUNTS and index.quarantined > self.batch.max_bad * index.records:
                raise DataError(
                    f'data set "{source.name}": {index.quarantined} of {index.records} records are unusable '
                    f"({', '.join(f'{number} {reason}' for reason, number in index.reasons.items())}), more than "
                    f"{self.batch.max_bad:.0%} (batch.max_bad)"
                )
            if index.quarantined > self.batch.warn_bad * index.records:
                log.warning("%s: %d of %d records are unusable", source.name, index.quarantined, index.records)
            opened = source.open(source.locate(Slot(0, 0, 0, 0, 0)))
            if any(isinstance(sample, Preference) != self.pairs for sample in opened.samples):
                wanted, given = ("preferences", "plain samples") if self.pairs else ("plain samples", "preferences")
                raise ConfigError(f'data set "{source.name}" gives {given}, but the objective wants {wanted}')

    def steps(
        self, start: int, stop: int, plan: Mapping[str, Any] | None = None, *, once: bool = False
    ) -> Generator[Step, None, None]:
        """The steps from `start` to before `stop`, read ahead. Close the iterator to stop early.

        Args:
            start: The first step.
            stop: Behind the last one.
            plan: `Step.plan` of the step before `start`. Without it the way there is planned again.
            once: Leave out documents that were in an earlier one of these steps: to do something for each document
                that these steps hold. They are not read again.

        Raises:
            DataError: The mixture ends before `stop`.
            ConfigError: `plan` is of other settings or other data.
        """
        if start >= stop:
            return
        self.planner.restore(plan or self._begin)
        self.planner.replay(start)
        ahead: deque[_Planned] = deque()
        planned = self._planned(stop, set() if once else None)
        with ThreadPoolExecutor(self.reading.threads or os.cpu_count(), thread_name_prefix="read") as pool:
            try:
                for number in range(start, stop):
                    began = time.perf_counter()
                    self._read_ahead(pool, planned, ahead)
                    if not ahead:
                        raise DataError(f"the mixture ends after {number} steps, and {stop} are wanted: give fewer")
                    yield self._step(ahead.popleft(), began)
            finally:
                pool.shutdown(cancel_futures=True)

    def _planned(self, stop: int, met: set[Slot] | None) -> Iterator[_Planned]:
        """This rank's part of the steps to come, less the documents that were met before if these are asked for."""
        while self.planner.number < stop:
            step = next(self.planner, None)
            if step is None:
                return
            if met is not None:
                step = _unmet(step, met)
            rows = deal(step, self._world_size)[self._rank]
            yield _Planned(number=step.number, plan=self.planner.state(), waiting=deque(rows))

    def _read_ahead(self, pool: ThreadPoolExecutor, planned: Iterator[_Planned], ahead: deque[_Planned]) -> None:
        """Have all of the next step read, and as much behind it as memory allows."""
        room = self.reading.prefetch_mb * 2**20
        room -= sum(reading.bytes for one in ahead for row in one.rows for reading in row)
        for place in range(len(ahead) + 1):
            while place == len(ahead):
                one = next(planned, None)
                if one is None:
                    return
                ahead.append(one)
            while ahead[place].waiting and (place == 0 or room > 0):
                room -= self._read_row(pool, ahead[place])
            if room <= 0:
                return

    def _read_row(self, pool: ThreadPoolExecutor, planned: _Planned) -> int:
        """Have the next row of a step read; gives the bytes that this takes."""
        if not planned.located:
            self._begin_batch(planned)
        planned.waiting.popleft()
        readings = [self._submit(pool, planned, documents) for documents in _portions(planned.located.popleft())]
        planned.rows.append(readings)
        return sum(reading.bytes for reading in readings)

    def _begin_batch(self, planned: _Planned) -> None:
        for row in itertools.islice(planned.waiting, self.batch.micro):
            planned.located.append([(slot, self.sources[slot.source].locate(slot)) for slot in row.slots])
        tiles = sum(located.tiles for row in planned.located for _, located in row)
        side = self.processor.config.tile
        # Only out of pinned memory does a GPU fetch them while it computes.
        pinned = torch.cuda.is_available()
        planned.pixels.append(torch.empty((tiles, 3, side, side), dtype=torch.uint8, pin_memory=pinned))
        planned.written = 0

    def _submit(self, pool: ThreadPoolExecutor, planned: _Planned, documents: Sequence[_Document]) -> _Reading:
        tiles = sum(located.tiles for _, located in documents)
        into = planned.pixels[-1][planned.written : planned.written + tiles]
        planned.written += tiles
        size = sum(located.tokens for _, located in documents) * _TOKEN_BYTES + into.nbytes
        return _Reading(documents=documents, bytes=size, read=pool.submit(self._read, documents, into))

    def _read(self, documents: Sequence[_Document], into: Tensor) -> list[Example | Fault]:
        """Planned documents, their tiles where they belong; or why one cannot be had."""
        begun = [self._tried(document, self.sources[document[0].source].begin, document[1]) for document in documents]
        places = into.split([located.tiles for _, located in documents])
        read: list[Example | Fault] = []
        for document, found, place in zip(documents, begun, places, strict=True):
            if not isinstance(found, Fault):
                fill = self.sources[document[0].source].preparer.fill
                found = self._tried(document, fill, *found, self.reading.decode, place)
            read.append(found)
        return read

    def _tried(self, document: _Document, work: Callable[..., T], *arguments: Any) -> T | Fault:
        """What comes of work on a document, or why nothing does."""
        thread = threading.get_ident()
        self._running[thread] = (document, time.monotonic())
        try:
            return work(*arguments)
        except BadSample as error:
            return self._fault(document, error.reason, error.detail)
        except ImageError as error:
            return self._fault(document, f"image_{error.reason}", str(error))
        except OSError as error:
            return self._fault(document, "archive_truncated", str(error))
        finally:
            del self._running[thread]

    def _fault(self, document: _Document, reason: str, detail: str) -> Fault:
        slot, located = document
        source = self.sources[slot.source]
        return Fault(source=source.name, id=source.row_id(located), reason=reason, detail=detail)

    def _wait_for(self, reading: _Reading) -> list[Example | Fault]:
        """Documents that are being read; what is slow is named, once."""
        while True:
            try:
                return reading.read.result(timeout=self.reading.slow_seconds)
            except TimeoutError:
                if slow := self._slow():
                    log.warning("waiting for data; being read: %s", ", ".join(slow))
                    return reading.read.result()

    def _slow(self) -> list[str]:
        """Documents that have been read for too long, and for how long."""
        now = time.monotonic()
        return [
            f"{self.sources[slot.source].row_id(located)} ({now - since:.0f} s)"
            for (slot, located), since in list(self._running.values())
            if now - since >= self.reading.slow_seconds
        ]

    def _step(self, planned: _Planned, began: float) -> Step:
        batches: list[Batch] = []
        sources: dict[str, str] = {}
        faults: list[Fault] = []
        tallies = {source.name: Tally() for source in self.sources}
        for number, first in enumerate(range(0, len(planned.rows), self.batch.micro)):
            examples: list[Example] = []
            pixels: Tensor | None = planned.pixels[number]
            readings = [reading for row in planned.rows[first : first + self.batch.micro] for reading in row]
            # the last one first: the others are read by then, and this thread is woken once instead of for each
            read = [found for reading in reversed(readings) for found in reversed(self._wait_for(reading))]
            documents = [document for reading in readings for document in reading.documents]
            for (slot, located), found in zip(documents, reversed(read), strict=True):
                source = self.sources[slot.source]
                if isinstance(found, Fault):
                    faults.append(found)
                    found, pixels = self._filler(found.id, located.tokens), None
                    tallies[source.name].drop(faults[-1].reason)
                else:
                    tallies[source.name].count(found, self.processor.config.tokens_per_tile)
                sources[found.id] = source.name
                examples.append(found)
            if not examples:  # other ranks have one more row than this one
                examples = [self._filler(NOTHING)]
                sources[NOTHING] = self.sources[0].name
            batches.append(pack(examples, self.processor.pad_token_id, pixel_values=pixels))
        return Step(
            number=planned.number,
            batches=tuple(batches),
            sources=sources,
            faults=tuple(faults),
            wait=time.perf_counter() - began,
            tallies=tallies,
            plan=planned.plan,
        )

    def _filler(self, name: str, tokens: int = 1) -> Example:
        """What stands where a document could not be read: as many positions, so that all ranks keep the same plan."""
        side = self.processor.config.tile
        input_ids = torch.full((tokens,), self.processor.pad_token_id)
        return Example(
            id=name,
            input_ids=input_ids,
            labels=torch.full_like(input_ids, IGNORE_INDEX),
            pixel_values=torch.empty((0, 3, side, side), dtype=torch.uint8),
            image_layouts=torch.empty((0, 4), dtype=torch.int64),
        )


def _portions(documents: Sequence[_Document]) -> Iterator[Sequence[_Document]]:
    """A row's documents, parted for threads to take."""
    portion: list[_Document] = []
    tiles = 0
    for document in documents:
        more = document[1].tiles
        if portion and (len(portion) == _AT_ONCE or tiles + more > _AT_ONCE):
            yield portion
            portion, tiles = [], 0
        portion.append(document)
        tiles += more
    if portion:
        yield portion


def _unmet(step: StepPlan, met: set[Slot]) -> StepPlan:
    """A step without the documents that were met before, whatever the epoch; the others are met now."""
    rows = []
    for row in step.rows:
        new = tuple(slot for slot in row.slots if slot._replace(epoch=0) not in met)
        met.update(slot._replace(epoch=0) for slot in new)
        if new:
            rows.append(dataclasses.replace(row, slots=new))
    return dataclasses.replace(step, rows=tuple(rows))

"""The records of some sources, page by page: read, judged, filtered and searched, each only when it is asked for."""

import dataclasses
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from xgenmm.data.adapters import Adapter
from xgenmm.data.adapters.choosing import Asked, pick
from xgenmm.data.files import Place
from xgenmm.data.listing import ListedRows
from xgenmm.data.pictures import INTERLEAVED
from xgenmm.data.prepare import Opened, Preparer, open_row, without
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import Row
from xgenmm.data.source import Source, SourceConfig
from xgenmm.data.view.indexed import IndexedRows
from xgenmm.data.view.reading import Reading, read_sample
from xgenmm.processor.images import ImageError

PAGE = 24
"""Records on a page."""
SECONDS = 3.0
"""How long one page looks for records that fit; then it offers to look on."""
REMEMBERED = 50_000
"""Verdicts that are kept: a record's pictures are decoded to judge it."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which records to show."""

    source: str = ""
    """"" is all of them."""
    status: str = ""
    """ok, quarantine, or "" for both."""
    reason: str = ""
    words: str = ""
    """What must stand in the record's text or id, in any case."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A record, or a damage of a whole file, and what there is to say about it."""

    id: str
    source: str
    number: int
    """In its source."""
    row: Row | None
    """None if there is nothing that could be read."""
    opened: Opened | None = None
    """None if it cannot be used."""
    readings: tuple[Reading, ...] = ()
    variants: int = 1
    reason: str = ""
    detail: str = ""
    """Of the reason; or a remark on a record that can be used."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some records."""

    entries: tuple[Entry, ...]
    following: str | None
    """Where the next page begins; None at the end."""
    looked_at: int


@runtime_checkable
class Rows(Protocol):
    """The rows of a source by number."""

    def has(self, number: int) -> bool:
        """Whether there is a row of this number. Ask before anything else is asked of it."""
        ...

    @property
    def judged(self) -> int:
        """How many rows, from the first on, are known to be unusable; 0 also where nothing is known."""
        ...

    def verdict(self, number: int) -> tuple[str, str]:
        """Reason and detail of one of those."""
        ...

    def row_id(self, number: int) -> str:
        """What a row is called."""
        ...

    def find(self, name: str) -> int | None:
        """The number of a row by its id."""
        ...

    def read(self, number: int) -> Row:
        """A row's contents.

        Raises:
            BadSample, OSError: It cannot be read.
        """
        ...

    def picture_roots(self, number: int) -> tuple[Place, ...]:
        """Folders that a row's picture files must really lie in, links followed."""
        ...


@dataclass(kw_only=True)
class Shelf:
    """One source, opened."""

    config: SourceConfig
    rows: Rows
    adapter: Adapter
    preparer: Preparer | None
    """Makes of rows what a model sees; None where no model is known."""
    knows_all: bool
    """Whether all rows but those that are judged can be used, as far as can be told without decoding."""
    verdicts: OrderedDict[tuple[int, int], tuple[str, str]] = field(default_factory=OrderedDict)


def listed(config: SourceConfig, preparer: Preparer | None = None) -> Shelf:
    """A source without an index."""
    rows = ListedRows(config.name, config.patterns, config.picture_place)
    return Shelf(config=config, rows=rows, adapter=config.bind_adapter(), preparer=preparer, knows_all=False)


def indexed(config: SourceConfig, source: Source) -> Shelf:
    """A source with an index."""
    return Shelf(
        config=config,
        rows=IndexedRows(source),
        adapter=config.bind_adapter(),
        preparer=source.preparer,
        knows_all=True,
    )


class Catalogue:
    """All sources of a recipe, or of files that somebody named."""

    def __init__(self, shelves: Sequence[tuple[str, Callable[[], Shelf]]]) -> None:
        """Open nothing yet.

        Args:
            shelves: Of each source its name, and what opens it when it is first asked for.
        """
        self._openers = dict(shelves)
        self._shelves: dict[str, Shelf] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Of the sources."""
        return list(self._openers)

    def shelf(self, name: str) -> Shelf:
        """A source."""
        with self._lock:
            if name not in self._shelves:
                self._shelves[name] = self._openers[name]()
            return self._shelves[name]

    def page(self, query: Query, start: str = "") -> Page:
        """The records that fit, from a place on.

        Args:
            query: Which records.
            start: "" or what an earlier page gave as `following`.
        """
        names = [name for name in self.names if query.source in ("", name)]
        place, number = _parse_start(start, len(names))
        until, looked_at = time.monotonic() + SECONDS, 0
        found: list[Entry] = []
        while place < len(names):
            name = names[place]
            shelf = self.shelf(name)
            only_judged = query.status == "quarantine" and shelf.knows_all
            while number < shelf.rows.judged if only_judged else shelf.rows.has(number):
                if len(found) == PAGE or (looked_at and time.monotonic() > until):
                    return Page(entries=tuple(found), following=f"{place}.{number}", looked_at=looked_at)
                looked_at += 1
                if (entry := self._fitting(name, number, query)) is not None:
                    found.append(entry)
                number += 1
            place, number = place + 1, 0
        return Page(entries=tuple(found), following=None, looked_at=looked_at)

    def find(self, name: str, at: int = -1, variant: int = 0, source: str = "") -> Entry | None:
        """A record by its id.

        Args:
            name: The id.
            at: Its number in its source, if somebody knows: otherwise the ids are gone through.
            variant: Which of its alternatives to show.
            source: Its source, if somebody knows: stages may read the same source in different ways.
        """
        for owner in [source] if source in self._openers else self.names:
            shelf = self.shelf(owner)
            if not name.startswith(f"{shelf.config.name}/"):
                continue
            known = shelf.rows.has(at) and shelf.rows.row_id(at) == name
            number = at if known else shelf.rows.find(name)
            if number is not None:
                return self.entry(owner, number, variant)
        return None

    def neighbours(self, entry: Entry) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """Id and number of the records before and behind one."""
        rows = self.shelf(entry.source).rows
        before, behind = entry.number - 1, entry.number + 1
        return (
            (rows.row_id(before), before) if before >= 0 else None,
            (rows.row_id(behind), behind) if rows.has(behind) else None,
        )

    def entry(self, source: str, number: int, variant: int = 0) -> Entry:
        """A record, read and judged; its pictures have been decoded once."""
        shelf = self.shelf(source)
        name = shelf.rows.row_id(number)
        refused = shelf.rows.verdict(number) if number < shelf.rows.judged else ("", "")
        try:
            row = shelf.rows.read(number)
        except BadSample as error:
            refused = refused if refused[0] else (error.reason, error.detail)
            return Entry(id=name, source=source, number=number, row=None, reason=refused[0], detail=refused[1])
        except OSError as error:
            return Entry(id=name, source=source, number=number, row=None, reason="archive_truncated", detail=str(error))
        if refused[0]:
            return Entry(id=name, source=source, number=number, row=row, reason=refused[0], detail=refused[1])
        asked = Asked()
        try:
            opened = self._open(shelf, number, row, asked, variant)
        except BadSample as error:
            return Entry(id=name, source=source, number=number, row=row, reason=error.reason, detail=error.detail)
        return Entry(
            id=name,
            source=source,
            number=number,
            row=row,
            opened=opened,
            readings=tuple(map(read_sample, opened.samples)),
            variants=max(asked.count, 1),
            detail=opened.remark,
        )

    def _open(self, shelf: Shelf, number: int, row: Row, asked: Asked, variant: int) -> Opened:
        """A row with its damaged pictures found.

        Raises:
            BadSample: It cannot be used.
        """
        known = shelf.verdicts.get((number, variant))
        if known and known[0]:
            raise BadSample(*known)
        try:
            roots = shelf.rows.picture_roots(number)
            opened = open_row(shelf.config.adapter, shelf.adapter, row, asked, roots)
            if variant and variant < asked.count:
                opened = open_row(shelf.config.adapter, shelf.adapter, row, pick(variant), roots)
            if known is None:
                opened = _verified(opened, shelf.config.adapter)
        except BadSample as error:
            self._remember(shelf, number, variant, (error.reason, error.detail))
            raise
        if not opened.remark:
            self._remember(shelf, number, variant, ("", ""))
        return opened

    def _remember(self, shelf: Shelf, number: int, variant: int, verdict: tuple[str, str]) -> None:
        shelf.verdicts[number, variant] = verdict
        while len(shelf.verdicts) > REMEMBERED:
            shelf.verdicts.popitem(last=False)

    def _fitting(self, source: str, number: int, query: Query) -> Entry | None:
        entry = self.entry(source, number)
        if query.status and query.status != ("quarantine" if entry.reason else "ok"):
            return None
        if query.reason and query.reason != entry.reason:
            return None
        if query.words:
            text = "\n".join([entry.id, *(text for reading in entry.readings for text in reading.texts)])
            if query.words.casefold() not in text.casefold():
                return None
        return entry


def _verified(opened: Opened, adapter: str) -> Opened:
    """A row whose pictures have all been decoded. Out of documents, damaged ones fall alone.

    Raises:
        BadSample: A picture is damaged, and the row cannot do without.
    """
    damaged: dict = {}
    for picture, file in opened.files.items():
        try:
            file.verify()
        except ImageError as error:
            damaged[picture] = error
    if not damaged:
        return opened
    first = next(iter(damaged.values()))
    if adapter not in INTERLEAVED or len(damaged) == len(opened.files):
        raise BadSample(f"image_{first.reason}", str(first))
    remark = "; ".join(filter(None, [opened.remark, f"{len(damaged)} damaged pictures fall out: {first}"]))
    kept = tuple(without(sample, damaged.keys()) for sample in opened.samples)
    return dataclasses.replace(opened, samples=kept, remark=remark)


def _parse_start(start: str, sources: int) -> tuple[int, int]:
    place, _, number = start.partition(".")
    if place.isdigit() and number.isdigit() and int(place) < sources:
        return int(place), int(number)
    return 0, 0

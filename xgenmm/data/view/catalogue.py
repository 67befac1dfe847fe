"""The records of some sources, page by page: read, judged, filtered and searched, each only when it is asked for."""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xgenmm.data.adapters import Adapter
from xgenmm.data.adapters.choosing import Asked, pick
from xgenmm.data.listing import Listing
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import PICTURE_SUFFIXES, Row
from xgenmm.data.scan import judge
from xgenmm.data.source import SourceConfig
from xgenmm.data.view.reading import Reading, read_sample
from xgenmm.types import Sample

PAGE = 24
"""Records on a page."""
SECONDS = 3.0
"""How long one page looks for records that fit; then it offers to look on."""
REMEMBERED = 50_000
"""Verdicts that are kept: a record's pictures are decoded to judge it."""
HEAD = 128
"""Bytes of a quarantined record that are shown."""


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
    samples: tuple[Sample, ...] = ()
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


@dataclass(kw_only=True)
class Shelf:
    """One source, opened."""

    config: SourceConfig
    reader: Listing
    adapter: Adapter
    verdicts: OrderedDict[int, tuple[str, str]] = field(default_factory=OrderedDict)

    @property
    def length(self) -> int:
        """Records and damages."""
        return len(self.reader.faults) + len(self.reader)


class Catalogue:
    """All sources of a recipe, or of files that somebody named."""

    def __init__(self, sources: Sequence[SourceConfig]) -> None:
        self._sources = {source.name: source for source in sources}
        self._shelves: dict[str, Shelf] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Of the sources."""
        return list(self._sources)

    def shelf(self, name: str) -> Shelf:
        """A source, opened when it is first asked for."""
        with self._lock:
            if name not in self._shelves:
                config = self._sources[name]
                images = Path(config.images) if config.images else None
                reader = Listing(config.name, config.patterns, images)
                self._shelves[name] = Shelf(config=config, reader=reader, adapter=config.bind_adapter())
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
            shelf = self.shelf(names[place])
            while number < shelf.length:
                if len(found) == PAGE or (looked_at and time.monotonic() > until):
                    return Page(entries=tuple(found), following=f"{place}.{number}", looked_at=looked_at)
                looked_at += 1
                if (entry := self._fitting(shelf, number, query)) is not None:
                    found.append(entry)
                number += 1
            place, number = place + 1, 0
        return Page(entries=tuple(found), following=None, looked_at=looked_at)

    def find(self, name: str, at: int = -1, variant: int = 0) -> Entry | None:
        """A record by its id.

        Args:
            name: The id.
            at: Its number in its source, if somebody knows: otherwise the ids are gone through.
            variant: Which of its alternatives to show.
        """
        for source in sorted(self.names, key=len, reverse=True):
            if name.startswith(f"{source}/"):
                shelf = self.shelf(source)
                for number in [at, *range(shelf.length)]:
                    if 0 <= number < shelf.length and self._id(shelf, number) == name:
                        return self.entry(shelf, number, variant)
        return None

    def neighbours(self, entry: Entry) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """Id and number of the records before and behind one."""
        shelf = self.shelf(entry.source)
        before, behind = entry.number - 1, entry.number + 1
        return (
            (self._id(shelf, before), before) if before >= 0 else None,
            (self._id(shelf, behind), behind) if behind < shelf.length else None,
        )

    def entry(self, shelf: Shelf, number: int, variant: int = 0) -> Entry:
        """A record, read and judged; its pictures have been decoded once."""
        source = shelf.config.name
        faults = shelf.reader.faults
        if number < len(faults):
            fault = faults[number]
            return Entry(id=fault.id, source=source, number=number, row=None, reason=fault.reason, detail=fault.detail)
        name = shelf.reader.row_id(number - len(faults))
        try:
            row = shelf.reader.read(number - len(faults))
        except BadSample as error:
            return Entry(id=name, source=source, number=number, row=None, reason=error.reason, detail=error.detail)
        reason, detail = self._verdict(shelf, number, row)
        if reason:
            return Entry(id=name, source=source, number=number, row=row, reason=reason, detail=detail)
        asked = Asked()
        found = shelf.adapter(row, asked)
        if variant and variant < asked.count:
            found = shelf.adapter(row, pick(variant))
        samples = found if isinstance(found, tuple) else (found,)
        readings = tuple(map(read_sample, samples))
        return Entry(
            id=name,
            source=source,
            number=number,
            row=row,
            samples=samples,
            readings=readings,
            variants=max(asked.count, 1),
            detail=detail,
        )

    def _id(self, shelf: Shelf, number: int) -> str:
        faults = shelf.reader.faults
        return faults[number].id if number < len(faults) else shelf.reader.row_id(number - len(faults))

    def _fitting(self, shelf: Shelf, number: int, query: Query) -> Entry | None:
        entry = self.entry(shelf, number)
        if query.status and query.status != ("quarantine" if entry.reason else "ok"):
            return None
        if query.reason and query.reason != entry.reason:
            return None
        if query.words:
            text = "\n".join([entry.id, *(text for reading in entry.readings for text in reading.texts)])
            if query.words.casefold() not in text.casefold():
                return None
        return entry

    def _verdict(self, shelf: Shelf, number: int, row: Row) -> tuple[str, str]:
        if number not in shelf.verdicts:
            shelf.verdicts[number] = judge(row, shelf.config.adapter)
            if len(shelf.verdicts) > REMEMBERED:
                shelf.verdicts.popitem(last=False)
        return shelf.verdicts[number]


def head_of(row: Row, reason: str) -> bytes:
    """The first bytes of what a record was refused for: of its picture, or of what it says."""
    pictures = [content for name, content in row.fields.items() if name in PICTURE_SUFFIXES]
    others = [content for name, content in row.fields.items() if name not in PICTURE_SUFFIXES]
    for content in pictures + others if reason.startswith("image_") else others + pictures:
        if isinstance(content, Path) and content.is_file():
            with content.open("rb") as file:
                return file.read(HEAD)
        if isinstance(content, bytes):
            return content[:HEAD]
    return repr(dict(row.fields)).encode()[:HEAD]


def _parse_start(start: str, sources: int) -> tuple[int, int]:
    place, _, number = start.partition(".")
    if place.isdigit() and number.isdigit() and int(place) < sources:
        return int(place), int(number)
    return 0, 0

"""`xgenmm data scan`: what is in these files, and what of it cannot be used. Nothing is changed, nothing is fetched.

One JSON line per record and per damaged file: {path, kind: record | shard, key, status: ok | quarantine, reason,
detail}, and for a damaged file `lost`, the number of records that it cost, where that can be counted. Reasons are those
that training counts (docs/data.md). The report does not depend on the number of workers.
"""

import itertools
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from xgenmm.config import ConfigError
from xgenmm.data.adapters import ADAPTERS
from xgenmm.data.adapters.choosing import pick
from xgenmm.data.corpus import ARCHIVE, TABLES, Corpus, PictureFolder, Unopened, look_through
from xgenmm.data.files import Place
from xgenmm.data.pictures import INTERLEAVED, MAX_PIXELS, look_at, pictures_of
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import PICTURE_SUFFIXES, Row
from xgenmm.data.records import Damage, Record, Shard
from xgenmm.data.schemas import AUTO, LOOKED_AT, adapter_name, schema_of_name, schema_of_rows
from xgenmm.data.shards import open_shards
from xgenmm.processor.images import check_image
from xgenmm.progress import progress
from xgenmm.types import Picture

log = logging.getLogger(__name__)

OK, QUARANTINE = "ok", "quarantine"
Unit = Path | Unopened | PictureFolder
"""What is scanned at a time: a shard or table; a file that is none; some pictures of a folder."""
_AT_ONCE = 1000
_UNREADABLE = {".parquet": "parquet_corrupt", ARCHIVE: "archive_corrupt"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    path: str
    kind: str
    """record or shard."""
    key: str
    status: str
    reason: str = ""
    detail: str = ""
    lost: int | None = None

    def line(self) -> str:
        """As JSON, with `lost` only where it is known."""
        fields = {name: getattr(self, name) for name in ("path", "kind", "key", "status", "reason", "detail")}
        if self.lost is not None:
            fields["lost"] = self.lost
        return json.dumps(fields, ensure_ascii=True) + "\n"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a scan found, in numbers."""

    files: int
    records: int
    quarantined: int
    shards: int
    """Damaged files."""
    reasons: dict[str, int]
    """Quarantined records and damaged files by reason, the most frequent first."""
    others: dict[str, int]
    """Files that are not named like data and were not opened, by suffix."""

    def text(self) -> str:
        """For the terminal."""
        lines = [
            f"{self.files} files, {self.records} records: {self.records - self.quarantined} good, {self.quarantined} "
            f"quarantined; {self.shards} damages of whole files"
        ]
        lines += [f"  {number:>8}  {reason}" for reason, number in self.reasons.items()]
        if self.others:
            lines.append(f"not opened: {', '.join(f'{number} {name}' for name, number in self.others.items())}")
        return "\n".join(lines)


def scan(
    path: Path, output: Path, *, schema: str = AUTO, workers: int | None = None, images: Path | None = None
) -> Summary:
    """Look at every record of a file or of all files of a folder, pictures included, and write the report.

    Args:
        path: A file or a folder.
        output: The report; beside it parts are kept while the scan runs.
        schema: An adapter or a data set's name for all files; `auto` decides for each file.
        workers: Processes; by default one per core, at most four.
        images: Where picture names of tables start, and where fetched pictures lie; by default beside the file.

    Raises:
        ConfigError: There is no such path or schema, or nothing to read in it.
    """
    if schema != AUTO:
        adapter_name(schema)
    parts = output.with_name(f"{output.name}.parts")
    corpus = look_through(path, leave_out=[output])
    if not corpus.size:
        raise ConfigError(f"{path}: no file that can be read ({', '.join([ARCHIVE, *TABLES])}, or pictures)")
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    count = workers or min(4, os.cpu_count() or 1)
    try:
        units = _units(corpus)
        work = partial(_scan_into, schema=schema, images=images)
        targets = [parts / f"{number}.jsonl" for number in range(len(units))]
        with progress("scan", len(units), "files") as advance:
            for _ in _each(work, units, targets, count):
                advance(1)
        return _join(targets, output, corpus)
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def _each(work: Callable[[Unit, Path], None], units: Sequence[Unit], targets: Sequence[Path], count: int) -> Iterator:
    if count == 1 or len(units) == 1:
        yield from map(work, units, targets)
        return
    with ProcessPoolExecutor(min(count, len(units)), mp_context=get_context("fork")) as pool:
        yield from pool.map(work, units, targets)


def scan_corpus(corpus: Corpus, schema: str = AUTO, images: Path | None = None) -> Iterator[Finding]:
    """The findings of all its files, one after another; see `scan`."""
    for unit in _units(corpus):
        yield from _scan_unit(unit, schema, images)


def _units(corpus: Corpus) -> list[Unit]:
    """What is scanned by one process: a file, a file that cannot be opened, or a part of a folder of pictures."""
    units: list[Unit] = [*corpus.files, *corpus.unopened]
    for folder in corpus.folders:
        stems = sorted(folder.records)
        for first in range(0, len(stems), _AT_ONCE):
            part = {stem: folder.records[stem] for stem in stems[first : first + _AT_ONCE]}
            units.append(replace(folder, records=part))
    return sorted(units, key=_first_path)


def _first_path(unit: Unit) -> str:
    if isinstance(unit, PictureFolder):
        return str(unit.place / next(iter(unit.records)))
    return str(unit if isinstance(unit, Path) else unit.place)


def _scan_unit(unit: Unit, schema: str, images: Path | None) -> Iterator[Finding]:
    if isinstance(unit, PictureFolder):
        yield from _scan_pictures(unit, schema)
        return
    if isinstance(unit, Unopened):
        yield _damage(str(unit.place), unit.damage)
        return
    try:
        (shard,) = open_shards(str(unit), [str(unit)], images)
        scan_shard = _scan_tar if unit.suffix.lower() == ARCHIVE else _scan_table
        yield from scan_shard(unit, shard, schema)
    except OSError as error:
        reason = _UNREADABLE.get(unit.suffix.lower(), "json_invalid")
        yield _damage(str(unit), Damage(reason=reason, detail=f"cannot be read: {error.strerror or error}"))


def judge(row: Row, adapter: str, *, roots: Sequence[Place] = ()) -> tuple[str, str]:
    """Reason and detail if a record cannot be used, else an empty reason and a remark.

    Args:
        row: The record.
        adapter: A key of `ADAPTERS`.
        roots: Folders that its picture files must really lie in, links followed.
    """
    try:
        found = ADAPTERS[adapter](row, pick(0))
        samples = found if isinstance(found, tuple) else (found,)
        pictures = [picture for sample in samples for picture in pictures_of(sample)]
        return _judge_pictures(pictures, adapter, roots)
    except BadSample as error:
        return error.reason, error.detail
    except RecursionError:
        return "json_invalid", "nested too deeply"


def _judge_pictures(pictures: Sequence[Picture], adapter: str, roots: Sequence[Place]) -> tuple[str, str]:
    looked = look_at(pictures, adapter, lambda picture: check_image(picture, MAX_PIXELS), roots)
    faults = list(looked.failed.values())
    if adapter in INTERLEAVED:
        if looked.looked_at and len(faults) == looked.looked_at and not looked.absent:
            return "all_images_failed", "; ".join(fault.detail for fault in faults)
        return "", f"{len(faults)} of {looked.looked_at} pictures fall out: {faults[0].detail}" if faults else ""
    if faults:
        return faults[0].reason, faults[0].detail
    return "", f"{len(looked.absent)} pictures are not fetched" if looked.absent else ""


# ---- kinds of files ----


def _scan_tar(path: Path, shard: Shard, schema: str) -> Iterator[Finding]:
    name, told = str(path), set()
    named = adapter_name(schema, in_tar=True) if schema != AUTO else None
    for item in shard.walk():
        if isinstance(item, Damage):
            yield _damage(name, item)
        elif item.fields is not None:
            adapter = named or ("mint" if is_document(item.fields, path) else "caption_pairs")
            row = Row(id=item.key, fields=item.fields, root=path.parent)
            yield _record(name, item.key, *judge(row, adapter))
        elif (item.key, item.reason) not in told:
            told.add((item.key, item.reason))
            yield _record(name, item.key, item.reason, item.detail)


def is_document(fields: dict[str, Any], path: Path) -> bool:
    """Whether a tar's sample is an interleaved document, not a captioned picture."""
    content = fields.get("json", b"")
    if b'"texts"' in content and b'"images"' in content:
        return True
    tiff = "tiff" in fields or ("tif" in fields and "txt" not in fields)
    return tiff and "txt" not in fields and (schema_of_name(path) == "interleaved_rows" or "json" in fields)


def _scan_table(path: Path, shard: Shard, schema: str) -> Iterator[Finding]:
    name = str(path)
    items = shard.walk()
    first = list(itertools.islice(items, LOOKED_AT))
    rows = [item.fields for item in first if isinstance(item, Record)]
    adapter = schema_of_rows(rows, path) if schema == AUTO else adapter_name(schema, in_tar=False)
    for item in itertools.chain(first, items):
        if isinstance(item, Damage):
            yield _damage(name, item)
        elif item.fields is None:
            yield _record(name, item.key, item.reason, item.detail)
        else:
            row = Row(id=item.key, fields=item.fields, root=shard.root(item.key))
            yield _record(name, item.key, *judge(row, adapter, roots=shard.picture_roots()))


def _scan_pictures(folder: PictureFolder, schema: str) -> Iterator[Finding]:
    """Pictures with what lies beside them; a picture that nobody expects a text of has only its pixels to be judged."""
    captions = schema != AUTO and adapter_name(schema, in_tar=True) == "caption_pairs"
    for stem, files in folder.records.items():
        key = stem.partition(".")[0] or stem
        pictures = [files[suffix] for suffix in PICTURE_SUFFIXES if suffix in files]
        if folder.is_captioned or captions:
            name = str(pictures[0] if pictures else next(iter(files.values())))
            yield _record(name, key, *judge(Row(id=key, fields=files, root=folder.place), "caption_pairs"))
            continue
        for path in pictures:
            picture = Picture(source=path, name=str(path))
            yield _record(str(path), key, *_judge_pictures([picture], "caption_pairs", ()))


def _damage(path: str, damage: Damage) -> Finding:
    return Finding(
        path=path,
        kind="shard",
        key="",
        status=QUARANTINE,
        reason=damage.reason,
        detail=_short(damage.detail),
        lost=damage.lost,
    )


def _record(path: str, key: str, reason: str, detail: str) -> Finding:
    status = QUARANTINE if reason else OK
    return Finding(path=path, kind="record", key=key, status=status, reason=reason, detail=_short(detail))


def _short(detail: object) -> str:
    text = " ".join(str(detail).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


# ---- parts of the report ----


def _scan_into(unit: Unit, target: Path, *, schema: str, images: Path | None) -> None:
    with target.open("w", encoding="utf-8") as file:
        file.writelines(finding.line() for finding in _scan_unit(unit, schema, images))


def _join(parts: Iterable[Path], output: Path, corpus: Corpus) -> Summary:
    """Put the parts together in the order of the files; the report is whole or not there."""
    records = quarantined = shards = 0
    reasons: Counter[str] = Counter()
    scratch = output.with_name(f"{output.name}.tmp")
    with scratch.open("w", encoding="utf-8") as report:
        for part in parts:
            with part.open(encoding="utf-8") as lines:
                for line in lines:
                    report.write(line)
                    finding = json.loads(line)
                    if finding["kind"] == "shard":
                        shards += 1
                    else:
                        records += 1
                        quarantined += finding["status"] == QUARANTINE
                    if finding["reason"]:
                        reasons[finding["reason"]] += 1
    scratch.replace(output)
    ordered = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    return Summary(
        files=corpus.size,
        records=records,
        quarantined=quarantined,
        shards=shards,
        reasons=ordered,
        others=dict(sorted(corpus.others.items())),
    )

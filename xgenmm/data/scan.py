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
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from xgenmm.config import ConfigError
from xgenmm.data.adapters import ADAPTERS
from xgenmm.data.adapters.choosing import pick
from xgenmm.data.pictures import INTERLEAVED, MAX_PIXELS, look_at, pictures_of
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import PICTURE_SUFFIXES, Row
from xgenmm.data.schemas import AUTO, LOOKED_AT, adapter_name, schema_of_name, schema_of_rows
from xgenmm.data.shards import SHARDS, Damage, Record, Shard, open_shards
from xgenmm.processor.images import check_image
from xgenmm.progress import progress
from xgenmm.types import Picture

log = logging.getLogger(__name__)

TABLES = (".json", ".jsonl", ".ndjson", ".parquet", ".tsv")
OK, QUARANTINE = "ok", "quarantine"


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

    def text(self) -> str:
        """For the terminal."""
        lines = [
            f"{self.files} files, {self.records} records: {self.records - self.quarantined} good, {self.quarantined} "
            f"quarantined; {self.shards} damages of whole files"
        ]
        return "\n".join(lines + [f"  {number:>8}  {reason}" for reason, number in self.reasons.items()])


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
    files = find_data(path)
    if not files:
        raise ConfigError(f"{path}: no file that can be read ({', '.join(['.tar', *TABLES])}, or pictures)")
    output.parent.mkdir(parents=True, exist_ok=True)
    parts = output.with_name(f"{output.name}.parts")
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    count = workers or min(4, os.cpu_count() or 1)
    try:
        work = partial(_scan_into, schema=schema, images=images)
        targets = [parts / f"{number}.jsonl" for number in range(len(files))]
        with progress("scan", len(files), "files") as advance:
            for _ in _each(work, files, targets, count):
                advance(1)
        return _join(targets, output, len(files))
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def _each(work: Callable[[Path, Path], None], files: Sequence[Path], targets: Sequence[Path], count: int) -> Iterator:
    if count == 1 or len(files) == 1:
        yield from map(work, files, targets)
        return
    with ProcessPoolExecutor(min(count, len(files)), mp_context=get_context("fork")) as pool:
        yield from pool.map(work, files, targets)


def find_data(path: Path) -> list[Path]:
    """The data files under a path, in order: shards and tables; pictures where they are data of their own.

    A picture is a record of its own where a text lies beside it, or where no table is in the tree that may name it.

    Raises:
        ConfigError: There is no such path.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or folder")
    found = sorted(one for one in path.rglob("*") if one.is_file() and not one.name.startswith("."))
    pictures = [one for one in found if one.suffix[1:].lower() in PICTURE_SUFFIXES]
    stems = {one.with_suffix("") for one in pictures}
    tables = [one for one in found if one.suffix.lower() in TABLES and one.with_suffix("") not in stems]
    tables = [one for one in tables if not _tells_of_a_shard(one)]
    described = {one.with_suffix("") for one in found if one.suffix.lower() in (".txt", ".json")}
    shards = [one for one in found if one.suffix.lower() == ".tar"]
    alone = [one for one in pictures if one.with_suffix("") in described or not (tables or shards)]
    return sorted([*tables, *shards, *alone])


def _tells_of_a_shard(table: Path) -> bool:
    """Whether a table is what img2dataset notes about a shard of digits: its samples are in the shard."""
    number = table.stem.removesuffix("_stats")
    if not number.isdigit():
        return False
    shards = [table.with_name(f"{number}.tar"), table.with_name(number)]
    if table.stem != number:
        shards.append(table.with_name(f"{number}.parquet"))
    return any(shard.exists() for shard in shards)


def scan_file(path: Path, schema: str = AUTO, images: Path | None = None) -> Iterator[Finding]:
    """The findings of one file, in its own order; see `scan`."""
    if path.suffix.lower() not in SHARDS:
        return _scan_picture(path)
    (shard,) = open_shards(str(path), [str(path)], images)
    return _scan_tar(path, shard, schema) if path.suffix.lower() == ".tar" else _scan_table(path, shard, schema, images)


def judge(row: Row, adapter: str, *, roots: Sequence[Path] = ()) -> tuple[str, str]:
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


def _judge_pictures(pictures: Sequence[Picture], adapter: str, roots: Sequence[Path]) -> tuple[str, str]:
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
    fallback = adapter_name(schema) if schema != AUTO else None
    for item in shard.walk():
        if isinstance(item, Damage):
            yield _damage(name, item)
        elif item.fields is not None:
            adapter = fallback or ("mint" if is_document(item.fields, path) else "caption_pairs")
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


def _scan_table(path: Path, shard: Shard, schema: str, images: Path | None) -> Iterator[Finding]:
    name, root = str(path), images or path.parent
    items = shard.walk()
    first = list(itertools.islice(items, LOOKED_AT))
    rows = [item.fields for item in first if isinstance(item, Record)]
    adapter = schema_of_rows(rows, path) if schema == AUTO else adapter_name(schema)
    for item in itertools.chain(first, items):
        if isinstance(item, Damage):
            yield _damage(name, item)
        elif item.fields is None:
            yield _record(name, item.key, item.reason, item.detail)
        else:
            row = Row(id=item.key, fields=item.fields, root=root)
            yield _record(name, item.key, *judge(row, adapter, roots=(root,)))


def _scan_picture(path: Path) -> Iterator[Finding]:
    """A picture file with what lies beside it; a picture alone has only its pixels to be judged."""
    beside = {one.suffix[1:].lower(): one for one in path.parent.glob(f"{_escaped(path.stem)}.*") if one.is_file()}
    key = path.name.partition(".")[0] or path.name
    own = {name: one for name, one in beside.items() if name in ("txt", "json")}
    if own:
        fields = {path.suffix[1:].lower(): path, **own}
        yield _record(str(path), key, *judge(Row(id=key, fields=fields, root=path.parent), "caption_pairs"))
        return
    yield _record(str(path), key, *_judge_pictures([Picture(source=path, name=str(path))], "caption_pairs", ()))


def _escaped(stem: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in stem)


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


def _scan_into(path: Path, target: Path, *, schema: str, images: Path | None) -> None:
    with target.open("w", encoding="utf-8") as file:
        file.writelines(finding.line() for finding in scan_file(path, schema, images))


def _join(parts: Iterable[Path], output: Path, files: int) -> Summary:
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
    return Summary(files=files, records=records, quarantined=quarantined, shards=shards, reasons=ordered)

"""One pass over each shard: where every record lies, how long it is, and what of it cannot be used. Decodes no picture.

A shard's index is a parquet file in a cache folder, never beside the data. It carries the shard's size, time and
digest, so that a changed shard is noticed and never read at old places. It is the first quarantine, too.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from xgenmm.config import decode
from xgenmm.data.adapters.choosing import Asked, pick
from xgenmm.data.files import Remote, Stamp, open_binary
from xgenmm.data.prepare import Excerpt, Limits, Opened, Preparer
from xgenmm.data.quarantine import BadSample, DataError
from xgenmm.data.readers import Row
from xgenmm.data.records import Damage, Record, Shard
from xgenmm.data.shards import FolderShard
from xgenmm.processor.outline import Outline
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.progress import progress

log = logging.getLogger(__name__)

INDEX_VERSION = 1
"""Raised with every change of what an index holds."""
OK, QUARANTINE = "ok", "quarantine"
WHOLE = (0, 0, 0, 0, 0, 0)
"""The excerpt of a document that is all of its row."""
ALONE_BYTES = 32 << 20
"""So little is indexed here and now, without other processes."""
_WRITTEN_AT_ONCE = 2000
_READ_AT_ONCE = 16 << 20

_PIECE = pa.struct(
    {
        "text": pa.int32(),
        "vision": pa.int32(),
        "loss": pa.int32(),
        "tiles": pa.int32(),
        "excerpt": pa.list_(pa.int32(), 6),
    }
)
SCHEMA = pa.schema(
    {
        "kind": pa.string(),
        "key": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "lost": pa.int64(),
        "members": pa.list_(pa.struct({"name": pa.string(), "offset": pa.int64(), "size": pa.int64()})),
        "pictures": pa.list_(
            pa.struct({"digest": pa.string(), "width": pa.int32(), "height": pa.int32(), "mode": pa.string()})
        ),
        "num_pictures": pa.int32(),
        "variants": pa.list_(pa.struct({"choice": pa.int32(), "pieces": pa.list_(_PIECE)})),
    }
)
"""A row per record (kind "record") and per damage of the whole file (kind "shard").

Variants are what the row offers to choose from (twelve captions), those that can be used: `choice` is the adapter's
number of it. Pieces are its documents in packed rows, several where it is longer than one. An excerpt is the first and
the behind-last sample, and a window (`data.cutting.Window`); six zeros are the whole row.
"""


class Setting(NamedTuple):
    """All that lengths depend on beside a shard, and its digest: an index of other settings is another index."""

    values: dict[str, Any]
    digest: str


def settings_of(
    adapter: str, options: Mapping[str, Any], processor: XGenMMProcessor, limits: Limits, images: str | None
) -> Setting:
    """What an index made with these depends on."""
    config = {name: value for name, value in processor.to_dict().items() if name not in ("mean", "std")}
    values = {
        "version": INDEX_VERSION,
        "adapter": adapter,
        "options": dict(options),
        "images": images,
        "processor": config,
        "tokenizer": tokenizer_digest(processor),
        "limits": asdict(limits),
    }
    return Setting(values, digest_of_text(json.dumps(values, sort_keys=True, default=str)))


def tokenizer_digest(processor: XGenMMProcessor) -> str:
    """Of everything that decides a text's token ids."""
    backend = getattr(processor.tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(processor.tokenizer.get_vocab(), sort_keys=True)
    return digest_of_text(text)


def digest_of_text(text: str) -> str:
    """A short name for a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def index_path(folder: Path, setting: Setting, shard: Shard) -> Path:
    """Where the index of a shard lies."""
    place = shard.place
    where = str(place) if isinstance(place, Remote) else os.path.abspath(place)
    return folder / setting.digest / f"{place.name}-{digest_of_text(where)}.parquet"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What an index says of the shard that it was made from."""

    place: str
    stamp: Stamp
    digest: str
    """Of the shard's bytes."""
    lengths: str
    """Of the lengths that were found: two indexes with equal ones plan alike."""
    records: int
    quarantined: int
    missing: int
    """Records that lack a picture file; more of them may be usable once it is there."""


def read_origin(path: Path) -> Origin | None:
    """What an index was made from; None if there is no (whole) index."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return decode(Origin, json.loads(metadata[b"xgenmm"]), str(path))


def is_current(origin: Origin, shard: Shard) -> bool:
    """Whether the shard is still what it was: by size and time, and where only the time differs, by its bytes."""
    stamp = shard.stamp()
    if stamp == origin.stamp:
        return True
    return stamp.size == origin.stamp.size and digest_of(shard) == origin.digest


def digest_of(shard: Shard) -> str:
    """Of a shard's bytes; of a remote one its store's own mark, where it has one; of a folder, names, sizes, times."""
    stamp = shard.stamp()
    if isinstance(shard, FolderShard) or (isinstance(shard.place, Remote) and stamp.version):
        return f"{stamp.size}:{stamp.version}"
    digest = xxhash.xxh3_128()
    with open_binary(shard.place) as file:
        while content := file.read(_READ_AT_ONCE):
            digest.update(content)
    return digest.hexdigest()


def make_indexes(
    shards: Sequence[Shard],
    paths: Sequence[Path],
    setting: Setting,
    preparer: Preparer,
    *,
    name: str,
    workers: int | None = None,
) -> None:
    """Index shards, several at a time. Another process that does the same at the same time shares the work.

    Args:
        shards: What to index.
        paths: Where each one's index goes; what is there is replaced.
        setting: What the indexes depend on.
        preparer: Measures rows.
        name: What the progress bar calls it.
        workers: Processes; by default one per core. Little is indexed without any.
    """
    if not shards:
        return
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    count = min(workers or os.cpu_count() or 1, len(shards))
    alone = count == 1 or sum(shard.stamp().size for shard in shards) < ALONE_BYTES
    begun = [read_origin(path) for path in paths]
    jobs = list(zip(shards, paths, begun, strict=True))
    with progress(f"index {name}", len(jobs), "shards") as advance:
        for wait in (False, True):  # first what nobody else is at, then what others have not done
            if alone:
                done = [_index_once(job, setting, preparer, wait, advance) for job in jobs]
            else:
                with ProcessPoolExecutor(
                    count, mp_context=get_context("fork"), initializer=_begin, initargs=(setting, preparer)
                ) as pool:
                    done = []
                    for one in pool.map(_index_in_process, jobs, [wait] * len(jobs)):
                        advance(int(one))
                        done.append(one)
            jobs = [job for job, one in zip(jobs, done, strict=True) if not one]
            if not jobs:
                return


_Job = tuple[Shard, Path, Origin | None]
_in_process: dict[str, Any] = {}


def _begin(setting: Setting, preparer: Preparer) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _in_process.update(setting=setting, preparer=preparer)


def _index_in_process(job: _Job, wait: bool) -> bool:
    return _index_once(job, _in_process["setting"], _in_process["preparer"], wait, lambda _: None)


def _index_once(job: _Job, setting: Setting, preparer: Preparer, wait: bool, advance: Any) -> bool:
    """Index a shard, unless another process did it in the meantime. False: another one is at it."""
    shard, path, begun = job
    with _locked(path.with_suffix(".lock"), wait) as mine:
        if not mine:
            return False
        if read_origin(path) == begun:
            write_index(shard, path, setting, preparer)
    advance(1)
    return True


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def write_index(shard: Shard, path: Path, setting: Setting, preparer: Preparer) -> None:
    """Index one shard. The file is whole or not there.

    Raises:
        DataError: The shard changed meanwhile.
    """
    stamp, digest = shard.stamp(), digest_of(shard)
    lengths = xxhash.xxh3_64()
    records = quarantined = missing = 0
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with pq.ParquetWriter(scratch, SCHEMA, compression="zstd") as writer:
            for rows in _batches(measured(shard, preparer)):
                for row in rows:
                    records += row["kind"] == "record"
                    quarantined += row["kind"] == "record" and row["status"] == QUARANTINE
                    missing += row["reason"] == "image_missing"
                    lengths.update(repr((row["key"], row["variants"])).encode())
                writer.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
            origin = Origin(
                place=str(shard.place),
                stamp=stamp,
                digest=digest,
                lengths=lengths.hexdigest(),
                records=records,
                quarantined=quarantined,
                missing=missing,
            )
            settings = json.dumps(setting.values, default=str)
            writer.add_key_value_metadata({"xgenmm": json.dumps(asdict(origin)), "settings": settings})
        if shard.stamp() != stamp:
            raise DataError(f"{shard.place} changed while it was indexed")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _WRITTEN_AT_ONCE:
            yield batch
            batch = []
    yield batch


def measured(shard: Shard, preparer: Preparer) -> Iterator[dict[str, Any]]:
    """The rows of a shard's index."""
    told = set()
    for item in shard.walk():
        if isinstance(item, Damage):
            yield _line("shard", "", item.reason, item.detail, lost=item.lost)
        elif item.fields is None:
            if (item.key, item.reason) not in told:
                told.add((item.key, item.reason))
                yield _line("record", item.key, item.reason, item.detail)
        else:
            yield _measure(shard, item, preparer)


def _measure(shard: Shard, record: Record, preparer: Preparer) -> dict[str, Any]:
    """All variants of a record; it can be used if one of them can."""
    row = Row(id=record.key, fields=record.fields or {}, root=shard.root(record.key))
    asked, variants, remarks = Asked(), [], []
    opened: Opened | None = None
    fault: BadSample | None = None
    number = 0
    while number < max(asked.count, 1):
        try:
            opened = preparer.open(row, asked if number == 0 else pick(number), shard.picture_roots())
            pieces = [
                _piece(outline, excerpt_code(excerpt, opened), preparer.tokens_per_tile)
                for excerpt, outline in preparer.cut(opened)
            ]
            variants.append({"choice": number, "pieces": pieces})
            remarks += [opened.remark] if opened.remark else []
        except BadSample as error:
            fault = fault or error
        number += 1
    if fault is not None and not variants:
        return _line("record", record.key, fault.reason, fault.detail, members=record.members)
    assert opened is not None
    if fault is not None:
        remarks.append(f"{len(variants)} of {asked.count} alternatives can be used: {fault}")
    pictures = [
        {"digest": file.digest, "width": file.size[0], "height": file.size[1], "mode": file.mode}
        for file in opened.files.values()
    ]
    line = _line("record", record.key, "", "; ".join(dict.fromkeys(remarks)), members=record.members)
    return {**line, "pictures": pictures, "num_pictures": len(pictures), "variants": variants}


def excerpt_code(excerpt: Excerpt, opened: Opened) -> tuple[int, ...]:
    """An excerpt as six numbers."""
    if excerpt.window is None:
        return WHOLE if (excerpt.first, excerpt.last) == (0, len(opened.samples)) else (*excerpt[:2], 0, 0, 0, 0)
    return (*excerpt[:2], *excerpt.window)


def _piece(outline: Outline, excerpt: tuple[int, ...], tokens_per_tile: int) -> dict[str, Any]:
    vision = outline.tiles * tokens_per_tile
    return {
        "text": outline.tokens - vision,
        "vision": vision,
        "loss": outline.loss_tokens,
        "tiles": outline.tiles,
        "excerpt": excerpt,
    }


def _line(
    kind: str, key: str, reason: str, detail: str, *, lost: int | None = None, members: Sequence[Any] = ()
) -> dict[str, Any]:
    text = _writable(" ".join(detail.split()))
    return {
        "kind": kind,
        "key": _writable(key),
        "status": QUARANTINE if reason else OK,
        "reason": reason,
        "detail": text if len(text) <= 300 else f"{text[:297]}...",
        "lost": lost,
        "members": [member._asdict() for member in members],
        "pictures": [],
        "num_pictures": 0,
        "variants": [],
    }


def _writable(text: str) -> str:
    """A text that can be written as UTF-8: names of files need not be."""
    return text.encode("utf-8", "backslashreplace").decode()

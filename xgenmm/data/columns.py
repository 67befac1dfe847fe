"""Flat columns of a source's usable rows, made of its shards' indexes: mapped into memory, they are opened at once."""

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xgenmm.data.index import OK, QUARANTINE, Setting, digest_of_text, read_origin
from xgenmm.data.parquet import ParquetShard
from xgenmm.data.records import Shard
from xgenmm.data.report import count_reasons

log = logging.getLogger(__name__)

COLUMNS_VERSION = 1
DTYPES = {
    "tokens": "<u4",
    "tiles": "<u2",
    "loss_tokens": "<u4",
    "excerpts": "<i4",
    "variants": "<i8",
    "pieces": "<i8",
    "choices": "<u2",
    "members": "<i8",
    "member_names": "<u2",
    "member_offsets": "<i8",
    "member_sizes": "<i8",
    "keys": "<i8",
    "key_bytes": "u1",
    "groups": "<i8",
}
"""Column -> type. Offsets (variants, pieces, members, keys, groups) have one entry more than what they divide."""


class _Writer:
    """Appends to the files of the columns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {column: (folder / column).open("wb") for column in DTYPES}
        self._names: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self.longest = self.most_tiles = 0
        self.unneeded = {"variants", "pieces", "choices", "excerpts"}
        """Columns that say nothing: every row has one variant, every variant one piece, …"""
        for column in ("groups", "members", "keys", "variants", "pieces"):
            self.add(column, [0])

    @property
    def rows(self) -> int:
        return self.counts["members"] - 1

    @property
    def names(self) -> list[str]:
        return list(self._names)

    def add(self, column: str, values: Any) -> None:
        array = np.ascontiguousarray(values, dtype=DTYPES[column])
        self.counts[column] += len(array)
        self._files[column].write(array.tobytes())

    def add_offsets(self, column: str, sizes: NDArray[Any], what: str) -> None:
        """Where each of some lists ends that were not yet written as `what`."""
        self.add(column, self.counts[what] + np.cumsum(sizes, dtype=np.int64))

    def add_rows(self, rows: pa.Table, *, grouped: bool) -> None:
        """Add the usable rows of a shard, one after another.

        Args:
            rows: Lines of its index.
            grouped: They lie in row groups, each of which is best read together.
        """
        first = self.rows
        keys = [key.encode() for key in rows["key"].to_pylist()]
        self.add_offsets("keys", np.array([len(key) for key in keys]), "key_bytes")
        self.add("key_bytes", np.frombuffer(b"".join(keys), dtype=np.uint8))
        members = _flat(rows["members"])
        offsets = _numbers(members.field("offset"))
        self.add_offsets("members", _sizes(rows["members"]), "member_names")
        self._add_members(members, offsets)
        begins = np.flatnonzero(np.diff(offsets)) + 1 if grouped else np.array([], dtype=np.int64)
        self.add("groups", [*(first + begins), first + rows.num_rows])
        self._add_variants(rows["variants"])

    def _add_members(self, members: pa.StructArray, offsets: NDArray[Any]) -> None:
        named = members.field("name").dictionary_encode()
        numbers = [self._names.setdefault(name, len(self._names)) for name in named.dictionary.to_pylist()]
        self.add("member_names", np.array(numbers)[_numbers(named.indices)])
        self.add("member_offsets", offsets)
        self.add("member_sizes", _numbers(members.field("size")))

    def _add_variants(self, column: pa.ChunkedArray) -> None:
        counts, variants = _sizes(column), _flat(column)
        choices = _numbers(variants.field("choice"))
        self.add_offsets("variants", counts, "choices")
        self.add("choices", choices)
        pieces = variants.field("pieces")
        piece_counts, flat = _sizes(pieces), _flat(pieces)
        self.add_offsets("pieces", piece_counts, "tokens")
        tokens = _numbers(flat.field("text")) + _numbers(flat.field("vision"))
        tiles = _numbers(flat.field("tiles"))
        excerpts = _numbers(flat.field("excerpt").flatten())
        self.add("tokens", tokens)
        self.add("tiles", tiles)
        self.add("loss_tokens", _numbers(flat.field("loss")))
        self.add("excerpts", excerpts)
        self.longest = max(self.longest, int(tokens.max()))
        self.most_tiles = max(self.most_tiles, int(tiles.max()))
        own = np.arange(len(choices)) - np.repeat(np.cumsum(counts) - counts, counts)
        says = {
            "variants": (counts != 1).any(),
            "pieces": (piece_counts != 1).any(),
            "choices": (choices != own).any(),
            "excerpts": excerpts.any(),
        }
        self.unneeded -= {name for name, something in says.items() if something}

    def close(self) -> list[str]:
        """The columns that are there."""
        for column, file in self._files.items():
            file.close()
            if column in self.unneeded:
                (self._folder / column).unlink()
        return [column for column in DTYPES if column not in self.unneeded]


def _flat(column: Any) -> Any:
    """All elements of a column of lists."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.flatten()


def _sizes(column: Any) -> NDArray[Any]:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.diff(_numbers(array.offsets))


def _numbers(array: Any) -> NDArray[Any]:
    return array.to_numpy(zero_copy_only=False)


def build(folder: Path, shards: Sequence[Shard], paths: Sequence[Path], setting: Setting) -> None:
    """Write the columns of a source. The folder is whole or not there."""
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    old = folder.with_name(f"{folder.name}.{os.getpid()}.old")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        meta = _write_columns(scratch, shards, paths, setting)
        (scratch / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        try:
            if folder.exists():
                folder.rename(old)  # who has it open keeps what is mapped
            scratch.rename(folder)
        except OSError:
            log.debug("%s was made by another process meanwhile", folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write_columns(folder: Path, shards: Sequence[Shard], paths: Sequence[Path], setting: Setting) -> dict[str, Any]:
    writer = _Writer(folder)
    first_rows, stamps, origins = [], [], []
    reasons: Counter[str] = Counter()
    example = ""
    for shard, path in zip(shards, paths, strict=True):
        origin = read_origin(path)
        assert origin is not None, f"{path} was made a moment ago"
        origins.append(origin)
        stamps.append(asdict(shard.stamp()))
        first_rows.append(writer.rows)
        table = pq.read_table(path)
        records = table.filter(pc.field("kind") == "record")
        bad = table.filter(pc.field("status") == QUARANTINE)
        reasons.update(records.filter(pc.field("status") == QUARANTINE)["reason"].to_pylist())
        if bad.num_rows and not example:
            example = f"{shard.place.name}:{bad['key'][0].as_py()}: {bad['detail'][0].as_py()}"
        rows = records.filter(pc.field("status") == OK)
        if rows.num_rows:
            writer.add_rows(rows, grouped=isinstance(shard, ParquetShard))
    rows = writer.rows
    columns = writer.close()
    lengths = [(shard.place.name, origin.digest, origin.lengths) for shard, origin in zip(shards, origins, strict=True)]
    return {
        "version": COLUMNS_VERSION,
        "digest": digest_of_text(json.dumps([setting.digest, lengths])),
        "rows": rows,
        "records": sum(origin.records for origin in origins),
        "missing": sum(origin.missing for origin in origins),
        "reasons": dict(reasons),
        "example": f"{count_reasons(reasons.elements())}; first: {example}" if example else "",
        "longest": writer.longest,
        "most_tiles": writer.most_tiles,
        "names": writer.names,
        "columns": columns,
        "first_rows": first_rows,
        "stamps": stamps,
        "times": [path.stat().st_mtime_ns for path in paths],
        "indexes": [str(path) for path in paths],
    }

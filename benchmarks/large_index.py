"""Restoring the place in a data set of ten million samples, from its index on disk: `python benchmarks/large_index.py`.

A hundred shards of 100,000 samples have indexes as `xgenmm data index` writes them (the lines of one are made, and
stand for all); columns are built from these as training does. A process of its own opens them, restores a state at
sample ten million and plans the next step, every document of which is located. Exit code 1 if a bar is missed.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xgenmm.data.columns import build
from xgenmm.data.files import Stamp
from xgenmm.data.index import SCHEMA, Origin, Setting
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.planner import BatchConfig, MixtureSource, Planner
from xgenmm.data.shards import open_shards
from xgenmm.data.source_index import SourceIndex

SHARDS, ROWS = 100, 100_000
TILE_TOKENS = 128
STAMP = Stamp(size=0, version="made")


def write_lines(path: Path) -> None:
    """The index of one shard of captioned pictures."""
    draw = np.random.default_rng(0)
    text = draw.integers(20, 200, ROWS).astype(np.int32)
    ones, offsets = np.ones(ROWS, np.int32), np.arange(ROWS + 1, dtype=np.int32)
    pieces = pa.StructArray.from_arrays(
        [
            pa.array(text),
            pa.array(ones * TILE_TOKENS),
            pa.array(text),
            pa.array(ones),
            pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(6 * ROWS, np.int32)), 6),
        ],
        fields=list(SCHEMA.field("variants").type.value_type.field("pieces").type.value_type),
    )
    variants = pa.StructArray.from_arrays(
        [pa.array(ones * 0), pa.ListArray.from_arrays(offsets, pieces)],
        fields=list(SCHEMA.field("variants").type.value_type),
    )
    places = np.arange(2 * ROWS, dtype=np.int64) * 70_000
    members = pa.StructArray.from_arrays(
        [pa.array(["jpg", "txt"] * ROWS), pa.array(places), pa.array(np.full(2 * ROWS, 68_000))],
        fields=list(SCHEMA.field("members").type.value_type),
    )
    constant = {"kind": "record", "status": "ok", "reason": "", "detail": ""}
    columns = {
        **{name: pa.array([value] * ROWS) for name, value in constant.items()},
        "key": pa.array([f"{number:09}" for number in range(ROWS)]),
        "lost": pa.nulls(ROWS, pa.int64()),
        "members": pa.ListArray.from_arrays(offsets * 2, members),
        "pictures": pa.array([[]] * ROWS, SCHEMA.field("pictures").type),
        "num_pictures": pa.array(ones),
        "variants": pa.ListArray.from_arrays(offsets, variants),
    }
    table = pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        writer.write_table(table)
        origin = Origin(
            place="made", stamp=STAMP, digest="made", lengths="made", records=ROWS, quarantined=0, missing=0
        )
        writer.add_key_value_metadata({"xgenmm": json.dumps(asdict(origin))})


def open_planner(folder: Path) -> tuple[Planner, SourceIndex]:
    """What training opens."""
    shards = open_shards("made", [str(folder / "shards")])
    index = SourceIndex("made", folder / "columns", shards)
    planner = Planner(
        [MixtureSource(lengths=index.lengths, weight=1.0)],
        MixtureConfig(unit="tokens", at_end="repeat"),
        BatchConfig(rows=64, tokens=4096),
        seed=0,
        max_tokens=4096,
        tokens_per_tile=TILE_TOKENS,
    )
    return planner, index


def plan_a_step(planner: Planner, index: SourceIndex) -> int:
    """Plan it and locate its documents; how many."""
    step = next(planner)
    return len([index.locate(slot.row, slot.variant, slot.piece) for row in step.rows for slot in row.slots])


def resident(what: str) -> float:
    """Megabytes of this process, by /proc: `VmHWM` is the most it ever had."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


def restore(folder: Path) -> None:
    """In a process of its own."""
    before = resident("VmRSS")
    began = time.perf_counter()
    planner, index = open_planner(folder)
    opened = time.perf_counter()
    planner.restore(json.loads((folder / "state.json").read_text()))
    documents = plan_a_step(planner, index)
    ended = time.perf_counter()
    digest = planner.digest
    for _ in range(50):
        plan_a_step(planner, index)
    grown = resident("VmHWM") - before
    print(json.dumps([opened - began, ended - opened, documents, grown, before, digest]))


def main() -> int:
    """Print every figure; 1 if one misses its bar."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        write_lines(folder / "one.parquet")
        paths = [folder / f"{number:03}.parquet" for number in range(SHARDS)]
        for number, path in enumerate(paths):
            (folder / "shards" / f"{number:03}.tar").write_bytes(b"")
            shutil.copy(folder / "one.parquet", path)
        began = time.process_time()
        build(folder / "columns", open_shards("made", [str(folder / "shards")]), paths, Setting({}, "made"))
        seconds = time.process_time() - began
        size = sum(path.stat().st_size for path in (folder / "columns").iterdir()) / 2**20
        print(f"{SHARDS * ROWS:,} samples: columns of {size:,.0f} MB made in {seconds:.1f} s of CPU")
        planner, index = open_planner(folder)
        state = planner.state()  # a state of the same kind as ten million draws lead to, without drawing them
        state["mixture"]["drawn"] = [SHARDS * ROWS - 10_000]
        planner.restore(state)
        for _ in range(8):
            next(planner)
        (folder / "state.json").write_text(json.dumps(planner.state()))
        drawn = planner.state()["mixture"]["drawn"][0]
        plan_a_step(planner, index)
        command = [sys.executable, __file__, "restore", name]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        opened, restored, documents, grown, before, digest = json.loads(output)
    assert digest == planner.digest, "the restored plan is another one"
    print(f"index opened: {opened:.3f} s; {before:.0f} MB are the interpreter and its libraries")
    figures = [
        (f"restored at sample {drawn:,}, a step of {documents} documents planned and located: seconds", restored, 1.0),
        ("memory that index and plan add: MB", grown, 300),
    ]
    for title, value, bar in figures:
        print(f"{'ok    ' if value <= bar else 'MISSED'} {title}: {value:.3f} (bar: {bar})")
    return int(any(value > bar for _, value, bar in figures))


if __name__ == "__main__":
    if sys.argv[1:2] == ["restore"]:
        restore(Path(sys.argv[2]))
    else:
        sys.exit(main())

"""How much memory a scan takes: `python benchmarks/scan_memory.py`.

The command line, on files far larger than what it may hold: a tar, parquet in row groups of 100 pictures and in a
single one, a JSON list and JSON lines. The sum over its processes of what each has of physical memory, shared pages
by their part, looked at twenty times a second. Exit code 1 if a scan takes 1 GB or loses a record.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from loader import photograph

PICTURES, TEXTS = 3000, 120_000
BAR_MB = 1000


def write_corpus(folder: Path) -> dict[str, int]:
    """The files, and how many records each has. Pictures come several times, with other bytes behind their end."""
    different = [photograph(number, 1024, 768) for number in range(6)]
    pictures = [different[number % 6] + b"%020d" % number for number in range(PICTURES)]
    with tarfile.open(folder / "pictures.tar", "w") as archive:
        for number, picture in enumerate(pictures):
            for extension, content in {"jpg": picture, "txt": b"a photograph of something"}.items():
                member = tarfile.TarInfo(f"{number:06}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    captions = [f"photograph {number}" for number in range(PICTURES)]
    table = pa.table({"image": [{"bytes": picture, "path": None} for picture in pictures], "caption": captions})
    pq.write_table(table, folder / "groups.parquet", row_group_size=100)
    pq.write_table(table, folder / "one_group.parquet", row_group_size=PICTURES)
    talks = [
        {
            "id": str(number),
            "conversations": [
                {"from": "human", "value": f"What is {number}? " + "word " * 200},
                {"from": "gpt", "value": "It is " + "answer " * 200},
            ],
        }
        for number in range(TEXTS)
    ]
    (folder / "list.json").write_text(json.dumps(talks))
    (folder / "lines.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    return {
        **dict.fromkeys(("pictures.tar", "groups.parquet", "one_group.parquet"), PICTURES),
        **dict.fromkeys(("list.json", "lines.jsonl"), TEXTS),
    }


def processes(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in processes(child))]


def memory_of(pid: int) -> int:
    """Bytes of a process, shared pages by its part of them; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def scan(path: Path, report: Path) -> tuple[float, float]:
    """Megabytes at most, and seconds."""
    began, most = time.perf_counter(), 0
    program = Path(sys.executable).with_name("xgenmm")
    command = [str(program), "data", "scan", str(path), "--output", str(report)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, sum(memory_of(one) for one in processes(process.pid)))
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{path}: the scan ended with {process.returncode}")
    return most / 1e6, time.perf_counter() - began


def main() -> int:
    """Measure and print; 1 if a bar is missed."""
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        folder, report = Path(name) / "corpus", Path(name) / "report.jsonl"
        folder.mkdir()
        records = write_corpus(folder)
        for file, wanted in {**records, ".": sum(records.values())}.items():
            path = folder / file
            size = sum(one.stat().st_size for one in ([path] if path.is_file() else path.iterdir())) / 1e6
            megabytes, seconds = scan(path, report)
            lines = [json.loads(line) for line in report.read_text().splitlines()]
            good = sum(line["status"] == "ok" for line in lines)
            met = megabytes < BAR_MB and good == wanted == len(lines)
            missed += not met
            what = "all of them" if file == "." else file
            print(
                f"{'ok    ' if met else 'MISSED'} {what:18} {size:6.0f} MB: {megabytes:4.0f} MB (bar: < {BAR_MB}), "
                f"{good} of {wanted} records, {seconds:.0f} s"
            )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

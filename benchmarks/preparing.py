"""What it costs to look at data before training: index, scan and fetch: `python benchmarks/preparing.py`.

The index of a shard of captioned pictures against Python's `tarfile` with every picture's header read by Pillow (CPU
time, in turn); a scan against decoding every picture; pictures fetched from a server on this machine, which is a
process of its own, against urllib in as many threads. Exit code 1 if a bar is missed.
"""

import concurrent.futures
import http.server
import io
import multiprocessing
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import measure  # noqa: F401  (sets the number of threads, before torch)
from loader import decode, photograph
from PIL import Image

from xgenmm.data.corpus import look_through
from xgenmm.data.fetch import FetchConfig, fetch
from xgenmm.data.indexing import NEVER_CUT, byte_processor
from xgenmm.data.memory import keep_freed_memory
from xgenmm.data.scan import scan_corpus
from xgenmm.data.source import Source, SourceConfig
from xgenmm.web import WebConfig

PICTURES, SAMPLES, ROUNDS = 24, 480, 3
FETCHED, WORKERS = 400, 16


def write_shard(path: Path, pictures: list[bytes]) -> None:
    """A tar as img2dataset writes it; pictures come several times, which no one here could notice."""
    with tarfile.open(path, "w") as archive:
        for number in range(SAMPLES):
            content = {"jpg": pictures[number % len(pictures)], "txt": b"a photograph of something", "json": b"{}"}
            for extension, data in content.items():
                member = tarfile.TarInfo(f"{number:06}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def list_headers(path: Path) -> int:
    """Python's own tools: every member read, every picture's size known."""
    found = 0
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            content = file.read()
            if member.name.endswith(".jpg"):
                found += Image.open(io.BytesIO(content)).size[0] > 0
    return found


def index(path: Path) -> int:
    """`xgenmm data index`, in one process."""
    with tempfile.TemporaryDirectory() as folder:
        config = SourceConfig(name="s", adapter="caption_pairs", path=str(path))
        return Source(config, byte_processor(), NEVER_CUT, Path(folder), workers=1).index.records


def decode_all(path: Path) -> int:
    """Every picture, once."""
    with tarfile.open(path) as archive:
        pictures = (archive.extractfile(member).read() for member in archive if member.name.endswith(".jpg"))
        return sum(decode(data).shape[0] == 3 for data in pictures)


def scan(path: Path) -> int:
    """`xgenmm data scan`, in one process."""
    return sum(finding.status == "ok" for finding in scan_corpus(look_through(path)))


def in_turn(calls: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Least CPU milliseconds a sample."""
    least: dict[str, float] = {}
    for turn in range(ROUNDS + 1):
        for name, call in calls.items():
            began = time.process_time()
            assert call() == SAMPLES, name
            cost = (time.process_time() - began) / SAMPLES * 1000
            least[name] = min(least.get(name, cost), cost) if turn else float("inf")
    return least


def serve(pictures: list[bytes], port: "multiprocessing.Queue[int]") -> None:
    """A web server that answers at once."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            content = pictures[int(self.path[1:-4]) % len(pictures)] if self.path.endswith(".jpg") else b""
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


def fetch_speed(pictures: list[bytes]) -> tuple[float, float]:
    """CPU milliseconds of this process for a picture: ours, and urllib's without any of our checks."""
    context = multiprocessing.get_context("fork")
    ports = context.Queue()
    server = context.Process(target=serve, args=(pictures, ports), daemon=True)
    server.start()
    base = f"http://127.0.0.1:{ports.get()}"
    urls = [f"{base}/{number}.jpg" for number in range(FETCHED)]
    try:
        with tempfile.TemporaryDirectory() as name:
            table = Path(name) / "cc12m.tsv"
            table.write_text("".join(f"{url}\ta photograph\n" for url in urls))
            source = SourceConfig(name="s", adapter="caption_rows", path=str(table))
            config = FetchConfig(workers=WORKERS, per_host=WORKERS, web=WebConfig(allow_private=True))
            began, clock = time.process_time(), time.perf_counter()
            assert fetch([source], Path(name) / "cache", config).fetched == FETCHED
            ours, wall = time.process_time() - began, time.perf_counter() - clock
            print(f"fetched {FETCHED} pictures: {FETCHED / wall:.0f} a second, each decoded before it is kept")
            began = time.process_time()
            with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
                for number, content in enumerate(pool.map(lambda url: urllib.request.urlopen(url).read(), urls)):
                    Image.open(io.BytesIO(content)).load()
                    (Path(name) / f"{number}.jpg").write_bytes(content)
            plain = time.process_time() - began
    finally:
        server.terminate()
        server.join()
    return ours / FETCHED * 1000, plain / FETCHED * 1000


def main() -> int:
    """Measure and print; 1 if a bar is missed."""
    keep_freed_memory()
    pictures = [photograph(number, 640, 480) for number in range(PICTURES)]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "s.tar"
        write_shard(path, pictures)
        cost = in_turn(
            {
                "tarfile and headers": lambda: list_headers(path),
                "index": lambda: index(path),
                "decoding": lambda: decode_all(path),
                "scan": lambda: scan(path),
            }
        )
    for title, milliseconds in cost.items():
        print(f"{title:20} {milliseconds:6.2f} ms of CPU a sample")
    ours, plain = fetch_speed(pictures)
    print(f"{'fetch':20} {ours:6.2f} ms, urllib {plain:.2f} ms of CPU a picture")
    ratio = cost["tarfile and headers"] / cost["index"]
    print(f"{'ok    ' if ratio >= 0.5 else 'MISSED'} speed of index / tarfile and headers: {ratio:.2f} (bar: >= 0.5)")
    print(f"       scan / decoding and shrinking once: {cost['scan'] / cost['decoding']:.2f}")
    return int(ratio < 0.5)


if __name__ == "__main__":
    sys.exit(main())

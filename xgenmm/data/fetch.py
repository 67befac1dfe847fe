"""`xgenmm data fetch`: the pictures that tables only name -> a cache, in which training, scan and viewer find them.

A picture is asked for once, judged, and then stands in the cache under the hash of its address: whole or not at all. So
the same command goes on where it was stopped, and several may fill one cache. Whatever could not be had is counted and
stands in `failures.jsonl` with its reason; what failed for good is not asked for again.
"""

import json
import logging
import os
import random
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xgenmm.config import ConfigError
from xgenmm.data.addresses import Wanted, wanted_of
from xgenmm.data.hosts import HostQueue
from xgenmm.data.pictures import MAX_PIXELS
from xgenmm.data.quarantine import BadSample, DataError, Fault, read_lines
from xgenmm.data.robots import EVERYTHING, NOTHING, Robots, parse_robots, refusal
from xgenmm.data.shards import open_shards, rows_of
from xgenmm.data.source import SourceConfig
from xgenmm.processor.images import ImageError, check_image
from xgenmm.progress import progress
from xgenmm.types import Picture
from xgenmm.web import AGENT, Web, WebConfig, WebError, parse_place

log = logging.getLogger(__name__)

FAILURES = "failures.jsonl"
SILENCE = ("no_connection", "timeout", "host_unknown", "certificate")
"""Reasons for which a server says nothing at all."""
MOST_SILENCE = 8
"""After so many addresses in a row without a word from a server, its other ones count as failed until the next run."""
LONGEST_REST = 60.0
"""Seconds that a server can ask us to wait between tries."""
AHEAD = 64
"""Addresses per worker that are read ahead: many servers can be asked in turn."""


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """How hard we try, and how politely."""

    workers: int = 32
    """Addresses at a time."""
    per_host: int = 4
    """Addresses of one server at a time."""
    retries: int = 3
    """Further tries for an address that failed in a way that may pass."""
    back_off: float = 1.0
    """Seconds before the first further try; twice as many before each next one."""
    max_pixels: int = MAX_PIXELS
    web: WebConfig = field(default_factory=WebConfig)

    def __post_init__(self) -> None:
        if self.workers < 1 or self.per_host < 1 or self.retries < 0 or self.max_pixels < 1 or self.back_off < 0:
            raise ConfigError("workers, per_host and max_pixels must be at least 1, retries and back_off at least 0")


@dataclass(kw_only=True)
class FetchSummary:
    """What became of the addresses."""

    fetched: int = 0
    copied: int = 0
    """Pictures that lay beside their address in a shard."""
    present: int = 0
    """Pictures that the cache had already."""
    failed_before: int = 0
    """Addresses that an earlier run gave up for good."""
    failed: Counter[str] = field(default_factory=Counter)
    """Addresses by the reason of their failure."""
    rows: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    """Rows that cannot be used, and are not worth fetching for, by reason."""

    def text(self) -> str:
        """For the terminal."""
        lines = [
            f"{self.rows} rows: {self.fetched} pictures fetched, {self.copied} copied, {self.present} there before, "
            f"{self.failed.total()} failed, {self.failed_before} had failed for good before"
        ]
        lines += [f"  {number:>8}  {reason}" for reason, number in self.failed.most_common()]
        if self.unusable:
            lines.append(f"{self.unusable.total()} rows cannot be used, so nothing was fetched for them")
        return "\n".join(lines + [f"  {number:>8}  {reason}" for reason, number in self.unusable.most_common()])


def fetch(sources: Sequence[SourceConfig], output: Path, config: FetchConfig) -> FetchSummary:
    """Fill a cache with the pictures that the rows of some sources name.

    Args:
        sources: Tables with addresses; also img2dataset's shards, whose pictures are taken from there.
        output: The cache: what `images` of a source is in a recipe.
        config: Limits and manners.

    Raises:
        ConfigError: A path matches nothing.
        DataError: Not one picture could be had.
        OSError: The disk is full, or the cache cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    run = _Run(output, config)
    threads = [threading.Thread(target=run.work, name=f"fetch-{n}", daemon=True) for n in range(config.workers)]
    for thread in threads:
        thread.start()
    try:
        for source in sources:
            _read(source, output, run)
        run.queue.close()
        for thread in threads:
            thread.join()
    finally:
        run.queue.stop()
        run.web.close()
        run.ledger.close()
    if run.error is not None:
        raise run.error
    summary = run.summary
    if (summary.failed or summary.failed_before) and not (summary.fetched or summary.copied or summary.present):
        raise DataError(f"not one picture could be had; {output / FAILURES} says why\n{summary.text()}")
    return summary


def _read(source: SourceConfig, cache: Path, run: "_Run") -> None:
    """Put what a source names into the queue."""
    adapter = source.bind_adapter()
    shards = open_shards(source.name, source.patterns, cache)
    with progress(f"fetch {source.name}", len(shards), "files") as advance:
        for shard in shards:
            for item in rows_of(source.name, shard):
                if run.error is not None:
                    return
                if isinstance(item, Fault):
                    log.warning("%s: %s: %s", item.id, item.reason, item.detail)
                    continue
                try:
                    for wanted in wanted_of(item, adapter, cache):
                        run.want(wanted)
                except BadSample as error:
                    run.leave_out(item.id, error)
                run.summary.rows += 1
            advance(1)


@dataclass(frozen=True, kw_only=True)
class _Job:
    wanted: Wanted
    tries: int = 0


class _Run:
    """The state that reader and workers share."""

    def __init__(self, output: Path, config: FetchConfig) -> None:
        self.config = config
        self.web = Web(config.web)
        self.queue: HostQueue[_Job] = HostQueue(config.per_host, config.workers * AHEAD)
        self.ledger = _Ledger(output / FAILURES)
        self.summary = FetchSummary()
        self.error: BaseException | None = None
        self._under_way: set[str] = set()
        self._robots: dict[str, Robots] = {}
        self._asking: dict[str, threading.Lock] = {}
        self._decoding = threading.Semaphore(os.cpu_count() or 1)  # so many large pictures in memory, and no more
        self._silent: Counter[str] = Counter()
        self._lock = threading.Lock()

    def want(self, wanted: Wanted) -> None:
        """Take care of an address, unless somebody does or did already."""
        if not self._is_new(wanted.url):
            return
        if _is_there(wanted.file):  # looked at second: a thread that has just stored it has let go of it after that
            self._let_go(wanted.url)
            self.summary.present += 1
        elif wanted.url in self.ledger.given_up:
            self._let_go(wanted.url)
            self.summary.failed_before += 1
        else:
            try:
                host = "" if wanted.content is not None else parse_place(wanted.url).origin
            except WebError as error:
                self._fail(_Job(wanted=wanted), error.reason, error.detail, for_good=True)
                return
            self.queue.put(host, _Job(wanted=wanted))

    def leave_out(self, row: str, error: BadSample) -> None:
        """Count a row that cannot be used."""
        self.summary.unusable[error.reason] += 1
        self.ledger.note({"url": None, "row": row, "reason": error.reason, "detail": error.detail}, for_good=False)

    def work(self) -> None:
        """What each thread does."""
        while (taken := self.queue.take()) is not None:
            host, job = taken
            try:
                self._attempt(host, job)
            except BaseException as error:  # noqa: BLE001 - the thread that waits for us raises it
                self.error = self.error or error
                self.queue.stop()
                self.web.close()
                return

    def _attempt(self, host: str, job: _Job) -> None:
        wanted = job.wanted
        try:
            content = self._content(host, wanted)
            with self._decoding:
                check_image(Picture(source=content, name=wanted.url), self.config.max_pixels)
        except WebError as error:
            if error.passing and job.tries < self.config.retries:
                pause = self.config.back_off * 2**job.tries * random.uniform(0.5, 1.5)
                rest = min(error.wait, LONGEST_REST)
                self.queue.again(host, _Job(wanted=wanted, tries=job.tries + 1), pause, rest=rest)
                return
            self._fail(job, error.reason, error.detail, for_good=not error.passing and error.reason not in SILENCE)
        except ImageError as error:
            self._fail(job, f"image_{error.reason}", str(error), for_good=True)
        else:
            _store(content, wanted.file)
            with self._lock:
                self._under_way.discard(wanted.url)
                self.summary.copied += wanted.content is not None
                self.summary.fetched += wanted.content is None
        self.queue.done(host)

    def _content(self, host: str, wanted: Wanted) -> bytes:
        if wanted.content is not None:
            return wanted.content.read_bytes() if isinstance(wanted.content, Path) else wanted.content
        if self._silent[host] >= MOST_SILENCE:
            raise WebError("no_connection", f"{host} was silent {MOST_SILENCE} times in a row")
        try:
            if not self._rules(host).allows(parse_place(wanted.url).target):
                raise WebError("robots", f"{host}/robots.txt asks us not to")
            content = self.web.get(wanted.url, _heed)
        except WebError as error:
            self._silent[host] = self._silent[host] + 1 if error.reason in SILENCE else 0
            raise
        self._silent[host] = 0
        return content

    def _rules(self, host: str) -> Robots:
        """A server's robots.txt, asked for once. None is consent, a server that fails to tell is not (RFC 9309)."""
        with self._asking.setdefault(host, threading.Lock()):
            if host not in self._robots:
                self._robots[host] = self._ask_robots(f"{host}/robots.txt")
            return self._robots[host]

    def _ask_robots(self, url: str) -> Robots:
        try:
            return parse_robots(self.web.get(url), AGENT)
        except WebError as error:
            if error.reason in SILENCE:
                raise
            if error.passing:
                raise WebError("robots", f"{url}: {error}", passing=True, wait=error.wait) from error
            return NOTHING if error.reason.startswith("http_5") else EVERYTHING

    def _is_new(self, url: str) -> bool:
        with self._lock:
            if url in self._under_way:
                return False
            self._under_way.add(url)
            return True

    def _let_go(self, url: str) -> None:
        with self._lock:
            self._under_way.discard(url)

    def _fail(self, job: _Job, reason: str, detail: str, *, for_good: bool) -> None:
        entry = {"url": job.wanted.url, "row": job.wanted.row, "reason": reason, "detail": detail}
        with self._lock:
            self.summary.failed[reason] += 1
        self.ledger.note({**entry, "tries": job.tries + 1, "for_good": for_good}, for_good=for_good)


def _heed(headers: Mapping[str, str]) -> None:
    if word := refusal(headers, AGENT):
        raise WebError("opted_out", f"X-Robots-Tag says {word}")


class _Ledger:
    """`failures.jsonl`: what was given up for good by earlier runs, and everything that fails in this one."""

    def __init__(self, path: Path) -> None:
        kept = [line for line in read_lines(path) if line.get("for_good")]
        self.given_up = {line["url"] for line in kept}
        _write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def note(self, entry: Mapping[str, Any], *, for_good: bool) -> None:
        """Write a failure."""
        with self._lock:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            if for_good:
                self.given_up.add(entry["url"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_there(file: Path) -> bool:
    """Whether the cache has a picture. A file of no bytes is what a crash of the machine can leave."""
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


def _store(content: bytes, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    _write_whole(file, content)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, also while other processes write it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file

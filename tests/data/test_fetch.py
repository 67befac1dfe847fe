"""`xgenmm data fetch` against a web server on this machine that answers well and badly."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from web_server import body, dripping, endless, in_turn, moved, serving, short, status

from xgenmm.cli import main
from xgenmm.config import ConfigError
from xgenmm.data import fetch as fetching
from xgenmm.data.adapters.fields import cache_name
from xgenmm.data.fetch import FetchConfig, fetch
from xgenmm.data.quarantine import DataError
from xgenmm.data.scan import scan
from xgenmm.data.shards import open_shards, rows_of
from xgenmm.data.source import SourceConfig
from xgenmm.data.sources import find_sources
from xgenmm.web import WebConfig


def picture(form: str = "JPEG", size: tuple[int, int] = (40, 30), colour: str = "red") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, form)
    return content.getvalue()


JPEG = picture()
QUICK = FetchConfig(
    workers=8, retries=2, back_off=0.01, web=WebConfig(seconds=1.0, max_bytes=100_000, allow_private=True)
)


def table(path: Path, rows: list[dict]) -> list[SourceConfig]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return find_sources(str(path))


def captions(path: Path, urls: list[str]) -> list[SourceConfig]:
    return table(path, [{"url": url, "caption": f"caption {n}"} for n, url in enumerate(urls)])


def cached(folder: Path) -> dict[str, bytes]:
    """The pictures of a cache; those that are being written do not count."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("??/[!.]*")}


def failures(folder: Path) -> dict[str, dict]:
    lines = (folder / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["url"] or line["row"]: line for line in map(json.loads, lines)}


PAGES = {
    "/good.jpg": (body(JPEG), "ok"),
    "/png-named.jpg": (body(picture("PNG")), "ok"),
    "/no-length.webp": (body(picture("WEBP"), "application/octet-stream"), "ok"),
    "/moved.jpg": (moved("/good.jpg"), "ok"),
    "/moved-twice.jpg": (moved("/moved.jpg", 301), "ok"),
    "/loop.jpg": (moved("/loop.jpg"), "too_many_redirects"),
    "/to-a-file.jpg": (moved("file:///etc/passwd"), "address_invalid"),
    "/gone.jpg": (status(404), "http_404"),
    "/forbidden.jpg": (status(403), "http_403"),
    "/broken.jpg": (status(500), "http_500"),
    "/busy-once.jpg": (in_turn(status(503), body(JPEG)), "ok"),
    "/short.jpg": (short(JPEG), "short_read"),
    "/short-once.jpg": (in_turn(short(JPEG), body(JPEG)), "ok"),
    "/slow.jpg": (dripping(), "timeout"),
    "/page.jpg": (body(b"<html>Sorry</html>", "image/jpeg"), "image_not_decodable"),
    "/empty.jpg": (body(b""), "image_empty"),
    "/cut.jpg": (body(picture(size=(400, 300))[:-400]), "image_truncated"),
    "/long.jpg": (body(b"\xff\xd8" + b"x" * 200_000), "too_large"),
    "/endless.jpg": (endless(), "too_large"),
    "/private.jpg": (body(JPEG), "robots"),
    "/opted-out.jpg": (body(JPEG, X_Robots_Tag="noai"), "opted_out"),
    "/robots.txt": (body(b"User-agent: xgenmm\nDisallow: /private", "text/plain"), ""),
}


def test_every_kind_of_answer(tmp_path):
    with serving({path: answer for path, (answer, _) in PAGES.items()}) as server:
        urls = {path: server.url + path for path, (_, reason) in PAGES.items() if reason}
        summary = fetch(captions(tmp_path / "table.jsonl", list(urls.values())), tmp_path / "cache", QUICK)
    good = {path for path, (_, reason) in PAGES.items() if reason == "ok"}
    kept = cached(tmp_path / "cache")
    assert kept.keys() == {cache_name(urls[path]) for path in good}
    assert kept[cache_name(urls["/moved-twice.jpg"])] == JPEG
    assert summary.fetched == len(good)
    told = failures(tmp_path / "cache")
    assert {path: told[url]["reason"] for path, url in urls.items() if path not in good} == {
        path: reason for path, (_, reason) in PAGES.items() if reason not in ("ok", "")
    }
    assert summary.failed.total() == len(told) == len(urls) - len(good)
    assert [told[urls[path]]["tries"] for path in ("/gone.jpg", "/broken.jpg", "/slow.jpg")] == [1, 3, 3]
    assert told[urls["/gone.jpg"]]["row"] == "table/table.jsonl:line8"
    assert not list((tmp_path / "cache").rglob(".*"))  # no half file


def test_a_cache_is_what_scan_and_training_read(tmp_path):
    with serving({"/a.jpg": body(JPEG)}) as server:
        sources = captions(tmp_path / "table.parquet", [f"{server.url}/a.jpg", f"{server.url}/b.jpg"])
        fetch(sources, tmp_path / "cache", QUICK)
    summary = scan(tmp_path / "table.parquet", tmp_path / "report.jsonl", images=tmp_path / "cache")
    assert summary.records == 2
    lines = (tmp_path / "report.jsonl").read_text(encoding="utf-8").splitlines()
    details = [json.loads(line)["detail"] for line in lines]
    assert details == ["", "1 pictures are not fetched"]


def test_the_second_time_nothing_is_asked_for_but_what_may_have_passed(tmp_path):
    pages = {"/a.jpg": body(JPEG), "/busy.jpg": in_turn(*[status(503)] * 3, body(JPEG)), "/b.jpg": body(JPEG)}
    with serving(pages) as server:
        urls = [server.url + path for path in (*pages, "/gone.jpg")]
        sources, cache = captions(tmp_path / "table.jsonl", urls), tmp_path / "cache"
        first = fetch(sources, cache, QUICK)
        assert (first.fetched, dict(first.failed)) == (2, {"http_503": 1, "http_404": 1})
        (cache / cache_name(urls[2])).write_bytes(b"")  # as a crash of the machine leaves it
        server.asked.clear()
        second = fetch(sources, cache, QUICK)
        assert (second.fetched, second.present, second.failed_before) == (2, 1, 1)
        assert {path for path in server.asked if path != "/robots.txt"} == {"/busy.jpg", "/b.jpg"}
        assert failures(cache).keys() == {urls[3]}


def test_an_address_that_stands_often_is_asked_for_once(tmp_path):
    with serving({"/a.jpg": body(JPEG)}) as server:
        sources = captions(tmp_path / "table.jsonl", [f"{server.url}/a.jpg"] * 50)
        summary = fetch(sources, tmp_path / "cache", QUICK)
        assert server.asked["/a.jpg"] == server.asked["/robots.txt"] == 1
    assert (summary.rows, summary.fetched) == (50, 1)


def test_what_another_thread_stores_meanwhile_is_not_asked_for_again(tmp_path, monkeypatch):
    look = fetching._is_there

    def slowly(file):
        there = look(file)
        time.sleep(0.05)  # long enough for a worker to fetch it
        return there

    monkeypatch.setattr(fetching, "_is_there", slowly)
    with serving({"/a.jpg": body(JPEG)}) as server:
        fetch(captions(tmp_path / "table.jsonl", [f"{server.url}/a.jpg"] * 4), tmp_path / "cache", QUICK)
        assert server.asked["/a.jpg"] == 1


def test_no_more_at_once_than_is_polite(tmp_path):
    def slowly(handler):
        time.sleep(0.03)
        body(JPEG)(handler)

    paths = [f"/{n}.jpg" for n in range(24)]
    with serving(dict.fromkeys(paths, slowly)) as server:
        sources = captions(tmp_path / "table.jsonl", [server.url + path for path in paths])
        fetch(sources, tmp_path / "cache", FetchConfig(workers=16, per_host=3, web=QUICK.web))
        assert server.most == 3


def test_a_server_that_is_dead_does_not_hold_up_the_rest(tmp_path):
    with serving({"/a.jpg": body(JPEG)}) as server, serving({}) as dead:
        port = dead.server_port
        urls = [f"http://127.0.0.2:{port + 0}/{n}.jpg" for n in range(60)] + [f"{server.url}/a.jpg"]
        dead.shutdown()
        dead.server_close()
        began = time.monotonic()
        summary = fetch(captions(tmp_path / "table.jsonl", urls), tmp_path / "cache", QUICK)
    assert (summary.fetched, dict(summary.failed)) == (1, {"no_connection": 60})
    assert time.monotonic() - began < 5
    assert not any(line["for_good"] for line in failures(tmp_path / "cache").values())  # it may come back


def test_a_robots_file_that_cannot_be_had(tmp_path):
    """RFC 9309, 2.3.1: no file allows everything, a server that fails forbids everything."""
    for code, reason in ((404, "ok"), (403, "ok"), (503, "robots"), (501, "robots")):
        with serving({"/a.jpg": body(JPEG), "/robots.txt": status(code)}) as server:
            sources, cache = captions(tmp_path / f"{code}.jsonl", [f"{server.url}/a.jpg"]), tmp_path / str(code)
            if reason == "ok":
                assert fetch(sources, cache, QUICK).fetched == 1
                continue
            with pytest.raises(DataError, match="not one picture"):
                fetch(sources, cache, QUICK)
            assert failures(cache)[f"{server.url}/a.jpg"]["reason"] == reason
            assert not server.asked["/a.jpg"]


def test_this_machine_is_not_asked_unless_that_is_said(tmp_path):
    with serving({"/a.jpg": body(JPEG)}) as server:
        sources = captions(tmp_path / "table.jsonl", [f"{server.url}/a.jpg"])
        with pytest.raises(DataError, match="address_private"):
            fetch(sources, tmp_path / "cache", FetchConfig())
        assert not server.asked


# ---- whose tables ----


def test_pictures_of_all_kinds_of_tables(tmp_path):
    box = json.dumps({"entities": [], "length": 0})
    twelve = json.dumps(
        [{"granularity": n // 2, "include_datacomp_raw_cap": bool(n % 2), "text": f"text {n}"} for n in range(12)]
    )
    with serving({f"/{n}.jpg": body(JPEG) for n in range(12)}) as server:
        urls = [f"{server.url}/{n}.jpg" for n in range(12)]
        folder = tmp_path / "tables"
        table(folder / "kale.parquet", [{"url": urls[0], "caption": "a long caption"}])
        table(folder / "ocr.parquet", [{"url": urls[1], "captions": twelve, "metadata": box}])
        table(folder / "grounding.parquet", [{"url": urls[2], "captions": '[["a cat", 0, true]]', "metadata": box}])
        texts = {"texts": [None, "between", None], "images": [urls[3], None, urls[4]]}
        table(folder / "obelics.parquet", [{**texts, "url": "http://page.example"}])
        (folder / "cc12m.tsv").write_text(f"{urls[5]}\ta caption\n", encoding="utf-8")
        (folder / "cc3m.tsv").write_text(f"a caption\t{urls[6]}\n", encoding="utf-8")
        (folder / "sbu.json").write_text(json.dumps({"image_urls": [urls[7]], "captions": ["a caption"]}))
        (folder / "datacomp.jsonl").write_text(json.dumps({"url": urls[8], "text": "a caption", "uid": "x"}) + "\n")
        regions = [{"phrase": "a red wall"}]
        (folder / "region_descriptions.json").write_text(json.dumps([{"id": 1, "url": urls[9], "regions": regions}]))
        said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
        said.append({"role": "assistant", "content": [{"type": "text", "text": "Red."}]})
        (folder / "mantis.json").write_text(json.dumps([{"messages": said, "images": [urls[10]]}]))
        table(folder / "to-be-captioned.jsonl", [{"url": urls[11], "uid": "7"}])
        summary = fetch(find_sources(str(folder)), tmp_path / "cache", QUICK)
        assert not summary.unusable
        assert cached(tmp_path / "cache").keys() == {cache_name(url) for url in urls}


def test_rows_that_cannot_be_used_are_told_and_not_fetched_for(tmp_path):
    rows = [{"url": "ftp://example.org/a.jpg", "caption": "x"}, {"url": "https://x.org/a.jpg", "caption": "  "}]
    with serving({"/a.jpg": body(JPEG)}) as server:
        rows += [{"url": f"{server.url}/a.jpg", "caption": "good"}, {"url": None, "caption": "none"}]
        summary = fetch(table(tmp_path / "table.jsonl", rows), tmp_path / "cache", QUICK)
    assert dict(summary.unusable) == {"path_escape": 1, "text_empty": 1, "schema_wrong_type": 1}
    assert [line["reason"] for line in failures(tmp_path / "cache").values()] == [*summary.unusable]


# ---- img2dataset ----

COLUMNS = {
    "status": "success",
    "error_message": None,
    "width": 40,
    "height": 30,
    "original_width": 80,
    "original_height": 60,
    "exif": "{}",
    "sha256": "0" * 64,
}


def img2dataset(folder: Path, url: str) -> None:
    """What img2dataset writes: a shard, the table of its rows with those that failed, and its statistics."""
    rows = [
        {"caption": f"caption {n}", "url": f"{url}/{n}.jpg", "key": f"0000000{n}", **COLUMNS, "md5": None}
        for n in range(3)
    ]
    rows[1] |= {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found", "width": None}
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for number, row in enumerate(rows):
            if row["status"] != "success":
                continue
            pair = {"jpg": picture(colour=["red", "", "blue"][number]), "json": json.dumps(row).encode()}
            for extension, content in {**pair, "txt": row["caption"].encode()}.items():
                member = tarfile.TarInfo(f"{row['key']}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text(json.dumps({"count": 3, "successes": 2, "status_dict": {"success": 2}}))


def test_img2dataset_is_a_source(tmp_path):
    img2dataset(tmp_path / "shards", "https://example.org")
    (source,) = find_sources(str(tmp_path / "shards"))
    assert (source.adapter, source.path) == ("caption_pairs", (str(tmp_path / "shards" / "00000.tar"),))
    (shard,) = open_shards(source.name, source.patterns)
    assert len(list(shard.walk())) == 2
    summary = scan(tmp_path / "shards", tmp_path / "report.jsonl")
    assert (summary.files, summary.records, summary.quarantined) == (1, 2, 0)


def test_img2dataset_fills_a_cache_without_asking_anybody(tmp_path):
    """Somebody fetched BLIP3-KALE with img2dataset: its table of addresses finds the pictures."""
    img2dataset(tmp_path / "shards", "https://example.org")
    cache = tmp_path / "cache"
    summary = fetch(find_sources(str(tmp_path / "shards")), cache, FetchConfig())
    assert (summary.copied, summary.fetched) == (2, 0)
    red = Image.open(cache / cache_name("https://example.org/0.jpg")).getpixel((5, 5))
    assert red[0] > 250
    assert red[2] < 5
    again = fetch(find_sources(str(tmp_path / "shards")), cache, FetchConfig())
    assert (again.copied, again.present) == (0, 2)


def test_img2dataset_tables_and_folders_with_pictures(tmp_path):
    """Its output formats `parquet` and `files`."""
    row = {"caption": "a", "url": "https://example.org/0.jpg", "key": "000000000", **COLUMNS, "jpg": JPEG}
    failed = {**row, "url": "https://example.org/1.jpg", "status": "failed_to_download", "jpg": None}
    table(tmp_path / "tables" / "00000.parquet", [row, failed])
    files = tmp_path / "files" / "00000"
    files.mkdir(parents=True)
    (files / "000000000.jpg").write_bytes(JPEG)
    (files / "000000000.txt").write_text("a")
    beside = {name: value for name, value in row.items() if name != "jpg"}
    (files / "000000000.json").write_text(json.dumps({**beside, "url": "https://example.org/2.jpg"}))
    (tmp_path / "files" / "00000_stats.json").write_text("{}")
    table(tmp_path / "files" / "00000.parquet", [beside])
    summary = fetch(find_sources(str(tmp_path / "files")), tmp_path / "cache", FetchConfig())
    assert (summary.rows, summary.copied) == (1, 1)
    (source,) = find_sources(str(tmp_path / "tables"))
    (shard,) = open_shards(source.name, source.patterns)
    sample = source.bind_adapter()(next(rows_of(source.name, shard)), lambda _: 0)
    assert sample.parts[0].source == JPEG


# ---- interruptions ----


def test_a_full_disk_is_told_and_stops(tmp_path, monkeypatch, capsys):
    real, written = Path.write_bytes, []

    def write(path, content):
        if path.parent.parent.name == "cache":
            written.append(path)
            if len(written) > 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    paths = [f"/{n}.jpg" for n in range(40)]
    with serving(dict.fromkeys(paths, body(JPEG))) as server:
        captions(tmp_path / "table.jsonl", [server.url + path for path in paths])
        words = ["data", "fetch", str(tmp_path / "table.jsonl"), "--output", str(tmp_path / "cache"), "--allow-private"]
        assert main([*words, "--workers", "2"]) == 1
        told = capsys.readouterr().err
        assert "No space left" in told
        assert "same command again" in told
        assert len(cached(tmp_path / "cache")) == 3
        assert not list((tmp_path / "cache").rglob(".*"))
        monkeypatch.undo()
        assert main(words) == 0
    assert len(cached(tmp_path / "cache")) == 40


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_whole_pictures_and_goes_on(tmp_path, number):
    def slowly(handler):
        time.sleep(0.02)
        body(JPEG)(handler)

    paths = [f"/{n}.jpg" for n in range(60)]
    with serving(dict.fromkeys(paths, slowly)) as server:
        captions(tmp_path / "table.jsonl", [server.url + path for path in paths])
        cache = tmp_path / "cache"
        words = ["data", "fetch", str(tmp_path / "table.jsonl"), "--output", str(cache), "--allow-private"]
        command = [sys.executable, "-m", "xgenmm.cli", *words, "--workers", "2"]
        # Ctrl-C counts, even where whoever started the tests in the background had it ignored.
        heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, preexec_fn=heeds)
        deadline = time.monotonic() + 30
        while len(cached(cache)) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert b"Traceback" not in told
        some = cached(cache)
        assert 5 <= len(some) < 60
        assert set(some.values()) == {JPEG}
        assert main(words) == 0
        assert cached(cache).keys() == {cache_name(server.url + path) for path in paths}


def test_the_command(tmp_path, capsys):
    with serving({"/a.jpg": body(JPEG)}) as server:
        captions(tmp_path / "table.jsonl", [f"{server.url}/a.jpg", f"{server.url}/b.jpg"])
        words = ["data", "fetch", str(tmp_path / "*.jsonl"), "--output", str(tmp_path / "cache"), "--allow-private"]
        assert main(words) == 0
        assert "1 pictures fetched, 0 copied, 0 there before, 1 failed" in capsys.readouterr().out
    assert main(["data", "fetch", str(tmp_path / "nothing"), "--output", str(tmp_path / "cache")]) == 2
    assert "no file that can be read" in capsys.readouterr().err
    assert main([*words, "--workers", "0"]) == 2


def test_a_recipes_sources(tmp_path):
    with serving({"/a.jpg": body(JPEG)}) as server:
        captions(tmp_path / "kale.parquet", [f"{server.url}/a.jpg"])
        source = f"{{name: kale, adapter: kale, path: {tmp_path}/kale.parquet, images: {tmp_path}/cache}}"
        stage = f"{{name: pretrain, data: [{source}], batch: {{size: 1}}, steps: 1, optim: {{lr: 0.1}}, init: x}}"
        (tmp_path / "recipe.yaml").write_text(f"name: mine\nstages: [{stage}]\n")
        words = ["data", "fetch", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "cache"), "--allow-private"]
        assert main(words) == 0
    assert len(cached(tmp_path / "cache")) == 1


def test_settings_that_make_no_sense():
    with pytest.raises(ConfigError):
        FetchConfig(per_host=0)
    with pytest.raises(ConfigError):
        WebConfig(seconds=0.0)


def test_silent_servers_have_a_reason_of_their_own():
    assert set(fetching.SILENCE) == {"no_connection", "timeout", "host_unknown", "certificate"}

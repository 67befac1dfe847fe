"""`xgenmm data view` over HTTP and in a real browser."""

import http.client
import io
import json
import re
import signal
import subprocess
import sys
import tarfile
from functools import partial
from html import unescape
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chromium import dom, needs_chromium, screenshot, share_of
from PIL import Image
from view_site import Site

from xgenmm.config import ConfigError
from xgenmm.data.prepare import Limits, Preparer
from xgenmm.data.shards import LinesShard
from xgenmm.data.sources import find_sources
from xgenmm.data.view.app import make_app, open_port
from xgenmm.data.view.boxes import Box, boxes_of
from xgenmm.data.view.catalogue import PAGE, Catalogue, Query, listed
from xgenmm.data.view.tokens import see
from xgenmm.types import IGNORE_INDEX, Conversation, Picture, Turn

MAGENTA, ORANGE = (230, 20, 200), (250, 140, 10)
"""Colours of a good picture and of one in quarantine: whether they are on a page can be seen."""
NASTY = "<script>document.title='XSS'</script><img src=x onerror=\"document.title='XSS'\">\"'><b>bold</b>"


def picture(colour: tuple[int, int, int] = MAGENTA, size: tuple[int, int] = (60, 40), form: str = "JPEG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, form, quality=95)
    return content.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Records of every kind, and some that cannot be used."""
    root = tmp_path_factory.mktemp("view")
    members = []
    for number in range(60):
        text = NASTY if number == 1 else f"caption number {number} with an Ünïcödé wörd"
        members += [(f"{number:03}.jpg", picture()), (f"{number:03}.txt", text.encode())]
    members += [("cut.jpg", picture(ORANGE, (300, 200))[:-200]), ("cut.txt", NASTY.encode())]
    members += [("blank.jpg", picture(ORANGE)), ("blank.txt", b"  ")]
    write_tar(root / "captions.tar", members)
    (root / "pics").mkdir()
    (root / "pics" / "a.png").write_bytes(picture(form="PNG"))
    pair = {"image": "pics/a.png", "prompt": "Which colour?", "chosen": "It is magenta.", "rejected": f"Red {NASTY}"}
    (root / "preferences.jsonl").write_text(json.dumps(pair) + "\n", encoding="utf-8")
    entities = [{"text": NASTY, "bbox": [0.1, 0.2, 0.5, 0.6], "confidence": 0.9}]
    twelve = [
        {"granularity": n // 2, "include_datacomp_raw_cap": bool(n % 2), "text": f"choice {n}"} for n in range(12)
    ]
    row = {
        "image": {"bytes": picture(), "path": "x.jpg"},
        "captions": json.dumps(twelve),
        "metadata": json.dumps({"length": 1, "entities": entities}),
    }
    pq.write_table(pa.Table.from_pylist([row]), root / "ocr.parquet")
    pages = io.BytesIO()
    frames = [Image.new("RGB", (80, 60), MAGENTA), Image.new("RGB", (60, 80), (20, 60, 220))]
    frames[0].save(pages, "TIFF", save_all=True, append_images=frames[1:])
    texts = {"texts": ["First words.", None, "Words between.", None], "images": [None, "p0", None, "p1"]}
    write_tar(root / "mint.tar", [("d.json", json.dumps(texts).encode()), ("d.tiff", pages.getvalue())])
    return root


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def site(folder, toy_processor):
    limits = Limits(tokens=toy_processor.config.max_tokens)

    def opened(source):
        return listed(source, Preparer(toy_processor, source.adapter, source.bind_adapter(), limits))

    catalogue = Catalogue([(source.name, partial(opened, source)) for source in find_sources(str(folder))])
    with Site(make_app(catalogue, "things")) as one:
        yield one


def ids(page: str) -> list[str]:
    return [unescape(name) for name in re.findall(r"<footer><span>(.*?)</span>", page)]


# ---- lists ----


def test_pages_hold_every_record_once(site):
    seen, start = [], ""
    while True:
        page = site.page(start=start) if start else site.page()
        seen += ids(page)
        following = re.search(r'rel="next" href="[^"]*start=([^"&]*)', page)
        if following is None:
            break
        assert len(ids(page)) == PAGE
        start = following[1]
    assert len(seen) == len(set(seen)) == 60 + 2 + 1 + 1 + 1
    assert "captions/captions.tar:cut" in seen


def test_filters_and_search(site):
    def shown(**values):
        return ids(site.page(**values))

    assert shown(source="mint") == ["mint/mint.tar:d"]
    assert shown(status="quarantine") == ["captions/captions.tar:cut", "captions/captions.tar:blank"]
    assert shown(status="quarantine", reason="text_empty") == ["captions/captions.tar:blank"]
    assert shown(words="NUMBER 42 WITH AN ünïcödé") == ["captions/captions.tar:042"]
    assert shown(words="mint.tar:d") == ["mint/mint.tar:d"]
    assert shown(words="no such words") == []
    assert len(shown(source="captions", status="ok")) == PAGE


def test_nobody_waits_for_a_search_through_everything(site, monkeypatch):
    """A page looks for some time and then offers to look on."""
    monkeypatch.setattr("xgenmm.data.view.catalogue.SECONDS", 0.0)
    page = site.page(words="number 59")
    assert ids(page) == []
    assert "look on" in page
    start = re.search(r'start=([^"&]*)', page)[1]
    assert start not in site.page(words="number 59", start=start).partition("rel=")[2]


def test_a_long_file_opens_at_once(tmp_path, monkeypatch):
    """Only as much of it is gone through as a page shows."""
    lines = [json.dumps({"instruction": f"Question {n}?", "output": "Yes."}) + "\n" for n in range(100_000)]
    (tmp_path / "instruct.jsonl").write_text("".join(lines))
    read = []
    walk = LinesShard.walk

    def counted(self, **options):
        for item in walk(self, **options):
            read.append(item.key)
            yield item

    monkeypatch.setattr(LinesShard, "walk", counted)
    monkeypatch.setattr("xgenmm.data.view.catalogue.SECONDS", 60.0)
    (source,) = find_sources(str(tmp_path), schema="instructions")
    catalogue = Catalogue([(source.name, partial(listed, source))])
    page = catalogue.page(Query())
    assert [entry.id for entry in page.entries] == [f"instruct/instruct.jsonl:line{n}" for n in range(1, PAGE + 1)]
    assert len(read) <= PAGE + 1
    assert catalogue.page(Query(), "0.99990").entries[-1].id.endswith(":line100000")


# ---- one record ----


def test_permalinks_are_by_id(site):
    name = "captions/captions.tar:042"
    page = site.page("/sample", id=name)
    assert f'<h1 class="path">{name}</h1>' in page
    assert "caption number 42" in page
    assert "captions.tar%3A041" in page
    assert "captions.tar%3A043" in page
    assert site.get("/sample", id="captions/captions.tar:nobody")[0].status == 404
    assert site.page("/sample", id=name, at=3) == site.page("/sample", id=name, at=42)  # a wrong hint does no harm


def test_the_twelve_captions_of_a_row(site):
    for variant in (0, 7, 11):
        assert f"choice {variant}<" in site.page("/sample", id="ocr/ocr.parquet:0", variant=variant)
    assert "one of 12" in site.page("/sample", id="ocr/ocr.parquet:0")


def test_what_the_model_sees_is_what_it_is_given(site):
    page = site.page("/sample", id="preferences/preferences.jsonl:line1")
    (article,) = re.findall(r'<article class="model">(.*?)</article>', page, re.DOTALL)
    trunk, chosen, rejected = re.split(r"<h4>(?:chosen|rejected)</h4>", article)  # both answers behind one beginning
    assert " target" not in trunk
    for article, answer in ((chosen, "It is magenta."), (rejected, "Red <script>")):
        targets = re.findall(r'class="token (?:text|special) target"[^>]*>(.*?)</span>', article)
        assert unescape("".join(targets)).startswith(answer)
        assert unescape(targets[-1]) == "<|im_end|>"
    assert re.search(r">6 . &lt;image&gt;<", trunk)  # 60 x 40: two tiles and the base tile, of two vision tokens each
    assert 'viewBox="0 0 56 28"' in trunk  # one row of two tiles of 28


def test_tokens_are_those_of_training(toy_processor):
    words = "Ünïcödé 日本 👩‍👩‍👧 plain"
    sample = Conversation(
        id="x",
        turns=(
            Turn(role="user", parts=(Picture(source=b"", name="p"), "What?")),
            Turn(role="assistant", parts=(words,)),
        ),
    )
    (outline,) = toy_processor.outlines(sample, lambda _: (60, 40))
    seen = see(outline, toy_processor)
    ids, labels = outline.example.input_ids.tolist(), outline.example.labels.tolist()
    assert [token for one in seen.tokens for token in one.ids] == ids
    assert "".join(token.text for token in seen.tokens if token.supervised) == words + "<|im_end|>"
    flags = [one.supervised for one in seen.tokens for _ in one.ids]
    assert flags[1:] == [label != IGNORE_INDEX for label in labels[:-1]]
    (canvas,) = seen.canvases
    assert (canvas.rows, canvas.cols, canvas.tiles, canvas.vision_tokens) == (1, 2, 3, 6)
    assert (canvas.shown_width, canvas.shown_height, canvas.left, canvas.top) == (42, 28, 7, 0)


def test_a_document_has_pictures_in_reading_order(site):
    page = site.page("/sample", id="mint/mint.tar:d")
    reading = re.search(r'<div class="reading document">(.*?)<section>', page, re.DOTALL)[1]
    order = re.findall(r"First words\.|Words between\.|number=\d", reading)
    assert order == ["First words.", "number=0", "Words between.", "number=1"]


def test_boxes_of_all_ways_of_writing():
    def box(words, *place):
        return Box(words=words, left=place[0], top=place[1], right=place[2], bottom=place[3])

    metadata = {"entities": [{"text": "sign", "bbox": [[0.1, 0.2], [0.3, 0.4]]}, [0.5, 0.5, 0.9, 0.8, 0.7, "a dog"]]}
    texts = [
        "<ocr>OPEN</ocr><bbox>[0.1, 0.2][0.5, 0.6]</bbox> and <object>a cat</object><bbox>0.3,0.3,0.4,0.4</bbox>",
        "<bbox>[0.9, 0.2][0.5, 0.6]</bbox> is none",
    ]
    assert boxes_of({"metadata": json.dumps(metadata)}, texts) == [
        box("sign", 0.1, 0.2, 0.3, 0.4),
        box("a dog", 0.5, 0.5, 0.9, 0.8),
        box("OPEN", 0.1, 0.2, 0.5, 0.6),
        box("a cat", 0.3, 0.3, 0.4, 0.4),
    ]
    assert boxes_of({"metadata": "{broken"}, []) == []
    assert boxes_of({"metadata": {"entities": [{"bbox": "x"}, 7]}}, []) == []


# ---- pictures and quarantine ----


def test_pictures_are_written_anew(site):
    answer, content = site.get("/picture", id="preferences/preferences.jsonl:line1", number=0)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
    assert content != picture(form="PNG")
    assert Image.open(io.BytesIO(content)).size == (60, 40)
    assert site.get("/picture", id="preferences/preferences.jsonl:line1", number=1)[0].status == 404


@pytest.mark.parametrize("key", ["cut", "blank"])
def test_pictures_in_quarantine_are_never_sent(site, key):
    """Also a whole one, of a record that cannot be used for its text."""
    name = f"captions/captions.tar:{key}"
    answer, content = site.get("/picture", id=name, number=0)
    assert answer.status == 403
    assert b"JFIF" not in content
    assert "<img" not in site.page("/sample", id=name)
    assert "<img" not in site.page(tab="quarantine")


def test_the_quarantine_tells_reason_and_first_bytes(site):
    page = site.page(tab="quarantine")
    assert "image_truncated" in page
    assert "text_empty" in page
    assert "ff d8 ff e0" in page  # the cut picture
    assert "20 20 " in page  # the blank text, and not the picture beside it
    assert "caption number" not in page


# ---- strangers' data and strangers' pages ----


@pytest.mark.parametrize(
    "path",
    [
        *("/?words=captions.tar:001", "/sample?id=captions/captions.tar:001", "/?tab=quarantine"),
        *("/sample?id=captions/captions.tar:cut", "/sample?id=preferences/preferences.jsonl:line1"),
        "/sample?id=ocr/ocr.parquet:0",
    ],
)
def test_markup_in_data_stays_text(site, path):
    answer, content = site.get(path)
    page = content.decode()
    assert answer.status == 200
    assert "<script" not in page
    assert "<b>bold" not in page
    assert not re.search(r"<img[^>]*onerror", page)
    assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_markup_in_addresses_stays_text(site):
    for path in ("/", "/sample"):
        for name in ("words", "source", "reason", "id", "start", "status"):
            answer, content = site.get(path, **{"id": "x", name: NASTY})
            assert b"<script" not in content or not answer.headers["Content-Type"].startswith("text/html")


def test_only_this_machine_by_its_own_name(site):
    """A stranger's page can lead a name of its own to this address: then the name is not ours."""
    assert site.get("/", host="evil.example")[0].status == 400
    assert site.get("/", host=f"localhost:{site.port}")[0].status == 200


@pytest.mark.slow
def test_the_command_serves_this_machine_until_it_is_stopped(folder):
    words = ["data", "view", str(folder), "--port", "0"]
    # Ctrl-C counts, even where whoever started the tests in the background had it ignored.
    heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    command = [sys.executable, "-m", "xgenmm.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heeds)
    try:
        url = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        connection = http.client.HTTPConnection("127.0.0.1", int(url[1]), timeout=20)
        connection.request("GET", "/")
        assert b"captions.tar:000" in connection.getresponse().read()
        connection.close()
        taken = subprocess.run(
            [sys.executable, "-m", "xgenmm.cli", "data", "view", str(folder), "--port", url[1]],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (taken.returncode, taken.stderr.count("\n")) == (2, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.communicate()
    with pytest.raises(ConfigError):
        open_port(99_999)


# ---- in the browser ----


@needs_chromium
def test_a_browser_runs_nothing_of_the_data(site):
    for path in ("/?words=captions.tar:001", "/sample?id=captions/captions.tar:001", "/sample?id=ocr/ocr.parquet:0"):
        page = dom(site.url(path))
        assert "<title>XSS" not in page
        assert "&lt;script&gt;document.title" in page


@needs_chromium
def test_a_browser_shows_pictures_and_none_of_the_quarantine(site):
    listed = screenshot(site.url("/", source="captions"))
    assert share_of(listed, MAGENTA) > 0.01
    detail = screenshot(site.url("/sample", id="captions/captions.tar:001"))
    assert share_of(detail, MAGENTA) > 0.02
    assert share_of(detail, (0x35, 0xD6, 0xDE), 20) > 0.0005  # the borders of tiles
    for url in (site.url("/", tab="quarantine"), site.url("/sample", id="captions/captions.tar:blank")):
        assert share_of(screenshot(url), ORANGE, 30) == 0.0


@needs_chromium
def test_a_browser_shows_boxes_over_the_picture(site):
    shot = screenshot(site.url("/sample", id="ocr/ocr.parquet:0"), height=1800)
    assert share_of(shot, (0xD1, 0x49, 0x5B), 8) > 0.0002

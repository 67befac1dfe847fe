"""`xgenmm data scan` as a whole: which files, which report."""

import json
from pathlib import Path

import pytest
from scans import JPEG, pair, talk, write_json, write_tar

from xgenmm.cli import main
from xgenmm.data.corpus import look_through
from xgenmm.data.scan import scan, scan_corpus


def corpus(root: Path) -> Path:
    write_tar(root / "captions" / "0.tar", [m for n in range(5) for m in pair(str(n))])
    write_tar(root / "captions" / "1.tar", [*pair("0"), *pair("1", b"")])
    write_json(root / "sft" / "llava.json", [talk("<image>a", "b", image="a.jpg"), talk("c", "")])
    (root / "sft" / "a.jpg").write_bytes(JPEG)
    return root


def test_the_report_does_not_depend_on_the_workers(tmp_path, monkeypatch):
    root = corpus(tmp_path / "corpus")
    before = sorted(root.rglob("*"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("no network"))
    reports = []
    for workers in (1, 2, 4):
        report = tmp_path / "out" / f"{workers}.jsonl"
        summary = scan(root, report, workers=workers)
        reports.append(report.read_bytes())
        assert (summary.files, summary.records, summary.quarantined, summary.shards) == (3, 9, 2, 0)
    assert reports[0] == reports[1] == reports[2]
    assert sorted(root.rglob("*")) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.jsonl", "2.jsonl", "4.jsonl"]
    lines = [json.loads(line) for line in reports[0].decode().splitlines()]
    assert all(list(line) == ["path", "kind", "key", "status", "reason", "detail"] for line in lines)


def test_the_command(tmp_path, capsys):
    root = corpus(tmp_path / "corpus")
    assert main(["data", "scan", str(root), "--output", str(tmp_path / "r.jsonl"), "--workers", "1"]) == 0
    assert "9 records: 7 good, 2 quarantined" in capsys.readouterr().out
    assert main(["data", "scan", str(root / "none"), "--output", str(tmp_path / "r.jsonl")]) == 2
    assert main(["data", "scan", str(root), "--output", str(tmp_path / "r.jsonl"), "--schema", "lava"]) == 2
    assert 'did you mean "llava"' in capsys.readouterr().err


def test_folders_of_pictures(tmp_path):
    for name, content in (("a.jpg", JPEG), ("b.png", b""), ("c.x.jpg", JPEG)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a.txt").write_text("a cloud")
    scan(tmp_path, tmp_path / "out" / "r.jsonl", workers=1)
    lines = [json.loads(line) for line in (tmp_path / "out" / "r.jsonl").read_text().splitlines()]
    assert [(Path(line["path"]).name, line["reason"]) for line in lines] == [
        ("a.jpg", ""),
        ("b.png", "sample_incomplete"),
        ("c.x.jpg", "sample_incomplete"),
    ]


def lines(root, tmp_path, **settings):
    """File name and reason of every line of the report."""
    scan(root, tmp_path / "out" / "r.jsonl", workers=1, **settings)
    report = [json.loads(line) for line in (tmp_path / "out" / "r.jsonl").read_text().splitlines()]
    return [(str(Path(line["path"]).relative_to(root)), line["kind"], line["reason"]) for line in report]


def test_half_a_pair_in_a_folder_is_told(tmp_path):
    root = tmp_path / "pairs"
    root.mkdir()
    for name, content in (
        ("a.jpg", JPEG),
        ("a.txt", b"a cloud"),
        ("b.jpg", JPEG),
        ("c.txt", b"a cloud"),
        ("README.txt", b"about"),
        ("d.JPG", JPEG),
        ("d.jpg", b""),
        ("d.txt", b"a cloud"),
    ):
        (root / name).write_bytes(content)  # fmt: skip
    assert lines(root, tmp_path) == [
        ("a.jpg", "record", ""),
        ("b.jpg", "record", "sample_incomplete"),
        ("c.txt", "record", "sample_incomplete"),
        ("d.JPG", "record", ""),
        ("d.jpg", "record", "sample_incomplete"),
    ]


def test_pictures_alone_are_judged_by_their_pixels_unless_captions_are_asked_for(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for name in ("a.jpg", "a.png"):
        (root / name).write_bytes(JPEG)
    assert lines(root, tmp_path) == [("a.jpg", "record", ""), ("a.png", "record", "")]
    assert lines(root, tmp_path, schema="captions") == [("a.jpg", "record", "sample_incomplete")]


def test_what_is_named_like_data_and_is_none_is_told(tmp_path):
    root = corpus(tmp_path / "corpus")
    for name in ("captions/2.tar.gz", "sft/more.jsonl.gz", "sft/all.zip"):
        (root / name).write_bytes(b"\x1f\x8b")
    for name in ("captions/3.tar", "sft/x.parquet", "sft/y.jsonl"):
        (root / name).symlink_to(tmp_path / "nowhere")
    (root / "notes.md").write_text("of no concern")
    found = [one for one in lines(root, tmp_path) if one[1] == "shard"]
    assert found == [
        ("captions/2.tar.gz", "shard", "archive_corrupt"),
        ("captions/3.tar", "shard", "archive_corrupt"),
        ("sft/all.zip", "shard", "archive_corrupt"),
        ("sft/more.jsonl.gz", "shard", "archive_corrupt"),
        ("sft/x.parquet", "shard", "parquet_corrupt"),
        ("sft/y.jsonl", "shard", "json_invalid"),
    ]
    assert "not opened: 1 .md" in scan(root, tmp_path / "out" / "r.jsonl", workers=1).text()


def test_the_report_is_no_data(tmp_path):
    root = corpus(tmp_path / "corpus")
    first = scan(root, root / "report.jsonl", workers=2)
    before = (root / "report.jsonl").read_bytes()
    assert scan(root, root / "report.jsonl", workers=1) == first
    assert (root / "report.jsonl").read_bytes() == before


def test_a_schema_may_be_written_as_its_makers_do(tmp_path):
    rows = [{"images": [None, "https://example.org/a.jpg"], "texts": ["a", None]}]
    path = write_json(tmp_path / "x.json", rows)
    for name in ("MINT-1T HTML", "mint", "obelics", "OBELICS", "interleaved"):
        (line,) = scan_corpus(look_through(path), name)
        assert line.status == "ok"
    for name in ("DataComp-1B", "cc12m", "caption_rows", "webdataset"):
        (line,) = scan_corpus(look_through(write_tar(tmp_path / "s.tar", pair("0"))), name)
        assert line.status == "ok"


def test_images_may_lie_elsewhere(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(JPEG)
    write_json(tmp_path / "sft" / "llava.json", [talk("<image>a", "b", image="a.jpg")])
    assert lines(tmp_path / "sft", tmp_path) == [("llava.json", "record", "image_missing")]
    assert lines(tmp_path / "sft", tmp_path, images=tmp_path / "pictures") == [("llava.json", "record", "")]

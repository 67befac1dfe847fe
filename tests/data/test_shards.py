"""Shards: rows of whole files, an account of what damaged files lost, and every row read again by its place."""

import io
import json
import tarfile
import uuid
from itertools import chain

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xgenmm.config import ConfigError
from xgenmm.data.files import Remote, place_of
from xgenmm.data.quarantine import BadSample
from xgenmm.data.records import Damage, Member, Record
from xgenmm.data.shards import open_shards


def make_tar(path, members):
    """Members as (name, bytes) in order."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def walk(*patterns, images=None):
    """Good records, and everything else, of all shards."""
    shards = open_shards("source", [str(pattern) for pattern in patterns], images)
    found = [(shard, item) for shard in shards for item in shard.walk()]
    good = [(shard, item) for shard, item in found if isinstance(item, Record) and item.fields is not None]
    for shard, record in good:
        assert shard.read(record.key, record.members) == record.fields
    return [item for _, item in good], [item for _, item in found if item not in [one for _, one in good]]


def reasons(others):
    return [(item.key if isinstance(item, Record) else "", item.reason) for item in others]


PAIRS = [
    (f"{key}.{extension}", f"{key}{extension}".encode()) for key in ("0", "1", "2") for extension in ("jpg", "txt")
]


def test_tar_members_of_one_key_are_one_row(tmp_path):
    members = [*PAIRS, ("a.b/x.JPG", b"upper"), ("a.b/._x.jpg", b"mac"), ("a.b/x.left.png", b"two dots")]
    make_tar(tmp_path / "s-0.tar", members)
    make_tar(tmp_path / "s-1.tar", [("0.txt", b"other shard")])
    records, others = walk(tmp_path / "*.tar")
    assert [record.key for record in records] == ["0", "1", "2", "a.b/x", "0"]
    assert records[1].fields == {"jpg": b"1jpg", "txt": b"1txt"}
    assert records[3].fields == {"jpg": b"upper", "left.png": b"two dots"}
    assert others == []


def test_tar_keys_that_are_not_together_are_no_rows(tmp_path):
    make_tar(tmp_path / "s.tar", sorted(PAIRS, key=lambda member: member[0][-3:]))
    records, others = walk(tmp_path / "s.tar")
    assert records == []
    assert reasons(others) == [(key, "key_fragmented") for key in "012"]


def test_a_damaged_header_in_the_middle_costs_its_member_and_no_other(tmp_path):
    path = make_tar(tmp_path / "s.tar", PAIRS)
    data = bytearray(path.read_bytes())
    data[4 * 512 + 150] ^= 0xFF  # in the checksum of the third header: each member is one header and one block
    path.write_bytes(data)
    records, others = walk(path)
    assert [sorted(record.fields) for record in records] == [["jpg", "txt"], ["txt"], ["jpg", "txt"]]
    assert reasons(others) == [("", "archive_corrupt")]
    assert "byte 2048" in others[0].detail


@pytest.mark.parametrize("cut", [512 * 11 + 2, 512 * 10 + 100])
def test_cut_tar_gives_whole_rows_and_reports_the_cut(tmp_path, cut):
    """Cut in the last member's content, and in its header."""
    path = make_tar(tmp_path / "s.tar", PAIRS)
    path.write_bytes(path.read_bytes()[:cut])
    records, others = walk(path)
    assert [record.key for record in records if len(record.fields) == 2] == ["0", "1"]
    assert {item.reason for item in others} == {"archive_truncated"}


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, b"\x1f\x8b" + b"\0" * 600])
def test_not_a_tar_is_reported(tmp_path, content):
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    records, others = walk(path)
    assert records == []
    assert others[-1].reason in ("shard_empty", "archive_corrupt")


def test_links_and_doubles_are_reported(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("0.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for content in (b"first", b"again"):
            member = tarfile.TarInfo("1.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    records, others = walk(path)
    assert [record.fields for record in records] == [{"txt": b"first"}]
    assert [item.reason for item in others] == ["archive_member_type", "key_duplicate"]


ROWS = [{"id": 1, "text": "ü€"}, {"id": 2, "list": [[], {"a": "]"}]}, {"id": 3}]


@pytest.mark.parametrize("options", [{}, {"ensure_ascii": False}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_json_elements_are_found_by_their_bytes(tmp_path, options, bom):
    path = tmp_path / "a.json"
    path.write_text(f"{bom} {json.dumps(ROWS, **options)}\n", encoding="utf-8")
    records, others = walk(path)
    assert [record.fields for record in records] == ROWS
    assert others == []


@pytest.mark.parametrize(
    ("text", "good", "reason"),
    [
        ('[{"id": 1}', 1, "json_invalid"),  # cut off
        ('[{"id": 1}, {"id": 2', 1, "json_invalid"),
        ('[{"id": 1},]', 1, "json_invalid"),
        ('[{"id": 1} {"id": 2}]', 1, "json_invalid"),
        ('[,{"id": 1}]', 0, "json_invalid"),
        ('[{"id": 1}] [', 1, "json_invalid"),
        ("", 0, "shard_empty"),
        ('"text"', 0, "json_invalid"),
        ("[]", 0, "shard_empty"),
    ],
)
def test_damaged_json_keeps_what_stands_before_the_damage(tmp_path, text, good, reason):
    (tmp_path / "a.json").write_text(text)
    records, others = walk(tmp_path / "a.json")
    assert [record.fields["id"] for record in records] == [1] * good
    assert reasons(others) == [("", reason)]


def test_json_columns_and_stray_elements(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"url": ["a", "b"], "caption": ["c", "d"]}))
    (tmp_path / "b.json").write_text('[{"id": 1}, "stray"]')
    records, others = walk(tmp_path / "a.json", tmp_path / "b.json")
    assert records[1].fields == {"url": "b", "caption": "d"}
    assert reasons(others) == [("1", "schema_wrong_type")]


def test_json_lines_are_numbered_as_editors_do(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n\n{"id": 2\n{"id": "ü"}', encoding="utf-8")
    (shard,) = open_shards("dpo", [str(path)], tmp_path / "pictures")
    items = list(shard.walk())
    assert [item.key for item in items] == ["line1", "line3", "line4"]
    assert items[2].fields == {"id": "ü"}
    assert items[1].reason == "json_invalid"
    assert shard.root("line4") == tmp_path / "pictures"


def test_parquet_rows_are_read_again_by_group_and_place(tmp_path):
    rows = [{"id": number, "image": {"bytes": b"x" * number}} for number in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=4)
    records, others = walk(tmp_path / "a.parquet")
    assert [record.fields for record in records] == rows
    assert [record.key for record in records] == [str(number) for number in range(10)]
    assert [record.members[0][1:] for record in records[3:5]] == [(0, 3), (1, 0)]
    assert others == []


def test_folder_rows_are_pictures_with_the_files_beside_them(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.PNG", "b.txt", "b.json", "a.jpg", "deep/a.webp", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    records, _ = walk(tmp_path)
    assert {record.key: sorted(record.fields) for record in records} == {
        "a": ["jpg"],
        "b": ["json", "png", "txt"],
        "deep/a": ["webp"],
    }
    assert records[1].fields["png"] == tmp_path / "b.PNG"


def test_a_folder_of_shards_is_its_shards(tmp_path):
    (tmp_path / "deep").mkdir()
    make_tar(tmp_path / "b.tar", PAIRS[:2])
    make_tar(tmp_path / "deep" / "a.tar", PAIRS[2:4])
    assert [shard.place.name for shard in open_shards("x", [str(tmp_path)])] == ["b.tar", "a.tar"]


def test_names_with_brackets_are_names(tmp_path):
    make_tar(tmp_path / "a[1].tar", PAIRS)
    records, _ = walk(tmp_path / "a[1].tar")
    assert len(records) == 3


def test_paths_that_give_no_shard(tmp_path):
    for name in ("a.tar", "a.json", "a.csv"):
        (tmp_path / name).touch()
    for pattern in (str(tmp_path / "*.parquet"), "memory://nothing/*.tar", "nosuchprotocol://a.tar"):
        with pytest.raises(ConfigError, match=r"no file matches|cannot look up"):
            open_shards("x", [pattern])
    with pytest.raises(ConfigError, match="one kind of file at a time"):
        open_shards("x", [str(tmp_path / "a.tar"), str(tmp_path / "a.json")])
    with pytest.raises(ConfigError, match="cannot read"):
        open_shards("x", [str(tmp_path / "a.csv")])


@pytest.fixture
def remote(tmp_path):
    """The same files here and behind URLs."""
    where = f"memory://{uuid.uuid4().hex}"
    (tmp_path / "pictures").mkdir()
    make_tar(tmp_path / "a.tar", PAIRS)
    make_tar(tmp_path / "b.tar", PAIRS[:4])
    (tmp_path / "c.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    (tmp_path / "d.json").write_text(json.dumps(ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS[:1] * 3), tmp_path / "e.parquet", row_group_size=2)
    for name in ("x.jpg", "x.txt"):
        (tmp_path / "pictures" / name).write_bytes(name.encode())
    files = fsspec.filesystem("memory")
    for path in sorted(tmp_path.rglob("*.*")):
        files.pipe(f"{where}/{path.relative_to(tmp_path)}", path.read_bytes())
    yield tmp_path, where
    files.rm(where, recursive=True)


@pytest.mark.parametrize("name", ["*.tar", "c.jsonl", "d.json", "e.parquet"])
def test_behind_a_url_is_the_same(remote, name):
    folder, where = remote
    here, there = walk(folder / name), walk(f"{where}/{name}")
    assert len(here[0]) >= 2
    assert here == there


def test_a_folder_behind_a_url(remote):
    _, where = remote
    ((record,), others) = walk(f"{where}/pictures")
    assert others == []
    assert {name: place.read_bytes() for name, place in record.fields.items()} == {"jpg": b"x.jpg", "txt": b"x.txt"}


def test_a_file_url_is_a_path(remote):
    folder, _ = remote
    (shard,) = open_shards("x", [f"file://{folder / 'a.tar'}"])
    assert shard.place == folder / "a.tar"


def test_remote_reads_are_tried_again_and_short_ones_are_errors(remote, monkeypatch):
    _, where = remote
    place = place_of(f"{where}/c.jsonl")
    assert isinstance(place, Remote)
    monkeypatch.setattr("xgenmm.data.files.time.sleep", lambda _: None)
    real = fsspec.implementations.memory.MemoryFileSystem.cat_file
    calls = []

    def flaky(self, path, start=None, end=None, **options):
        calls.append(path)
        if len(calls) < 3:
            raise ConnectionError("gone")
        return real(self, path, start=start, end=end, **options)

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "cat_file", flaky)
    assert place.read_range(0, 9) == b'{"id": 1}'
    assert len(calls) == 3
    with pytest.raises(OSError, match="20 of 100 bytes"):
        place.read_range(0, 100)


def test_a_row_that_is_gone_is_an_error(tmp_path):
    path = make_tar(tmp_path / "a.tar", PAIRS)
    (shard,) = open_shards("x", [str(path)])
    record = next(iter(shard.walk()))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(OSError, match="of 4 bytes"):
        shard.read(record.key, record.members)


def test_every_damage_is_one(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    (tmp_path / "c.jsonl").touch()
    found = chain(walk(tmp_path / "b.parquet")[1], walk(tmp_path / "c.jsonl")[1])
    assert [(type(item), item.reason) for item in found] == [(Damage, "parquet_corrupt"), (Damage, "shard_empty")]
    with pytest.raises(BadSample, match="parquet_corrupt"):
        open_shards("x", [str(tmp_path / "b.parquet")])[0].read("0", [Member("", 0, 0)])

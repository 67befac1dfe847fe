"""Readers: rows of whole files, and an account of what damaged files lost."""

import io
import json
import tarfile

import pytest

from xgenmm.config import ConfigError
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import open_reader


def make_tar(path, members):
    """Members as (name, bytes) in order."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def read_all(reader):
    return [reader.read(index) for index in range(len(reader))]


def reasons(reader):
    return [(fault.id, fault.reason) for fault in reader.faults]


PAIRS = [
    (f"{key}.{extension}", f"{key}{extension}".encode()) for key in ("0", "1", "2") for extension in ("jpg", "txt")
]


def test_tar_members_of_one_key_are_one_row(tmp_path):
    members = [*PAIRS, ("a.b/x.JPG", b"upper"), ("a.b/._x.jpg", b"mac"), ("a.b/x.left.png", b"two dots")]
    make_tar(tmp_path / "s-0.tar", members)
    make_tar(tmp_path / "s-1.tar", [("0.txt", b"other shard")])
    reader = open_reader("pairs", [str(tmp_path / "*.tar")])
    rows = read_all(reader)
    assert [row.id for row in rows] == [
        *(f"pairs/s-0.tar:{key}" for key in ("0", "1", "2", "a.b/x")),
        "pairs/s-1.tar:0",
    ]
    assert rows[1].fields == {"jpg": b"1jpg", "txt": b"1txt"}
    assert rows[3].fields == {"jpg": b"upper", "left.png": b"two dots"}
    assert reader.faults == []


def test_tar_keys_that_are_not_together_are_no_rows(tmp_path):
    make_tar(tmp_path / "s.tar", sorted(PAIRS, key=lambda member: member[0][-3:]))
    reader = open_reader("pairs", [str(tmp_path / "s.tar")])
    assert read_all(reader) == []
    assert [reason for _, reason in reasons(reader)] == [*["key_fragmented"] * 3, "shard_empty"]


def test_a_damaged_header_in_the_middle_costs_its_member_and_no_other(tmp_path):
    path = make_tar(tmp_path / "s.tar", PAIRS)
    data = bytearray(path.read_bytes())
    data[4 * 512 + 150] ^= 0xFF  # in the checksum of the third header: each member is one header and one block
    path.write_bytes(data)
    reader = open_reader("pairs", [str(path)])
    assert [sorted(row.fields) for row in read_all(reader)] == [["jpg", "txt"], ["txt"], ["jpg", "txt"]]
    assert reasons(reader) == [("pairs/s.tar", "archive_corrupt")]
    assert "byte 2048" in reader.faults[0].detail


@pytest.mark.parametrize("cut", [512 * 11 + 2, 512 * 10 + 100])
def test_cut_tar_gives_whole_rows_and_reports_the_cut(tmp_path, cut):
    """Cut in the last member's content, and in its header."""
    path = make_tar(tmp_path / "s.tar", PAIRS)
    path.write_bytes(path.read_bytes()[:cut])
    reader = open_reader("pairs", [str(path)])
    whole = [row.id for row in read_all(reader) if len(row.fields) == 2]
    assert whole == ["pairs/s.tar:0", "pairs/s.tar:1"]
    assert {fault.reason for fault in reader.faults} <= {"archive_truncated", "archive_corrupt"}
    assert reader.faults


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, b"\x1f\x8b" + b"\0" * 600])
def test_not_a_tar_is_reported(tmp_path, content):
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    reader = open_reader("pairs", [str(path)])
    assert len(reader) == 0
    assert reasons(reader)[-1] == ("pairs/s.tar", "shard_empty")


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
    reader = open_reader("pairs", [str(path)])
    assert [row.fields for row in read_all(reader)] == [{"txt": b"first"}]
    assert [reason for _, reason in reasons(reader)] == ["archive_member_type", "key_duplicate"]


def test_json_list_and_its_bad_rows(tmp_path):
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps([{"id": 1}, "stray"]), encoding="utf-8")
    (tmp_path / "b.json").write_text('[{"id": 1}', encoding="utf-8")
    (tmp_path / "c.json").write_text('{"id": 1}', encoding="utf-8")
    reader = open_reader("sft", [str(tmp_path / "*.json")])
    assert reader.read(0).fields == {"id": 1}
    assert reader.read(0).root == tmp_path
    assert reader.row_id(1) == "sft/a.json:1"
    with pytest.raises(BadSample, match="schema_wrong_type"):
        reader.read(1)
    assert reasons(reader) == [("sft/b.json", "json_invalid"), ("sft/c.json", "json_invalid")]


def test_json_lines_are_numbered_as_editors_do(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n\n{"id": 2\n{"id": "ü"}', encoding="utf-8")
    reader = open_reader("dpo", [str(path)], images=tmp_path / "pictures")
    assert [reader.row_id(i) for i in range(len(reader))] == [f"dpo/a.jsonl:line{n}" for n in (1, 3, 4)]
    assert reader.read(2).fields == {"id": "ü"}
    assert reader.read(2).root == tmp_path / "pictures"
    with pytest.raises(BadSample, match="json_invalid"):
        reader.read(1)


def test_folder_rows_are_pictures_with_the_files_beside_them(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.PNG", "b.txt", "a.jpg", "deep/a.webp", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    reader = open_reader("own", [str(tmp_path)])
    assert [sorted(row.fields) for row in read_all(reader)] == [["jpg"], ["png", "txt"], ["webp"]]
    assert len({reader.row_id(index) for index in range(3)}) == 3


def test_paths_that_give_no_reader(tmp_path):
    (tmp_path / "a.tar").touch()
    (tmp_path / "a.json").touch()
    (tmp_path / "a.csv").touch()
    with pytest.raises(ConfigError, match="no file matches"):
        open_reader("x", [str(tmp_path / "*.parquet")])
    with pytest.raises(ConfigError, match="one kind of file at a time"):
        open_reader("x", [str(tmp_path / "a.tar"), str(tmp_path / "a.json")])
    with pytest.raises(ConfigError, match="cannot read"):
        open_reader("x", [str(tmp_path / "a.csv")])

"""`xgenmm data scan`: archives that are damaged, doubled, or would do harm."""

import io
import tarfile

import pytest
from scans import JPEG, found, pair, records, write_tar


def test_a_damaged_header_costs_one_sample(tmp_path):
    path = write_tar(tmp_path / "s.tar", [member for n in range(6) for member in pair(str(n))])
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        data[archive.getmember("2.txt").offset + 150] ^= 0xFF
    path.write_bytes(data)
    assert found(path) == {
        **{("record", str(n)): ["ok"] for n in (0, 1, 3, 4, 5)},
        ("record", "2"): ["sample_incomplete"],
        ("shard", ""): ["archive_corrupt"],
    }


def test_a_cut_archive_keeps_what_is_whole(tmp_path):
    path = write_tar(tmp_path / "s.tar", [member for n in range(4) for member in pair(str(n))])
    with tarfile.open(path) as archive:
        place = archive.getmember("2.jpg").offset_data
    path.write_bytes(path.read_bytes()[: place + 100])
    whole = {("record", "0"): ["ok"], ("record", "1"): ["ok"]}
    assert found(path) == {**whole, ("record", "2"): ["archive_truncated"], ("shard", ""): ["archive_truncated"]}
    path.write_bytes(path.read_bytes()[: place - 400])  # within the header
    assert found(path) == {**whole, ("shard", ""): ["archive_truncated"]}


def test_missing_end_blocks_cost_no_sample(tmp_path):
    path = write_tar(tmp_path / "s.tar", [*pair("0"), *pair("1")])
    path.write_bytes(path.read_bytes().rstrip(b"\0") + bytes(512 - len(path.read_bytes().rstrip(b"\0")) % 512))
    assert records(path) == {"0": "ok", "1": "ok"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "shard_empty"), (bytes(10240), "shard_empty"), (b"no tar " * 500, "archive_corrupt"),
     (b"\x1f\x8b\x08" + bytes(2000), "archive_corrupt")],
)  # fmt: skip
def test_what_is_no_archive(tmp_path, content, reason):
    (tmp_path / "s.tar").write_bytes(content)
    assert found(tmp_path / "s.tar") == {("shard", ""): [reason]}


def test_doubles_and_fragments(tmp_path):
    double = write_tar(tmp_path / "double.tar", [*pair("a"), *pair("b"), *pair("a")])
    assert found(double) == {("record", "a"): ["ok", "key_duplicate"], ("record", "b"): ["ok"]}
    torn = [("a.jpg", JPEG), ("b.jpg", JPEG), ("a.txt", b"x"), ("b.txt", b"x"), *pair("c")]
    fragments = found(write_tar(tmp_path / "fragments.tar", torn))
    assert fragments == {
        ("record", "c"): ["ok"],
        ("record", "a"): ["key_fragmented"],
        ("record", "b"): ["key_fragmented"],
    }


def test_members_that_could_do_harm(tmp_path):
    def special(name, kind, target=""):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        return name, member

    members = [
        *pair("../up"),
        *pair("/etc/abs"),
        special("link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ("link.txt", b"a"),
        special("hard.jpg", tarfile.LNKTYPE, "good.jpg"),
        ("hard.txt", b"a"),
        special("pipe.jpg", tarfile.FIFOTYPE),
        special("device.jpg", tarfile.CHRTYPE),
        special("folder.jpg", tarfile.DIRTYPE),
        special("folder", tarfile.DIRTYPE),
        *pair("new\nline"),
        *pair("good"),
    ]
    assert records(write_tar(tmp_path / "s.tar", members)) == {
        "good": "ok",
        "../up": "path_escape",
        "/etc/abs": "path_escape",
        **dict.fromkeys(["link", "hard", "pipe", "device", "folder"], "archive_member_type"),
        "new\nline": "key_invalid",
    }


def test_long_names_are_followed(tmp_path):
    name = "folder/" * 30 + "x" * 120
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "s.tar", "w", format=form) as archive:
            for suffix, content in (("jpg", JPEG), ("txt", b"a cloud")):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        assert records(tmp_path / "s.tar") == {name: "ok"}


def test_a_header_with_a_negative_size_leads_nowhere_back(tmp_path):
    path = write_tar(tmp_path / "s.tar", [member for n in range(4) for member in pair(str(n))])
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        place = archive.getmember("1.txt").offset
    data[place + 124 : place + 136] = (-3072 & (1 << 96) - 1).to_bytes(12, "big")  # GNU's binary numbers
    data[place + 148 : place + 156] = b" " * 8
    data[place + 148 : place + 155] = b"%06o\0" % sum(data[place : place + 512])
    path.write_bytes(data)
    assert found(path) == {
        **{("record", str(n)): ["ok"] for n in (0, 2, 3)},
        ("record", "1"): ["sample_incomplete"],
        ("shard", ""): ["archive_corrupt"],
    }


def test_a_member_that_says_it_is_huge_is_not_read(tmp_path):
    path = write_tar(tmp_path / "s.tar", [*pair("0"), *pair("1")])
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        place = archive.getmember("1.jpg").offset
    data[place + 124 : place + 136] = b"%011o\0" % (7 << 30)
    data[place + 148 : place + 156] = b" " * 8
    data[place + 148 : place + 155] = b"%06o\0" % sum(data[place : place + 512])
    path.write_bytes(data)
    assert found(path) == {
        ("record", "0"): ["ok"],
        ("record", "1"): ["image_too_large"],
        ("shard", ""): ["archive_truncated"],
    }


def test_doubles_side_by_side_and_empty_members(tmp_path):
    members = [*pair("a"), *pair("a"), *pair("b", image=b""), *pair("c", text=b""), *pair("d")]
    assert found(write_tar(tmp_path / "s.tar", members)) == {
        ("record", "a"): ["ok", "key_duplicate"],
        ("record", "b"): ["image_empty"],
        ("record", "c"): ["text_empty"],
        ("record", "d"): ["ok"],
    }


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_all_kinds(tmp_path, form):
    names = ["caf\u00e9", "cafe\u0301", "\u6f22\u5b57/\u5b57", "with blank", "[0-9]*?", "\U0001f600"]
    with tarfile.open(tmp_path / "s.tar", "w", format=form) as archive:
        for name in names:
            for suffix, content in (("jpg", JPEG), ("txt", b"a cloud")):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    assert records(tmp_path / "s.tar") == dict.fromkeys(names, "ok")


def test_a_hole_of_several_headers_is_bridged(tmp_path):
    path = write_tar(tmp_path / "s.tar", [member for n in range(8) for member in pair(str(n))])
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        start, end = archive.getmember("2.txt").offset, archive.getmember("5.jpg").offset + 100
    data[start:end] = b"x" * (end - start)
    path.write_bytes(data)
    reasons = found(path)
    assert [key for (_, key), reason in reasons.items() if reason == ["ok"]] == ["0", "1", "6", "7"]
    assert {key: reason for (_, key), reason in reasons.items() if reason != ["ok"]} == {
        "2": ["sample_incomplete"],
        "5": ["sample_incomplete"],
        "": ["archive_corrupt"],
    }

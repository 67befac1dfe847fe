"""`xgenmm data scan`: tables that are damaged as files."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scans import found, records, talk, write_json

from xgenmm.data import parquet, readers
from xgenmm.data.corpus import look_through
from xgenmm.data.scan import scan_corpus
from xgenmm.data.shards import open_shards


def test_damaged_json_keeps_the_rows_before(tmp_path):
    path = write_json(tmp_path / "llava.json", [talk("a", "b"), talk("c", "d"), talk("e", "f")])
    path.write_bytes(path.read_bytes()[:-30])
    assert found(path) == {("record", "0"): ["ok"], ("record", "1"): ["ok"], ("shard", ""): ["json_invalid"]}
    path.write_text(json.dumps([talk("a", "b")]), encoding="utf-16")
    assert found(path) == {("shard", ""): ["text_invalid_utf8"]}
    path.write_text("[]")
    assert found(path) == {("shard", ""): ["shard_empty"]}


def test_lines_that_are_none(tmp_path):
    path = tmp_path / "llava.jsonl"
    good = json.dumps(talk("a", "b"))
    path.write_bytes("\n".join([good, "{bad", "", '"stray"', good]).encode() + b"\n\xff\xfe\n")
    assert records(path) == {
        "line1": "ok",
        "line2": "json_invalid",
        "line4": "schema_wrong_type",
        "line5": "ok",
        "line6": "text_invalid_utf8",
    }


def test_parquet_damages(tmp_path):
    rows = [{"url": f"https://example.org/{n}.jpg", "caption": f"a cat with the number {n}"} for n in range(300)]
    path = tmp_path / "kale.parquet"
    options = {"row_group_size": 100, "write_page_checksum": True, "compression": "none", "use_dictionary": False}
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    data = bytearray(path.read_bytes())
    data[data.index(b"a cat with the number 150")] ^= 0xFF
    path.write_bytes(data)
    findings = list(scan_corpus(look_through(path)))
    assert [finding.key for finding in findings if finding.status == "ok"] == [
        *map(str, range(100)),
        *map(str, range(200, 300)),
    ]
    (shard,) = [finding for finding in findings if finding.kind == "shard"]
    assert (shard.reason, shard.lost) == ("parquet_corrupt", 100)
    path.write_bytes(data[:-20])
    assert found(path) == {("shard", ""): ["parquet_corrupt"]}
    pq.write_table(pa.Table.from_pylist(rows[:0], schema=pa.schema({"url": pa.string(), "caption": pa.string()})), path)
    assert found(path) == {("shard", ""): ["shard_empty"]}
    pq.write_table(pa.table({"url": ["https://example.org/a.jpg"]}), path)
    assert records(path, "kale") == {"0": "schema_missing_field"}


def test_a_bad_byte_costs_its_own_row(tmp_path):
    rows = [json.dumps(talk(f"question {n}", "Stra\u00dfe" if n == 1 else "b"), ensure_ascii=False) for n in range(3)]
    content = b"[" + b", ".join(row.encode("latin-1" if n == 1 else "utf-8") for n, row in enumerate(rows)) + b"]"
    (tmp_path / "llava.json").write_bytes(content)
    assert found(tmp_path / "llava.json") == {
        ("record", "0"): ["ok"],
        ("record", "1"): ["text_invalid_utf8"],
        ("record", "2"): ["ok"],
    }


GOOD = json.dumps(talk("a", "b"))


@pytest.mark.parametrize(
    ("content", "good", "shard"),
    [
        (f"[{GOOD}, {GOOD}, ]", 2, "json_invalid"),
        (f"[{GOOD} {GOOD}]", 1, "json_invalid"),
        (f"[{GOOD}, {GOOD}] and more", 2, "json_invalid"),
        (f"[{GOOD}, {GOOD[:40]}", 1, "json_invalid"),
        (f"[{GOOD},\n\n  {GOOD}\r\n]\n", 2, None),
        (f"{GOOD}\n{GOOD}\n", 2, None),  # lines under the name of JSON
        (f'{{"data": {GOOD}}}', 0, "json_invalid"),
        ("", 0, "shard_empty"),
        ("   \n", 0, "json_invalid"),
        ("null", 0, "json_invalid"),
        (f"[{GOOD}, {'[' * 100_000}", 1, "json_invalid"),
        ("{" * 100_000, 0, "json_invalid"),
    ],
)
def test_json_of_all_kinds(tmp_path, content, good, shard):
    (tmp_path / "llava.json").write_text(content, newline="")
    reasons = found(tmp_path / "llava.json")
    assert sum(reason == ["ok"] for (kind, _), reason in reasons.items() if kind == "record") == good
    assert reasons.get(("shard", "")) == (None if shard is None else [shard])


def test_a_name_that_stands_twice_in_a_row_is_told(tmp_path):
    double = GOOD.replace('"id": "x"', '"id": "x", "conversations": []')
    (tmp_path / "llava.json").write_text(f"[{GOOD}, {double}]")
    assert records(tmp_path / "llava.json") == {"0": "ok", "1": "json_invalid"}
    (tmp_path / "llava.jsonl").write_text(f"{double}\n{GOOD}\n")
    assert records(tmp_path / "llava.jsonl") == {"line1": "json_invalid", "line2": "ok"}


def test_lines_of_all_kinds(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST_LINE", 1000)
    monkeypatch.setattr(readers, "_READ_AT_ONCE", 64)
    long = json.dumps(talk("a" * 2000, "b"))
    lines = ["\ufeff" + GOOD, "", "   ", GOOD + "\r", long, "[" * 900, GOOD]
    (tmp_path / "llava.jsonl").write_bytes("\n".join(lines).encode())
    assert records(tmp_path / "llava.jsonl") == {
        "line1": "ok",
        "line4": "ok",
        "line5": "text_too_long",
        "line6": "json_invalid",
        "line7": "ok",
    }


def test_tables_of_tabs_keep_their_quotes(tmp_path):
    url = "https://example.org/a.jpg"
    (tmp_path / "cc12m.tsv").write_text(f'{url}\t"a cat", he said\n{url}\ta\tb\n\n{url}\t\n')
    assert records(tmp_path / "cc12m.tsv") == {"line1": "ok", "line2": "schema_missing_field", "line4": "text_empty"}


def test_parquet_of_all_kinds(tmp_path):
    url = "https://example.org/a.jpg"
    captions = pa.array([b"good", b"\xff\xfe bad", b"good"], pa.binary()).cast(pa.string(), safe=False)
    table = pa.table({"caption": captions, "similarity": [1.0, float("nan"), None], "url": [url] * 3})
    pq.write_table(table, tmp_path / "kale.parquet")
    assert records(tmp_path / "kale.parquet") == {"0": "ok", "1": "text_invalid_utf8", "2": "ok"}
    odd = pa.table({
        "url": pa.array([url, url, None, url]).dictionary_encode(),
        "caption": pa.array(["a cat", None, "a cat", "a cat"], pa.large_string()),
        "nested": [[{"a": [1, None]}], None, [], [{"a": None}]],
        "list": pa.array([[1.0], [float("nan")], None, []], pa.large_list(pa.float32())),
    })  # fmt: skip
    pq.write_table(odd.select(["list", "nested", "caption", "url"]), tmp_path / "kale.parquet")
    assert list(records(tmp_path / "kale.parquet").values()) == ["ok", *["schema_wrong_type"] * 2, "ok"]
    numbers = pa.table({"url": [url], "caption": [7]})
    pq.write_table(numbers, tmp_path / "kale.parquet")
    assert records(tmp_path / "kale.parquet") == {"0": "schema_wrong_type"}
    (tmp_path / "kale.parquet").write_bytes(b"")
    assert found(tmp_path / "kale.parquet") == {("shard", ""): ["shard_empty"]}
    (tmp_path / "kale.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    assert found(tmp_path / "kale.parquet") == {("shard", ""): ["parquet_corrupt"]}


def test_a_large_row_group_is_walked_in_parts_and_lost_as_a_whole(tmp_path, monkeypatch):
    rows = [{"url": f"https://example.org/{n}.jpg", "caption": f"a cat with the number {n}"} for n in range(300)]
    path = tmp_path / "kale.parquet"
    options = {"row_group_size": 150, "write_page_checksum": True, "compression": "none", "use_dictionary": False}
    pq.write_table(pa.Table.from_pylist(rows), path, **options, data_page_size=100)
    whole = records(path)
    monkeypatch.setattr(parquet, "WALKED_BYTES", 3000)
    assert records(path) == whole == {str(n): "ok" for n in range(300)}
    data = bytearray(path.read_bytes())
    data[data.index(b"a cat with the number 149")] ^= 0xFF  # the last row of its group
    path.write_bytes(data)
    assert list(records(path)) == [str(n) for n in range(150, 300)]


def test_a_value_in_many_rows_is_not_in_memory_for_each(tmp_path):
    # a dictionary holds it once, so the file says that the row group has 300 kB; its rows have 300 MB
    table = pa.table({"instruction": ["a" * 300_000] * 1000, "output": [str(n) for n in range(1000)]})
    pq.write_table(table, tmp_path / "text.parquet")
    del table
    assert (tmp_path / "text.parquet").stat().st_size < 1e6
    before, most, rows = pa.total_allocated_bytes(), 0, 0
    for shard in open_shards("source", [str(tmp_path / "text.parquet")]):
        for record in shard.walk():
            rows += record.fields["instruction"] == "a" * 300_000
            most = max(most, pa.total_allocated_bytes() - before)
    assert rows == 1000
    assert most < 160e6

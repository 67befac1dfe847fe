"""The index: planned lengths are the lengths that come, changed shards are refused, and who indexes twice shares."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from xgenmm.data.adapters.choosing import pick
from xgenmm.data.index import index_path, make_indexes, read_origin, settings_of
from xgenmm.data.indexing import byte_processor, index_sources
from xgenmm.data.plan import Slot
from xgenmm.data.prepare import Limits, Preparer
from xgenmm.data.quarantine import DataError
from xgenmm.data.shards import open_shards, rows_of
from xgenmm.data.source import Source, SourceConfig
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import Document


def picture(width=40, height=30, colour="red", form="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, form)
    return buffer.getvalue()


def write_pairs(path, rows):
    """A tar of (key, extension, content)."""
    with tarfile.open(path, "w") as archive:
        for key, extension, content in rows:
            member = tarfile.TarInfo(f"{key}.{extension}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def pairs(number, prefix=""):
    for n in range(number):
        yield f"{prefix}{n:03}", "png", picture(40 + n, 30)
        yield f"{prefix}{n:03}", "txt", f"picture {n}".encode()


@pytest.fixture
def open_source(tmp_path, toy_processor):
    def build(adapter, path, *, tokens=256, tiles=1000, refresh=False, workers=1, processor=toy_processor, **config):
        source = SourceConfig(name="s", adapter=adapter, path=str(path), **config)
        limits = Limits(tokens=tokens, tiles=tiles)
        return Source(source, processor, limits, tmp_path / "cache", refresh=refresh, workers=workers)

    return build


def slots(source):
    """All documents of a source."""
    lengths = source.index.lengths
    for row in range(lengths.rows):
        first, last = (row, row + 1) if lengths.variants is None else lengths.variants[row : row + 2].tolist()
        for variant in range(last - first):
            pieces = 1 if lengths.pieces is None else int(np.diff(lengths.pieces[first + variant :][:2])[0])
            yield from (Slot(0, row, 0, variant, piece) for piece in range(pieces))


def lines(source):
    """The index's own lines, of all shards."""
    return [line for path in source.index.paths for line in pq.read_table(path).to_pylist()]


def read(source, slot):
    """A planned document, decoded."""
    return source.preparer.fill(*source.begin(source.locate(slot)), "exact")


def check(source):
    """Reads every document; each is as long as it was planned. Gives them."""
    lengths, examples = source.index.lengths, []
    for place, slot in enumerate(slots(source)):
        example = read(source, slot)
        examples.append(example)
        assert len(example.input_ids) == lengths.tokens[place]
        assert len(example.pixel_values) == lengths.tiles[place]
        assert int((example.labels != -100).sum()) == lengths.loss_tokens[place]
    assert len(examples) == len(lengths.tokens)
    return examples


def test_every_kind_of_file_is_read_back_as_it_was_measured(open_source, toy_folder, toy_processor):
    for adapter, name in (
        ("caption_pairs", "pairs.tar"),
        ("mint", "documents.tar"),
        ("llava", "instructions.json"),
        ("llava", "interleaved.json"),
        ("preference", "preferences.jsonl"),
        ("vlguard", "safety.json"),
    ):
        source = open_source(adapter, toy_folder / name)
        check(source)
        (shard,) = open_shards("s", [str(toy_folder / name)])
        first = next(rows_of("s", shard))
        sample = source.config.bind_adapter()(first, pick(0))
        if isinstance(sample, Document):
            example = read(source, Slot(0, 0, 0, 0, 0))
            assert example.id == first.id
            assert example.input_ids.tolist() == toy_processor.example(sample).input_ids.tolist()


def test_an_index_line_by_hand(open_source, tmp_path):
    path = write_pairs(tmp_path / "a.tar", [("k", "txt", b"hello"), ("k", "png", content := picture(40, 30))])
    (line,) = lines(open_source("caption_pairs", path))
    places = {member["name"]: (member["offset"], member["size"]) for member in line["members"]}
    data = path.read_bytes()
    assert {name: data[offset : offset + size] for name, (offset, size) in places.items()} == {
        "txt": b"hello",
        "png": content,
    }
    (seen,) = line["pictures"]
    assert (seen["width"], seen["height"], seen["mode"]) == (40, 30, "RGB")
    (variant,) = line["variants"]
    # base tile and a grid of two, 2 tokens each; 5 letters, end of chunk and end of sequence, all but the chunk's end
    # supervised
    assert variant["pieces"] == [{"text": 7, "vision": 6, "loss": 6, "tiles": 3, "excerpt": [0] * 6}]
    assert (line["status"], line["reason"], line["num_pictures"]) == ("ok", "", 1)


def test_nothing_is_decoded(open_source, tmp_path):
    """A picture whose pixels are missing is indexed by its header: decoding it is the reader's job."""
    whole = picture(64, 64, form="JPEG")
    path = write_pairs(tmp_path / "a.tar", [("k", "jpg", whole[:-40]), ("k", "txt", b"a")])
    assert open_source("caption_pairs", path).index.lengths.tiles.tolist() == [3]


def test_all_alternatives_are_measured_and_bad_ones_are_not_offered(open_source, tmp_path):
    captions = ["a", "bbbbb", " ", "ccc"]
    path = write_pairs(
        tmp_path / "a.tar",
        [("k", "png", picture()), ("k", "json", json.dumps({"captions": captions}).encode()), *pairs(1, "x")],
    )
    source = open_source("caption_pairs", path)
    assert source.index.lengths.variants.tolist() == [0, 3, 4]
    assert (source.index.lengths.tokens[:3] - 8).tolist() == [1, 5, 3]  # 6 vision tokens and two of the end
    texts = [source.preparer.processor.tokenizer.decode(example.input_ids[6:-2]) for example in check(source)]
    assert texts == ["a", "bbbbb", "ccc", "picture 0"]
    assert "3 of 4 alternatives can be used: text_empty" in lines(source)[0]["detail"]


def test_what_is_too_long_is_cut_and_counted(open_source, tmp_path):
    text = "\n\n".join(f"paragraph {n} " + "x" * 30 for n in range(9))
    path = write_pairs(tmp_path / "a.tar", [("k", "png", picture()), ("k", "txt", text.encode()), *pairs(2, "x")])
    source = open_source("caption_pairs", path, tokens=100)
    assert source.index.lengths.pieces.tolist() == [0, 5, 6, 7]
    examples = check(source)
    assert max(len(example.input_ids) for example in examples) <= 100
    assert [example.id for example in examples] == [
        *(f"s/a.tar:k#{n}" for n in range(5)),
        "s/a.tar:x000",
        "s/a.tar:x001",
    ]
    tokenizer = source.preparer.processor.tokenizer
    said = "".join(tokenizer.decode(example.input_ids, skip_special_tokens=True) for example in examples[:5])
    assert said == text
    assert [len(example.image_layouts) for example in examples[:5]] == [1, 0, 0, 0, 0]
    ends = [example.input_ids[-1] == tokenizer.eos_token_id for example in examples[:5]]
    assert ends == [False] * 4 + [True]


def test_several_samples_of_a_row_are_branches_or_documents(open_source, tmp_path):
    captions = {"captions": [{"prompt": f"is it {n}?", "caption": "y" * 20} for n in range(6)]}
    path = write_pairs(tmp_path / "a.tar", [("k", "png", picture()), ("k", "json", json.dumps(captions).encode())])
    (one,) = check(open_source("caption_pairs", path, options={"every": True}))
    assert set(one.branches.tolist()) == set(range(7))
    some = check(open_source("caption_pairs", path, options={"every": True}, tokens=100))
    # 6 vision tokens and "is it " for all; a branch is "n?", a blank and 20 letters, and what predicts the end:
    # 12 + 3 * 24
    assert [len(example.input_ids) for example in some] == [84, 84]
    assert all(len(example.input_ids) <= 100 for example in some)
    assert sum(len(set(example.branches.tolist()) - {0}) for example in some) == 6
    assert {example.id for example in some} == {f"s/a.tar:k#{n}" for n in range(2)}


def test_a_preference_is_never_cut(open_source, tmp_path):
    row = {"prompt": "p " * 40, "chosen": "a", "rejected": "b"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "prompt": "p"}))
    source = open_source("preference", tmp_path / "a.jsonl", tokens=60)
    assert source.index.reasons == {"text_too_long": 1}
    assert source.index.lengths.rows == 1


def test_a_bad_picture_falls_out_of_a_document_alone(open_source, tmp_path):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    tiny = Image.new("RGB", (4, 4))
    rows = []
    for key, pages in (("some", [frames[0], tiny, frames[1]]), ("none", [tiny, tiny])):
        buffer = io.BytesIO()
        pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
        texts = [text for n in range(len(pages)) for text in (None, f"page {n}")]
        images = [image for n in range(len(pages)) for image in (f"p{n}", None)]
        rows += [
            (key, "json", json.dumps({"texts": texts, "images": images}).encode()),
            (key, "tiff", buffer.getvalue()),
        ]
    source = open_source("mint", write_pairs(tmp_path / "a.tar", rows))
    assert source.index.reasons == {"all_images_failed": 1}
    (example,) = check(source)
    assert len(example.image_layouts) == 2
    assert "1 of 3 pictures fall out" in lines(source)[0]["detail"]


def test_damages_and_bad_records_are_told_as_faults(open_source, tmp_path):
    bad = [("x", "png", b"no picture"), ("x", "txt", b"a"), ("y", "txt", b"b")]
    path = write_pairs(tmp_path / "a.tar", [*pairs(2), *bad])
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"y.txt") + 1024])  # without its end blocks
    source = open_source("caption_pairs", path)
    assert [(fault.id, fault.reason) for fault in source.index.faults()] == [
        ("s/a.tar:x", "image_not_decodable"),
        ("s/a.tar:y", "sample_incomplete"),
        ("s/a.tar", "archive_truncated"),
    ]
    assert source.index.reasons == {"image_not_decodable": 1, "sample_incomplete": 1}


def test_a_changed_shard_is_refused_until_it_is_indexed_again(open_source, tmp_path):
    path = write_pairs(tmp_path / "a.tar", pairs(3))
    first = open_source("caption_pairs", path).index.lengths
    os.utime(path, (1, 1))  # another time, the same bytes: fine
    assert open_source("caption_pairs", path).index.lengths.digest == first.digest
    write_pairs(path, pairs(4))
    with pytest.raises(DataError, match=r"a\.tar changed since it was indexed.*xgenmm data index"):
        open_source("caption_pairs", path)
    again = open_source("caption_pairs", path, refresh=True).index.lengths
    assert (again.rows, first.rows) == (4, 3)
    assert again.digest != first.digest
    assert open_source("caption_pairs", path).index.lengths.digest == again.digest


def test_the_same_size_with_other_bytes_is_noticed(open_source, tmp_path):
    path = write_pairs(tmp_path / "a.tar", pairs(2))
    open_source("caption_pairs", path)
    data = bytearray(path.read_bytes())
    place = data.index(b"picture 1")
    data[place : place + 9] = b"picture 7"
    path.write_bytes(data)
    with pytest.raises(DataError, match="changed since it was indexed"):
        open_source("caption_pairs", path)


def test_records_whose_pictures_were_missing_come_in_later(open_source, tmp_path):
    rows = [
        {"image": f"{n}.png", "conversations": [{"from": "human", "value": "<image>a"}, {"from": "gpt", "value": "b"}]}
        for n in (0, 1)
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "0.png").write_bytes(picture())
    assert open_source("llava", tmp_path / "a.json").index.reasons == {"image_missing": 1}
    (tmp_path / "1.png").write_bytes(picture())
    assert open_source("llava", tmp_path / "a.json").index.lengths.rows == 1
    assert open_source("llava", tmp_path / "a.json", refresh=True).index.lengths.rows == 2


def test_other_settings_are_other_indexes(open_source, tmp_path, toy_processor):
    path = write_pairs(tmp_path / "a.tar", pairs(2))
    digests = {
        open_source("caption_pairs", path, **changes).index.lengths.digest
        for changes in (
            {},
            {"tokens": 200},
            {"options": {"prefix": "a"}},
            {
                "processor": XGenMMProcessor(
                    toy_processor.tokenizer, dataclasses.replace(toy_processor.config, grids=())
                )
            },
        )
    }
    assert len(digests) == 4


def test_where_data_lie_does_not_change_a_plan(open_source, tmp_path):
    digests = set()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        digests.add(
            open_source("caption_pairs", write_pairs(tmp_path / folder / "a.tar", pairs(2))).index.lengths.digest
        )
    assert len(digests) == 1


def test_row_groups_of_parquet_are_shards_of_a_plan(open_source, tmp_path):
    rows = [{"caption": f"a {n}", "image": {"bytes": picture(), "path": None}} for n in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=4)
    pq.write_table(pa.Table.from_pylist(rows[:3]), tmp_path / "b.parquet")
    source = open_source("caption_rows", tmp_path / "*.parquet")
    assert source.index.lengths.shards.tolist() == [0, 4, 8, 10, 13]
    check(source)


def test_nothing_is_written_beside_the_data(open_source, tmp_path):
    (tmp_path / "data").mkdir()
    path = write_pairs(tmp_path / "data" / "a.tar", pairs(2))
    open_source("caption_pairs", path)
    assert list((tmp_path / "data").iterdir()) == [path]


def test_workers_change_nothing(open_source, tmp_path, monkeypatch):
    for number in range(4):
        write_pairs(tmp_path / f"{number}.tar", pairs(3, f"{number}"))
    one = open_source("caption_pairs", tmp_path / "*.tar")
    alone = [pq.read_table(path) for path in one.index.paths]
    for path in one.index.paths:
        path.unlink()
    monkeypatch.setattr("xgenmm.data.index.ALONE_BYTES", 0)
    two = open_source("caption_pairs", tmp_path / "*.tar", workers=2)
    assert [pq.read_table(path) for path in two.index.paths] == alone
    assert two.index.lengths.digest == one.index.lengths.digest


INDEX_ALL = """
import sys
from pathlib import Path
from xgenmm.data.indexing import NEVER_CUT, byte_processor, index_sources
from xgenmm.data.source import SourceConfig
config = SourceConfig(name="s", adapter="caption_pairs", path=sys.argv[1])
print(index_sources([config], byte_processor(), NEVER_CUT, Path(sys.argv[2]), workers=1).splitlines()[0])
"""


def test_two_processes_at_once_share_the_work_and_harm_nothing(tmp_path):
    for number in range(6):
        write_pairs(tmp_path / f"{number}.tar", pairs(20, f"{number}"))
    command = [sys.executable, "-c", INDEX_ALL, str(tmp_path / "*.tar"), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate(timeout=120)[0] for process in running}
    assert answers == {"s: 120 records in 6 files: 120 usable, 0 quarantined\n"}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    assert len(list((tmp_path / "cache").rglob("*.parquet"))) == 6


def test_an_index_that_a_kill_cut_short_is_none(tmp_path, toy_processor):
    path = write_pairs(tmp_path / "a.tar", pairs(2))
    limits = Limits(tokens=256)
    config = SourceConfig(name="s", adapter="caption_pairs", path=str(path))
    setting = settings_of("caption_pairs", {}, toy_processor, limits, None)
    (shard,) = open_shards("s", config.patterns)
    where = index_path(tmp_path / "cache", setting, shard)
    where.parent.mkdir(parents=True)
    where.write_bytes(b"PAR1 half a file")
    assert read_origin(where) is None
    preparer = Preparer(toy_processor, "caption_pairs", config.bind_adapter(), limits)
    make_indexes([shard], [where], setting, preparer, name="s")
    assert read_origin(where).records == 2


def test_the_account_says_what_there_is(tmp_path):
    write_pairs(tmp_path / "a.tar", [*pairs(3), ("x", "png", b"no"), ("x", "txt", b"a")])
    good = SourceConfig(name="good", adapter="caption_pairs", path=str(tmp_path / "a.tar"))
    text = index_sources([good], byte_processor(), Limits(tokens=1000), tmp_path / "cache")
    assert "good: 4 records in 1 files: 3 usable, 1 quarantined (1 image_not_decodable)" in text
    # a picture is one token; 9 letters, end of chunk, end of sequence
    assert "36 tokens, 30 supervised, in 3 documents of 3 alternatives; longest 12, 0 cut" in text
    bad = dataclasses.replace(good, name="bad", adapter="llava")
    with pytest.raises(DataError, match="nothing to learn from"):
        index_sources([bad], byte_processor(), Limits(tokens=1000), tmp_path / "cache")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.one_of(st.text(alphabet="ab .\n<|>", min_size=1, max_size=150), st.none()), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.integers(40, 120),
)
def test_documents_of_any_kind_come_as_long_as_they_were_planned(open_source, tmp_path_factory, documents, tokens):
    folder, rows = tmp_path_factory.mktemp("any"), []
    for number, parts in enumerate([["text"], *documents]):
        images = [None if text is not None else "p" for text in parts] + ["last"]
        count = sum(image is not None for image in images)
        frames = [Image.new("RGB", (20 + 10 * n, 30)) for n in range(count)]
        page = io.BytesIO()
        frames[0].save(page, "TIFF", save_all=True, append_images=frames[1:])
        content = {"texts": [*parts, None], "images": images}
        rows += [(f"{number}", "json", json.dumps(content).encode()), (f"{number}", "tiff", page.getvalue())]
    source = open_source("mint", write_pairs(Path(folder) / "a.tar", rows), tokens=tokens)
    assert all(len(example.input_ids) <= tokens for example in check(source))

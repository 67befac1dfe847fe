"""The loader: what was planned is read, exactly, however many threads and ranks do it, and what is bad costs itself."""

import dataclasses
import io
import json
import random
import shutil
import tarfile

import pytest
import torch
from PIL import Image

from xgenmm.config import ConfigError, decode
from xgenmm.data.adapters.choosing import pick
from xgenmm.data.loader import NOTHING, Loader, ReadConfig, _portions
from xgenmm.data.mixture import MixtureConfig
from xgenmm.data.plan import Slot
from xgenmm.data.planner import BatchConfig
from xgenmm.data.quarantine import DataError, Fault, Quarantine, read_lines
from xgenmm.data.report import Tally, add_tallies, check_losses, data_report
from xgenmm.data.shards import open_shards, rows_of
from xgenmm.data.source import SourceConfig
from xgenmm.data.source_index import Located
from xgenmm.pixels import normalised
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import IGNORE_INDEX

TENSORS = ("input_ids", "labels", "documents", "position_ids", "pixel_values", "image_layouts", "branches")


def source(toy, name="pairs", **changes):
    known = {
        "pairs": {"adapter": "caption_pairs", "path": str(toy / "pairs.tar")},
        "documents": {"adapter": "mint", "path": str(toy / "documents.tar")},
        "talks": {"adapter": "llava", "path": str(toy / "instructions.json")},
        "preferences": {"adapter": "preference", "path": str(toy / "preferences.jsonl")},
    }
    return SourceConfig(**{"name": name, **known.get(name, {}), **changes})


@pytest.fixture
def make(toy_folder, toy_processor):
    def build(*sources, pairs=False, seed=0, reading=None, mixture=None, rank=0, world_size=1, epochs=None, **batch):
        batch = {"size": 4, **batch} if "rows" not in batch else batch
        return Loader(
            [one if isinstance(one, SourceConfig) else source(toy_folder, one) for one in sources],
            BatchConfig(**batch),
            toy_processor,
            pairs=pairs,
            seed=seed,
            reading=reading,
            mixture=mixture,
            rank=rank,
            world_size=world_size,
            epochs=epochs,
        )

    return build


def flat(steps):
    return [name for step in steps for batch in step.batches for name in batch.ids]


def contents(steps):
    """All tensors of all batches, in order, as bytes."""
    return [
        (step.number, batch.ids, *(None if (t := getattr(batch, n)) is None else t.numpy().tobytes() for n in TENSORS))
        for step in steps
        for batch in step.batches
    ]


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_document_once(make, world_size):
    """Three epochs of 12 rows in steps of 4: what the first three steps hold, and six empty steps behind them."""
    ranks = [
        list(make("preferences", pairs=True, rank=rank, world_size=world_size).steps(0, 9, once=True))
        for rank in range(world_size)
    ]
    epoch = list(make("preferences", pairs=True).steps(0, 3))
    assert sorted(flat(epoch)) == sorted(name for steps in ranks for name in flat(steps) if name != NOTHING)
    for steps in ranks:
        assert [step.number for step in steps] == list(range(9))
        assert [bool(step.batches) for step in steps] == [True] * 3 + [False] * 6
    if world_size == 1:
        assert contents(ranks[0]) == contents(epoch)


def test_any_step_can_be_had_without_those_before(make):
    straight = list(make("pairs", "documents").steps(0, 11))
    assert contents(make("pairs", "documents").steps(7, 11)) == contents(straight[7:])
    fresh = make("pairs", "documents")
    assert contents(fresh.steps(7, 11, straight[6].plan)) == contents(straight[7:])
    assert contents(fresh.steps(2, 5)) == contents(straight[2:5])
    assert [step.number for step in fresh.steps(2, 5)] == [2, 3, 4]


def test_a_plan_of_other_data_is_refused(make):
    (step,) = make("pairs").steps(0, 1)
    with pytest.raises(ConfigError):
        next(make("documents").steps(1, 2, step.plan))


@pytest.mark.parametrize("batch", [{"size": 9}, {"rows": 3, "tokens": 128}])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_and_prefetch_change_nothing(make, batch, threads):
    one = contents(make("pairs", "documents", reading=ReadConfig(threads=1), **batch).steps(0, 6))
    for megabytes in (1, 64):
        reading = ReadConfig(threads=threads, prefetch_mb=megabytes)
        assert contents(make("pairs", "documents", reading=reading, **batch).steps(0, 6)) == one


@pytest.mark.parametrize("batch", [{"size": 9, "tokens": 128}, {"rows": 5, "tokens": 128}])
@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_ranks_share_the_rows_of_the_same_steps(make, batch, world_size):
    whole = list(make("pairs", "documents", **batch).steps(0, 5))
    parts = [
        list(make("pairs", "documents", rank=r, world_size=world_size, **batch).steps(0, 5)) for r in range(world_size)
    ]
    for step, *shared in zip(whole, *parts, strict=True):
        rows = sorted(content[1:] for one in shared for content in contents([one]) if content[1] != (NOTHING,))
        assert rows == sorted(content[1:] for content in contents([step]))
        assert len({len(one.batches) for one in shared}) == 1  # all take part in as many forward passes
        assert all(one.plan == step.plan for one in shared)


def test_micro_batches_join_rows_and_do_not_change_them(make):
    one = list(make("talks", size=12, tokens=100).steps(0, 3))
    for micro in (2, 3, 50):
        joined = list(make("talks", size=12, tokens=100, micro=micro).steps(0, 3))
        assert flat(joined) == flat(one)
        for few, many in zip(joined, one, strict=True):
            assert len(few.batches) == -(-len(many.batches) // micro)
            assert torch.equal(
                torch.cat([batch.input_ids for batch in few.batches]),
                torch.cat([batch.input_ids for batch in many.batches]),
            )


def test_rows_are_no_longer_than_they_may_be(make):
    for step in make("pairs", "documents", rows=4, tokens=96, micro=1).steps(0, 4):
        assert len(step.batches) == 4
        assert all(len(batch.input_ids) <= 96 for batch in step.batches)


def test_a_preference_is_one_document_with_the_chosen_answer_in_its_first_branch(make):
    step = next(iter(make("preferences", pairs=True, size=3, micro=3).steps(0, 1)))
    (batch,) = step.batches
    assert len(batch.ids) == 3
    supervised = batch.labels != IGNORE_INDEX
    for number in range(3):
        assert set(batch.branches[supervised & (batch.documents == number)].tolist()) == {1, 2}


def test_a_mixture_that_ends_says_so(make):
    loader = make("pairs", size=10, epochs=1.0)
    assert loader.planner.count_steps() == 5
    names = flat(loader.steps(0, 5))
    assert len(names) == len(set(names)) == 48
    with pytest.raises(DataError, match="ends after 5 steps, and 6 are wanted"):
        list(loader.steps(0, 6))


def broken_talks(tmp_path, toy_folder):
    """Six good rows and four bad ones, each bad in its own way."""
    shutil.copytree(toy_folder / "images", tmp_path / "images")
    (tmp_path / "images" / "red-square.png").write_bytes(b"<html>")
    rows = json.loads((toy_folder / "instructions.json").read_text())
    good = [row for row in rows if "image" in row and "red-square" not in row["image"]][:6]
    said = good[0]["conversations"]
    bad = [
        {"image": "images/red-square.png", "conversations": said},
        {"image": "images/none.png", "conversations": said},
        {"image": good[0]["image"], "conversations": said[:1]},
        {"conversations": [{"from": "human", "value": "word " * 200}, {"from": "gpt", "value": "yes"}]},
    ]
    path = tmp_path / "talks.json"
    path.write_text(json.dumps(good[:2] + bad + good[2:]))
    return path


def test_rows_that_the_index_refuses_are_named_and_never_planned(make, tmp_path, toy_folder):
    path = broken_talks(tmp_path, toy_folder)
    loader = make(SourceConfig(name="talks", adapter="llava", path=str(path)), size=3)
    assert [(fault.id, fault.reason) for fault in loader.shard_faults()] == [
        ("talks/talks.json:2", "image_not_decodable"),
        ("talks/talks.json:3", "image_missing"),
        ("talks/talks.json:4", "role_order"),
        ("talks/talks.json:5", "text_too_long"),
    ]
    steps = list(loader.steps(0, 4))
    good = sorted(f"talks/talks.json:{n}" for n in (0, 1, 6, 7, 8, 9))
    assert sorted(flat(steps[:2])) == sorted(flat(steps[2:])) == good
    assert not any(step.faults for step in steps)


def noise(seed):
    """A picture that is no picture's neighbour: its bytes are found in no other."""
    pixels = bytes(random.Random(seed).randbytes(40 * 40 * 3))
    buffer = io.BytesIO()
    Image.frombytes("RGB", (40, 40), pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def damaged(tmp_path):
    """Twelve pictures with captions; behind a whole header, half of numbers 3 and 7 is missing."""
    path = tmp_path / "noise.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(12):
            picture = noise(number)
            if number in (3, 7):
                picture = picture[: len(picture) // 2]
            for extension, content in (("jpg", picture), ("txt", f"number {number}".encode())):
                member = tarfile.TarInfo(f"{number:02}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return SourceConfig(name="noise", adapter="caption_pairs", path=str(path))


@pytest.mark.parametrize("tokens", [128, 4096])
def test_a_document_that_cannot_be_read_becomes_padding_on_the_same_plan(make, damaged, tokens):
    """In rows of a few documents, and in one of all, which threads read some at a time."""
    loader = make(damaged, size=12, tokens=tokens)
    (step,) = loader.steps(0, 1)
    assert sorted((fault.id, fault.reason) for fault in step.faults) == [
        ("noise/noise.tar:03", "image_truncated"),
        ("noise/noise.tar:07", "image_truncated"),
    ]
    assert sorted(flat([step])) == [f"noise/noise.tar:{n:02}" for n in range(12)]
    lengths = sum(len(batch.input_ids) for batch in step.batches)
    assert lengths == int(loader.sources[0].index.lengths.tokens.sum())
    for batch in step.batches:
        for number, name in enumerate(batch.ids):
            here = batch.documents == number
            bad = name.endswith(("03", "07"))
            assert bool((batch.labels[here] != IGNORE_INDEX).any()) != bad
            assert bool((batch.input_ids[here] == loader.processor.image_token_id).any()) != bad
    tally = step.tallies["noise"]
    assert (tally.rows, tally.samples, tally.dropped) == (12, 10, {"image_truncated": 2})


def test_no_picture_of_a_quarantined_record_reaches_a_batch(make, damaged, toy_processor):
    """What is whole of a damaged picture is its upper half: no batch may hold it."""
    (shard,) = open_shards(damaged.name, damaged.patterns)
    good = [row for row in rows_of(damaged.name, shard) if not row.id.endswith(("03", "07"))]
    samples = [damaged.bind_adapter()(row, pick(0)) for row in good]
    tiles = {tile.numpy().tobytes() for sample in samples for tile in toy_processor.example(sample).pixel_values}
    (step,) = make(damaged, size=12, reading=ReadConfig(decode="exact")).steps(0, 1)
    settings = toy_processor.config.mean, toy_processor.config.std
    shown = [tile for batch in step.batches for tile in normalised(batch.pixel_values, *settings)]
    found = [tile.numpy().tobytes() for tile in shown]
    assert len(found) == 10 * 3  # a base tile and a grid of two
    assert set(found) == tiles


def test_a_picture_that_changed_since_it_was_indexed_is_a_fault(tmp_path, toy_folder, toy_processor):
    shutil.copytree(toy_folder / "images", tmp_path / "images")
    shutil.copy(toy_folder / "instructions.json", tmp_path)
    settings = SourceConfig(name="talks", adapter="llava", path=str(tmp_path / "instructions.json"))
    config = dataclasses.replace(toy_processor.config, grids=((1, 2), (2, 2)))
    processor = XGenMMProcessor(toy_processor.tokenizer, config)
    loader = Loader([settings], BatchConfig(size=100), processor, pairs=False, seed=0)
    for path in (tmp_path / "images").iterdir():
        Image.new("RGB", (90, 90)).save(path)  # 2 x 2 tiles; half as high, it had been 1 x 2
    (step,) = loader.steps(0, 1)
    assert step.faults
    assert {fault.reason for fault in step.faults} == {"image_corrupt"}
    assert "when it was indexed" in step.faults[0].detail


def test_tallies_count_every_position(make, toy_processor):
    step = next(iter(make("talks", "documents", size=12, micro=100).steps(0, 1)))
    (batch,) = step.batches
    total = Tally()
    for tally in step.tallies.values():
        total.add(tally)
    assert total.tokens == int((batch.documents >= 0).sum())
    assert total.vision_tokens == int((batch.input_ids == toy_processor.image_token_id).sum())
    assert total.supervised_tokens == int((batch.labels != IGNORE_INDEX).sum())
    assert total.samples == 12
    assert set(step.sources) == set(batch.ids)


def test_sources_that_cannot_teach_are_refused_before_the_first_step(make, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"conversations": [{"from": "human", "value": "a"}]}] * 3))
    with pytest.raises(DataError, match=r'"empty" gives nothing to learn from: none of 3 records .* \(3 role_order;'):
        make(SourceConfig(name="empty", adapter="llava", path=str(path)))
    with pytest.raises(ConfigError, match='"preferences" gives preferences, but the objective wants plain samples'):
        make("preferences").check()
    with pytest.raises(ConfigError, match='"talks" gives plain samples, but the objective wants preferences'):
        make("talks", pairs=True).check()
    make("pairs", "documents", "talks").check()
    (tmp_path / "none.tar").write_bytes(b"")
    with pytest.raises(DataError, match="nothing to learn from: none of 0 records"):
        make(SourceConfig(name="none", adapter="mint", path=str(tmp_path / "none.tar")))


def test_a_source_of_which_too_much_is_unusable_stops_before_the_first_step(make, tmp_path, caplog):
    def lines(bad):
        good = {"instruction": "a", "output": "b"}
        return "".join(json.dumps(good if n >= bad else {"instruction": "a"}) + "\n" for n in range(300))

    path = tmp_path / "a.jsonl"
    settings = SourceConfig(name="text", adapter="instructions", path=str(path))
    path.write_text(lines(16))
    with pytest.raises(DataError, match=r"16 of 300 records are unusable \(16 schema_missing_field\), more than 5%"):
        make(settings).check()
    other = tmp_path / "b.jsonl"
    other.write_text(lines(14))
    make(dataclasses.replace(settings, path=str(other))).check()
    assert "text: 14 of 300 records are unusable" in caplog.text


def test_settings_that_make_no_sense(make, toy_folder):
    with pytest.raises(ConfigError, match='unknown adapter "lava"; did you mean "llava"'):
        make(source(toy_folder, "talks", adapter="lava"))
    with pytest.raises(ConfigError, match='options: unknown setting "prefx"; did you mean "prefix"'):
        make(source(toy_folder, "pairs", options={"prefx": "a"}))
    with pytest.raises(ConfigError, match="each its own name"):
        make("pairs", "pairs")
    with pytest.raises(ConfigError, match="either all sources have a weight or none"):
        make("pairs", source(toy_folder, "talks", weight=1.0), mixture=MixtureConfig(at_end="repeat"))
    for name in ("threads", "prefetch_mb", "slow_seconds"):
        with pytest.raises(ConfigError, match=rf"reading.{name}: must be"):
            decode(ReadConfig, {name: 0}, "reading")


def test_documents_of_a_row_are_parted_by_their_number_and_by_their_tiles():
    def parted(*tiles):
        located = [
            Located(shard=0, key="", members=(), choice=0, excerpt=None, piece=None, tokens=1, tiles=n) for n in tiles
        ]
        return [[one.tiles for _, one in part] for part in _portions([(Slot(0, 0, 0, 0, 0), one) for one in located])]

    assert parted() == []
    assert parted(*[0] * 70) == [[0] * 32, [0] * 32, [0] * 6]
    assert parted(10, 10, 10, 10, 0, 2, 40, 1) == [[10, 10, 10], [10, 0, 2], [40], [1]]


def test_a_slow_document_is_named(make, caplog, monkeypatch):
    import threading
    import time

    loader = make("pairs", reading=ReadConfig(slow_seconds=0.2, threads=1), size=2)
    opened = loader.sources[0].open
    slow = threading.Event()

    def dawdle(located):
        if not slow.is_set():
            slow.set()
            time.sleep(0.7)
        return opened(located)

    monkeypatch.setattr(loader.sources[0], "open", dawdle)
    list(loader.steps(0, 2))
    (line,) = [record.getMessage() for record in caplog.records if "waiting for data" in record.getMessage()]
    assert "pairs/pairs.tar:" in line


def test_many_documents_that_are_not_slow_are_not_named(make, caplog, monkeypatch):
    import time

    loader = make("pairs", reading=ReadConfig(slow_seconds=0.6, threads=1), size=12)
    opened = loader.sources[0].open
    monkeypatch.setattr(loader.sources[0], "open", lambda located: time.sleep(0.07) or opened(located))
    list(loader.steps(0, 1))  # 0.8 seconds for all of them together
    assert not [record for record in caplog.records if "waiting for data" in record.getMessage()]


def test_closing_early_leaves_no_thread(make):
    import threading

    before = set(threading.enumerate())
    steps = make("pairs", reading=ReadConfig(threads=3)).steps(0, 100)
    next(steps)
    steps.close()
    assert set(threading.enumerate()) <= before


def test_too_many_losses_stop_with_a_table():
    total = {"a": Tally(rows=100, samples=90, dropped={"no_image": 10}), "b": Tally(rows=300, samples=290)}
    check_losses(total, max_bad=0.05, warn_bad=1.0)  # a: too few to say; b: 3 %
    add_tallies(total, {"a": Tally(rows=100, samples=90, dropped={"no_image": 10})})
    with pytest.raises(DataError, match=r"a: 20 of 200 unusable \(20 no_image\)\n  b: 10 of 300"):
        check_losses(total, max_bad=0.05, warn_bad=1.0)


def test_report_by_hand():
    total = {"a": Tally(rows=3, samples=2, tokens=40, vision_tokens=8, supervised_tokens=10), "b": Tally(rows=1)}
    report = data_report(total, {"a": 0.7, "b": 0.3}, "samples")
    assert report["a"]["shares"] == {"samples": 0.75, "tokens": 1.0, "loss_tokens": 1.0}
    assert report["a"]["supervised_share"] == 0.25
    assert report["b"] == {
        "share_wanted": 0.3,
        "share_unit": "samples",
        "shares": {"samples": 0.25, "tokens": 0.0, "loss_tokens": 0.0},
        "rows": 1,
        "samples": 0,
        "tokens": 0,
        "vision_tokens": 0,
        "supervised_tokens": 0,
        "dropped": {},
        "supervised_share": 0.0,
    }


def test_a_share_of_bad_documents_warns_once(caplog):
    total = {"warned": Tally(rows=300, samples=270, dropped={"no_image": 30})}
    for _ in range(3):
        check_losses(total, 0.5, 0.05)
    assert len([record for record in caplog.records if "warned" in record.getMessage()]) == 1


def test_quarantine_after_a_stop_is_the_same_as_without(tmp_path):
    def fault(name, reason="no_image"):
        return Fault(source="s", id=name, reason=reason, detail="d")

    happened = [(-1, [fault("shard")]), (0, [fault("a")]), (1, [fault("a"), fault("b")]), (2, [fault("c")])]
    straight = Quarantine(tmp_path / "one.jsonl", 0)
    for step, faults in happened:
        straight.add(step, faults)
    path = tmp_path / "two.jsonl"
    stopped = Quarantine(path, 0)
    for step, faults in happened:
        stopped.add(step, faults)
    with path.open("a") as file:
        file.write('{"step": 3, "so')  # killed while writing
    resumed = Quarantine(path, 1)
    for step, faults in [happened[0], *happened[2:]]:
        resumed.add(step, faults)
    assert path.read_text() == (tmp_path / "one.jsonl").read_text()
    assert [(line["step"], line["id"]) for line in read_lines(path)] == [(-1, "shard"), (0, "a"), (1, "b"), (2, "c")]

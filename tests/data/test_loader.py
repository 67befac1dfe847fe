"""The loader: whose turn it is, what a step holds, and that nothing but settings and seed decides it."""

import json
import shutil
from collections import Counter

import pytest
import torch

from xgenmm.config import ConfigError
from xgenmm.data.loader import BatchConfig, Loader, SourceConfig
from xgenmm.data.quarantine import DataError, Fault, Quarantine, read_lines
from xgenmm.data.report import Tally, add_tallies, check_losses, data_report
from xgenmm.types import IGNORE_INDEX


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
    def build(*sources, pairs=False, seed=0, **batch):
        settings = [one if isinstance(one, SourceConfig) else source(toy_folder, one) for one in sources]
        return Loader(settings, BatchConfig(**{"size": 4, **batch}), toy_processor, pairs=pairs, seed=seed)

    return build


def ids(steps):
    return [[name for batch in step.batches for name in batch.ids] for step in steps]


def flat(steps):
    return [name for step in ids(steps) for name in step]


def same(one, other):
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for s, t in zip(one, other, strict=True)
        for a, b in zip(s.batches, t.batches, strict=True)
        for name in ("input_ids", "labels", "documents", "position_ids", "pixel_values", "image_layouts")
    )


def test_every_epoch_holds_every_row_once_in_another_order(make):
    loader = make("pairs", size=1)  # one row a step: nothing is sorted by length
    assert loader.epoch_rows == 48
    first, second = flat(loader.steps(0, 48)), flat(loader.steps(48, 96))
    assert len(set(first)) == 48
    assert sorted(first) == sorted(second)
    assert first != second
    assert first != flat(make("pairs", size=1, seed=1).steps(0, 48))


def test_any_step_can_be_had_without_those_before(make):
    loader = make("pairs", "documents", window=3)
    straight = list(loader.steps(0, 11))
    fresh = make("pairs", "documents", window=3)
    assert same(straight[7:], list(fresh.steps(7, 11)))
    assert same(straight[2:5], list(fresh.steps(2, 5)))
    assert [step.number for step in fresh.steps(2, 5)] == [2, 3, 4]


def test_weights_are_shares_at_every_moment(make, toy_folder):
    weights = {"pairs": 5.0, "documents": 3.0, "talks": 2.0}
    loader = make(*(source(toy_folder, name, weight=weight) for name, weight in weights.items()), size=10)
    for step in loader.steps(0, 6):
        # 10 rows a step and weights that add up to 10: the shares come out whole at every step
        assert {name: tally.rows for name, tally in step.tallies.items()} == weights
    assert loader.shares == {"pairs": 0.5, "documents": 0.3, "talks": 0.2}
    assert loader.epoch_rows is None


def test_another_source_leaves_the_order_of_the_first_alone(make):
    alone = flat(make("pairs", size=1).steps(0, 48))
    mixed = [name for name in flat(make("pairs", "documents", size=1).steps(0, 60)) if name.startswith("pairs/")]
    assert len(mixed) == 45  # three of four rows, as 48 to 16
    assert mixed == alone[: len(mixed)]


def test_sources_of_equal_size_have_orders_of_their_own(make, toy_folder):
    path = str(toy_folder / "pairs.tar")
    one, other = (SourceConfig(name=name, adapter="caption_pairs", path=path) for name in ("one", "other"))
    orders = [[name.split(":")[1] for name in flat(make(s, size=1).steps(0, 48))] for s in (one, other)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_samples_takes_the_same_rows_in_every_epoch(make, toy_folder):
    loader = make(source(toy_folder, "pairs", samples=8))
    assert loader.epoch_rows == 8
    assert sorted(flat(loader.steps(0, 2))) == sorted(flat(loader.steps(2, 4)))
    assert len(set(flat(loader.steps(0, 4)))) == 8
    many = make(source(toy_folder, "documents", samples=20))  # of 16: four come twice
    assert sorted(Counter(flat(many.steps(0, 5))).values()) == [1] * 12 + [2] * 4


@pytest.mark.parametrize("window", [1, 4])
def test_micro_batches_cut_a_step_and_do_not_change_it(make, window):
    whole = list(make("talks", size=8, window=window).steps(0, 4))
    for micro, number in ((4, 2), (1, 8), (3, 3)):
        cut = list(make("talks", size=8, micro=micro, window=window).steps(0, 4))
        assert ids(cut) == ids(whole)
        assert [len(step.batches) for step in cut] == [number] * 4


def test_a_window_brings_like_lengths_together_and_loses_nothing(make):
    def spread(steps):
        return sum(float(batch.documents.bincount().float().std()) for step in steps for batch in step.batches)

    mixed = list(make("pairs", "documents", size=8).steps(0, 8))
    sorted_ = list(make("pairs", "documents", size=8, window=8).steps(0, 8))
    assert sorted(flat(mixed)) == sorted(flat(sorted_))
    assert spread(sorted_) < spread(mixed) / 3


def test_a_preference_is_one_document_with_the_chosen_answer_in_its_first_branch(make):
    step = next(iter(make("preferences", pairs=True, size=3).steps(0, 1)))
    (batch,) = step.batches
    assert len(batch.ids) == 3
    supervised = batch.labels != IGNORE_INDEX
    for document in range(3):
        assert set(batch.branches[supervised & (batch.documents == document)].tolist()) == {1, 2}


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


def test_a_bad_row_is_named_and_nothing_takes_its_place(make, tmp_path, toy_folder):
    path = broken_talks(tmp_path, toy_folder)
    loader = make(SourceConfig(name="talks", adapter="llava", path=str(path)), size=10)
    step = next(iter(loader.steps(0, 1)))
    assert sorted((fault.id, fault.reason) for fault in step.faults) == [
        ("talks/talks.json:2", "image_not_decodable"),
        ("talks/talks.json:3", "image_missing"),
        ("talks/talks.json:4", "role_order"),
        ("talks/talks.json:5", "text_too_long"),
    ]
    assert sorted(step.batches[0].ids) == [f"talks/talks.json:{n}" for n in (0, 1, 6, 7, 8, 9)]
    tally = step.tallies["talks"]
    assert (tally.rows, tally.samples, tally.dropped["role_order"]) == (10, 6, 1)


def test_a_step_of_bad_rows_only_is_empty(make, tmp_path, toy_folder):
    path = broken_talks(tmp_path, toy_folder)
    steps = list(make(SourceConfig(name="talks", adapter="llava", path=str(path)), size=1).steps(0, 10))
    assert [len(step.batches) for step in steps].count(0) == 4


def test_tallies_count_every_position(make, toy_processor):
    step = next(iter(make("talks", "documents", size=12).steps(0, 1)))
    (batch,) = step.batches
    total = Tally()
    for tally in step.tallies.values():
        total.add(tally)
    assert total.tokens == len(batch.documents)
    assert total.vision_tokens == int((batch.input_ids == toy_processor.image_token_id).sum())
    assert total.supervised_tokens == int((batch.labels != IGNORE_INDEX).sum())
    assert total.samples == 12


def test_sources_that_cannot_teach_are_refused_before_the_first_step(make, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"conversations": [{"from": "human", "value": "a"}]}] * 3))
    with pytest.raises(DataError, match=r'"empty" gives nothing to learn from: none of 3 rows .* \(3 role_order\)'):
        make(SourceConfig(name="empty", adapter="llava", path=str(path))).check()
    with pytest.raises(ConfigError, match='"preferences" gives preferences, but the objective wants plain samples'):
        make("preferences").check()
    with pytest.raises(ConfigError, match='"talks" gives plain samples, but the objective wants preferences'):
        make("talks", pairs=True).check()
    make("pairs", "documents", "talks").check()
    (tmp_path / "none.tar").write_bytes(b"")
    with pytest.raises(DataError, match="holds no row at all"):
        make(SourceConfig(name="none", adapter="mint", path=str(tmp_path / "none.tar")))


def test_settings_that_make_no_sense(make, toy_folder):
    with pytest.raises(ConfigError, match='unknown adapter "lava"; did you mean "llava"'):
        make(source(toy_folder, "talks", adapter="lava"))
    with pytest.raises(ConfigError, match='options: unknown setting "prefx"; did you mean "prefix"'):
        make(source(toy_folder, "pairs", options={"prefx": "a"}))
    with pytest.raises(ConfigError, match="each its own name"):
        make("pairs", "pairs")
    with pytest.raises(ConfigError, match="either all sources have a weight or none"):
        make("pairs", source(toy_folder, "talks", weight=1.0))
    with pytest.raises(ConfigError, match="must be above 0"):
        make(source(toy_folder, "talks", weight=0.0))


def test_too_many_losses_stop_with_a_table():
    total = {"a": Tally(rows=100, samples=90, dropped={"no_image": 10}), "b": Tally(rows=300, samples=290)}
    check_losses(total, max_bad=0.05)  # a: too few rows to say; b: 3 %
    add_tallies(total, {"a": Tally(rows=100, samples=90, dropped={"no_image": 10})})
    with pytest.raises(DataError, match=r"a: 20 of 200 rows unusable \(20 no_image\)\n  b: 10 of 300"):
        check_losses(total, max_bad=0.05)


def test_report_by_hand():
    total = {"a": Tally(rows=3, samples=2, tokens=40, vision_tokens=8, supervised_tokens=10), "b": Tally(rows=1)}
    report = data_report(total, {"a": 0.7, "b": 0.3})
    assert report["a"]["share"] == 0.75
    assert report["a"]["supervised_share"] == 0.25
    assert report["b"] == {
        "share_wanted": 0.3,
        "share": 0.25,
        "rows": 1,
        "samples": 0,
        "tokens": 0,
        "vision_tokens": 0,
        "supervised_tokens": 0,
        "dropped": {},
        "supervised_share": 0.0,
    }


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

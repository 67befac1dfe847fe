"""Log-probabilities of the reference on disk: whole or made anew, and never of other weights or data."""

import dataclasses

import pytest
import torch
from ranks import on_ranks

from xgenmm.config import ConfigError
from xgenmm.objectives.reference import by_document, cached_reference, supervised_keys
from xgenmm.processor.packing import pack
from xgenmm.training import reference_cache
from xgenmm.training.ranks import gather, rank
from xgenmm.training.reference_cache import ReferenceCache, prepare_reference
from xgenmm.types import IGNORE_INDEX, Example


def example(number: int) -> Example:
    """A document of `number` + 3 tokens, of which the last ones but one are supervised."""
    ids = torch.arange(number, 2 * number + 3)
    return Example(
        id=f"row {number}",
        input_ids=ids,
        labels=torch.tensor([IGNORE_INDEX, *ids[2:].tolist(), IGNORE_INDEX]),
        pixel_values=torch.zeros(0, 3, 4, 4, dtype=torch.uint8),
        image_layouts=torch.zeros(0, 4, dtype=torch.long),
    )


STEPS = [[pack([example(n), example(n + 1)], pad_id=0), pack([example(n + 2)], pad_id=0)] for n in range(0, 30, 3)]
"""Ten steps of three documents."""


class Asked:
    """A reference that says -1 / target, and remembers how often it was asked."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.times = 0
        self.dies_at = dies_at

    def __call__(self, batch):
        self.times += 1
        if self.times == self.dies_at:
            raise KeyboardInterrupt
        return -1 / batch.labels[batch.labels != IGNORE_INDEX]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> ReferenceCache:
    monkeypatch.setattr(reference_cache, "DOCUMENTS_PER_PART", 6)
    return ReferenceCache(path=tmp_path / "stage" / "reference.parquet", about={"weights": "w", "files": [("a", 1)]})


def test_what_is_asked_once_is_there_afterwards(cache):
    live, never = Asked(), Asked(dies_at=1)
    first = prepare_reference(cache, STEPS, 10, live)
    again = prepare_reference(cache, STEPS, 10, never)
    assert (live.times, never.times) == (20, 0)
    shuffled = pack([example(7), example(2), example(25)], pad_id=0)
    for reference in (first, again):
        assert torch.equal(reference(shuffled), Asked()(shuffled))
    assert [path.name for path in cache.path.parent.iterdir()] == ["reference.parquet"]


def test_a_stop_costs_no_more_than_a_part(cache):
    with pytest.raises(KeyboardInterrupt):
        prepare_reference(cache, STEPS, 10, Asked(dies_at=12))
    assert cache.read() is None  # what is partial counts for nothing
    live = Asked()
    reference = prepare_reference(cache, STEPS, 10, live)
    assert live.times == 20 - 2 * 4  # of five whole steps and a batch, two parts of two steps were kept
    for step in STEPS:
        for batch in step:
            assert torch.equal(reference(batch), Asked()(batch))


@pytest.mark.parametrize("about", [{"weights": "v", "files": [("a", 1)]}, {"weights": "w", "files": [("a", 2)]}])
@pytest.mark.parametrize("whole", [True, False])
def test_of_other_weights_or_data_it_is_made_anew(cache, about, whole, caplog):
    try:
        prepare_reference(cache, STEPS, 10, Asked(dies_at=None if whole else 12))
    except KeyboardInterrupt:
        assert not whole
    live = Asked()
    with caplog.at_level("WARNING", logger="xgenmm"):
        prepare_reference(dataclasses.replace(cache, about=about), STEPS, 10, live)
    assert live.times == 20
    assert "is of other weights, data or settings" in caplog.text


def test_a_damaged_file_is_made_anew(cache):
    prepare_reference(cache, STEPS, 10, Asked())
    cache.path.write_bytes(cache.path.read_bytes()[:-20])
    live = Asked()
    prepare_reference(cache, STEPS, 10, live)
    assert live.times == 20


def test_documents_that_come_again_are_asked_once(cache):
    live = Asked()
    cache.fill([*STEPS, *STEPS], 20, live)
    assert live.times == 20
    assert len(cache.read() or {}) == 30


def test_the_file_is_plain_parquet(cache):
    """Anyone can look into it: a document's name with a digest of its tokens, and a number for each target."""
    import pyarrow.parquet as pq

    prepare_reference(cache, STEPS, 10, Asked())
    table = pq.read_table(cache.path)
    assert table.column_names == ["document", "logps"]
    row = next(row for row in table.to_pylist() if row["document"].startswith("row 4 "))
    assert row["logps"] == pytest.approx([-1 / 6, -1 / 7, -1 / 8, -1 / 9, -1 / 10])
    batch = pack([example(4)], pad_id=0)
    assert list(by_document(batch, Asked()(batch))) == [row["document"]]


def fill_together(folder):
    """One of two processes: it has the first or the second batch of every step."""
    cache = ReferenceCache(path=folder / "reference.parquet", about={"weights": "w"})
    mine = [[step[rank()]] for step in STEPS]
    live = Asked()
    reference = prepare_reference(cache, mine, 10, live)
    for step in STEPS:
        for batch in step:
            assert torch.equal(reference(batch), Asked()(batch))
    assert len(set(gather(live.times))) == 1, "a model in shards hangs if one process asks and another does not"
    (folder / f"asked-{rank()}").write_text(str(live.times))


@pytest.mark.slow  # processes that import torch
def test_processes_share_the_work_and_ask_equally_often(tmp_path):
    on_ranks(2, fill_together, tmp_path)
    assert [(tmp_path / f"asked-{n}").read_text() for n in (0, 1)] == ["10", "10"]
    assert not (tmp_path / "reference.parts").exists()
    on_ranks(2, fill_together, tmp_path)
    assert [(tmp_path / f"asked-{n}").read_text() for n in (0, 1)] == ["0", "0"]


@pytest.mark.slow
@pytest.mark.usefixtures("cache")  # parts of six documents
def test_other_processes_go_on_with_what_one_has_written(tmp_path):
    """Alone, stopped after two parts; then with two processes, of which the first knows some documents already."""
    folder = tmp_path / "run"
    alone = ReferenceCache(path=folder / "reference.parquet", about={"weights": "w"})
    with pytest.raises(KeyboardInterrupt):
        prepare_reference(alone, STEPS, 10, Asked(dies_at=12))
    on_ranks(2, fill_together, folder)
    assert [(folder / f"asked-{n}").read_text() for n in (0, 1)] == ["6", "6"]  # of ten steps, four were there


def test_another_picture_is_another_document():
    """Also where the picture stands in a document behind others, and whatever they hold."""
    text, tiles = example(3), torch.arange(96, dtype=torch.uint8).reshape(2, 3, 4, 4)
    seen = dataclasses.replace(example(5), pixel_values=tiles, image_layouts=torch.tensor([[1, 1, 4, 4]]))
    changed = dataclasses.replace(seen, pixel_values=tiles.flip(0))
    (_, before), (_, after) = (supervised_keys(pack([text, one], pad_id=0)) for one in (seen, changed))
    assert before != after
    assert supervised_keys(pack([seen, changed], pad_id=0)) == [before, after]
    asked = cached_reference(by_document(pack([seen], pad_id=0), Asked()(pack([seen], pad_id=0))))
    with pytest.raises(ConfigError, match="sample row 5 as it is now: text or pictures have changed"):
        asked(pack([changed], pad_id=0))

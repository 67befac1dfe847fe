"""Best fit by hand, and what makes a bin leave."""

from xgenmm.data.packing_plan import OPEN_BINS, STALE_ROWS, Item, Packer, pack_step, row_of
from xgenmm.data.plan import Slot


def item(number, tokens, tiles=0):
    return Item(Slot(0, number, 0, 0, 0), number, tokens, tiles)


def rows(leaving):
    return [[one.slot.row for one in items] for items in leaving]


def put(packer, *sizes, start=0):
    leaving = []
    for number, size in enumerate(sizes, start):
        leaving += packer.put(item(number, *size) if isinstance(size, tuple) else item(number, size))
    return rows(leaving)


def test_a_document_goes_where_it_leaves_least_room():
    packer = Packer(100, 9)
    # 60 and 50 leave 40 and 50 free; 45 fits only the second, 38 goes to the first, and 5 then fits only the second
    assert put(packer, 60, 50, 45, 38, 5) == [[1, 2, 4]]
    assert put(packer, 2, start=5) == [[0, 3, 5]]
    assert packer.flush() == []


def test_tiles_are_a_capacity_of_their_own():
    packer = Packer(100, 4)
    # 30 would fit best beside 60, but its two tiles do not fit beside three
    assert put(packer, (60, 3), (50, 1), (30, 2)) == []
    assert put(packer, (40, 1), start=3) == [[0, 3]]
    assert rows(packer.flush()) == [[1, 2]]


def test_a_row_leaves_when_it_is_full_within_a_256th():
    packer = Packer(2560, 9)
    assert put(packer, 2549) == []
    assert put(packer, 2550, start=1) == [[1]]
    assert put(packer, 1, start=2) == [[0, 2]]  # ten are left of 2,560


def test_where_nothing_fits_the_fullest_leaves():
    packer = Packer(100, 10)
    sizes = [60 + number % 7 for number in range(OPEN_BINS)]  # 6, 13, ... hold 66
    assert put(packer, *sizes) == []
    assert put(packer, 70, start=OPEN_BINS) == [[6]]
    # a row without room for tiles is full as well
    packer = Packer(100, 10)
    assert put(packer, *[(60, 1)] * (OPEN_BINS - 1), (51, 9)) == []
    assert put(packer, 70, start=OPEN_BINS) == [[OPEN_BINS - 1]]


def test_a_row_that_waits_too_long_leaves_as_it_is():
    packer = Packer(100, 9)
    put(packer, 55)
    leaving = put(packer, *[100] * (STALE_ROWS - 1), start=1)
    assert [0] not in leaving
    assert put(packer, 100, start=5000) == [[5000], [0]]


def test_the_samples_of_a_step_are_packed_largest_first():
    items = [item(number, tokens) for number, tokens in enumerate([20, 60, 30, 50, 40])]
    # 60 + 40, 50 + 30 + 20: two full rows, where the order given would need three
    packed = pack_step(items, 100, 9)
    assert sorted(sorted(row) for row in rows(packed)) == [[0, 2, 3], [1, 4]]
    assert rows(pack_step([item(0, 10, 5), item(1, 90, 0), item(2, 10, 5)], 100, 9)) in (
        [[0, 1], [2]],
        [[1, 0], [2]],
        [[2], [1, 0]],
        [[2], [0, 1]],
    )


def test_a_row_adds_up():
    row = row_of([item(0, 10, 2), item(1, 3, 1)])
    assert (row.tokens, row.tiles, row.squares) == (13, 3, 109)


def test_open_bins_come_back_as_they_were():
    packer, other = Packer(100, 9), Packer(100, 9)
    put(packer, *[100] * 20, (60, 3), (50, 1), (30, 2))
    other.restore(packer.open_bins())
    assert other.open_bins() == packer.open_bins()
    sizes = [(35, 1), (7, 1), 10, 90, 3, 66, 100, 12]
    assert put(packer, *sizes) == put(other, *sizes)
    assert rows(packer.flush()) == rows(other.flush())

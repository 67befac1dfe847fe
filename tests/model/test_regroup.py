"""Regrouping with labelled tokens, and the feature masks of spec 1.6."""

import itertools

import pytest
import torch

from xgenmm.model.regroup import feature_mask, group_mask, regroup

# Spec 1.6: (width, height), rows x columns of tiles, which bars, their width on each side, patches kept.
VECTORS = [
    ((640, 480), (2, 2), "rows", 7, 2160),
    ((480, 640), (2, 2), "cols", 7, 2160),
    ((384, 384), (2, 1), "rows", 13, 756),
    ((224, 224), (2, 1), "rows", 13, 756),
    ((100, 100), (2, 1), "rows", 13, 756),
    ((400, 300), (1, 2), "cols", 9, 972),
    ((300, 400), (2, 1), "rows", 9, 972),
    ((500, 500), (2, 2), "rows", 0, 2916),
    ((1000, 300), (1, 3), "rows", 1, 2025),
    ((300, 900), (3, 1), "rows", 0, 2187),
    ((1920, 1080), (2, 2), "rows", 12, 1620),
    ((2000, 400), (1, 3), "rows", 5, 1377),
    ((50, 500), (2, 1), "cols", 11, 270),
    ((1500, 500), (1, 3), "rows", 0, 2187),
]


@pytest.mark.parametrize(("size", "grid", "axis", "bar", "kept"), VECTORS)
def test_feature_masks_of_the_spec(size, grid, axis, bar, kept):
    (width, height), (rows, cols) = size, grid
    mask = feature_mask(rows, cols, height, width, side=27)
    assert mask.shape == (27 * rows, 27 * cols)
    assert int(mask.sum()) == kept
    shown = mask.any(dim=1 if axis == "rows" else 0)
    assert shown.nonzero().flatten().tolist() == list(range(bar, len(shown) - bar))
    assert bool(mask.all(dim=0 if axis == "rows" else 1).any()) == (bar == 0)  # the other axis has no bars


def labelled(rows: int, cols: int, side: int) -> torch.Tensor:
    """Features of a base tile and a grid's tiles; each says where its patch is: tile, and row and column of the map."""
    base = torch.tensor([[-1.0, -1.0, -1.0]] * side**2)
    tiles = [base]
    for r, c in itertools.product(range(rows), range(cols)):
        places = itertools.product(range(r * side, (r + 1) * side), range(c * side, (c + 1) * side))
        tiles.append(torch.tensor([[r * cols + c, y, x] for y, x in places], dtype=torch.float32))
    return torch.stack(tiles)


@pytest.mark.parametrize("grid", [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (3, 4)])
def test_tiles_keep_their_tokens(grid):
    features = labelled(*grid, side=4)
    groups, mask = regroup(features, torch.tensor([[*grid, 4 * grid[0], 4 * grid[1]]]), "tiles")
    assert mask is None
    assert torch.equal(groups, features)


@pytest.mark.parametrize("grid", [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (3, 4)])
def test_strips_are_the_map_in_raster_order(grid):
    features = labelled(*grid, side=4)
    groups, _ = regroup(features, torch.tensor([[*grid, 4 * grid[0], 4 * grid[1]]]), "strips")
    assert torch.equal(groups[0], features[0])
    raster = [[float(y), float(x)] for y in range(4 * grid[0]) for x in range(4 * grid[1])]
    assert groups[1:].reshape(-1, 3)[:, 1:].tolist() == raster
    if grid[1] == 1:
        assert torch.equal(groups, features)


def test_strips_mix_tiles_as_the_reference_does():
    """Spec 1.6: at 2 x 2 and 27 patches a side each group holds 378 tokens of one tile and 351 of its neighbour."""
    groups, _ = regroup(labelled(2, 2, side=27), torch.tensor([[2, 2, 768, 768]]), "strips")
    counts = [torch.unique(group[:, 0], return_counts=True) for group in groups[1:]]
    assert [tiles.tolist() for tiles, _ in counts] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [sorted(number.tolist()) for _, number in counts] == [[351, 378]] * 4
    groups, _ = regroup(labelled(1, 3, side=27), torch.tensor([[1, 3, 384, 1152]]), "strips")
    assert [torch.unique(group[:, 0], return_counts=True)[1].tolist() for group in groups[1:]] == [[243] * 3] * 3


@pytest.mark.parametrize("mode", ["tiles", "strips"])
def test_masks_go_with_their_tokens(mode):
    """A patch is masked where its place in the map lies in a bar, whatever group it came to."""
    layouts = torch.tensor([[2, 2, 480, 640], [0, 0, 30, 30], [1, 2, 300, 400]])
    images = [labelled(rows, cols, side=27) for rows, cols, _, _ in layouts.tolist()]
    groups, mask = regroup(torch.cat(images), layouts, mode)
    assert mask is not None
    start = 0
    for rows, cols, height, width in layouts.tolist():
        assert mask[start].all()  # the base tile has no bars
        count = rows * cols
        tokens, kept = groups[start + 1 : start + 1 + count], mask[start + 1 : start + 1 + count]
        if count:
            where = tokens[..., 1:].long()
            assert torch.equal(kept, feature_mask(rows, cols, height, width, 27)[where[..., 0], where[..., 1]])
        start += 1 + count


def test_images_of_a_batch_keep_their_order():
    layouts = torch.tensor([[0, 0, 10, 10], [1, 2, 4, 8], [0, 0, 7, 7]])
    features = torch.arange(5.0).reshape(5, 1, 1).expand(5, 16, 2)
    groups, mask = regroup(features, layouts, "tiles")
    assert mask is None
    assert groups[:, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_no_images():
    groups, mask = regroup(torch.zeros(0, 16, 2), torch.zeros(0, 4, dtype=torch.long), "strips")
    assert groups.shape == (0, 16, 2)
    assert mask is None


def test_tiles_and_layouts_must_agree():
    with pytest.raises(ValueError, match="4 tiles for 1 image layouts that ask for 5"):
        regroup(torch.zeros(4, 16, 2), torch.tensor([[2, 2, 10, 10]]), "tiles")


def test_cached_masks_are_not_shared_by_accident():
    one = group_mask(1, 2, 300, 400, 27, "tiles")
    other = group_mask(1, 2, 300, 400, 27, "strips")
    assert one.shape == other.shape == (2, 729)
    assert not torch.equal(one, other)

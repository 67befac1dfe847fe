"""Any-resolution against the vectors of the reference's rule, and tiles as pieces of the image."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, pad

from xgenmm.processor.tiling import choose_grid, grid_of, grids_up_to, resize_and_pad, split_tiles, write_tiles
from xgenmm.types import Grid

GRIDS = [Grid(2, 1), Grid(1, 2), Grid(2, 2), Grid(1, 3), Grid(3, 1)]
"""(w, h) multipliers (1, 2), (2, 1), (2, 2), (3, 1), (1, 3), in the reference's order."""

# spec 1.6: (width, height), tiles (rows, columns), padding in features of 27 per tile: axis and number on each side
VECTORS = [
    ((640, 480), (2, 2), "rows", 7),
    ((480, 640), (2, 2), "cols", 7),
    ((384, 384), (2, 1), "rows", 13),
    ((224, 224), (2, 1), "rows", 13),
    ((100, 100), (2, 1), "rows", 13),
    ((400, 300), (1, 2), "cols", 9),
    ((300, 400), (2, 1), "rows", 9),
    ((500, 500), (2, 2), "none", 0),
    ((1000, 300), (1, 3), "rows", 1),
    ((300, 900), (3, 1), "none", 0),
    ((1920, 1080), (2, 2), "rows", 12),
    ((2000, 400), (1, 3), "rows", 5),
    ((50, 500), (2, 1), "cols", 11),
    ((1500, 500), (1, 3), "none", 0),
]


@pytest.mark.parametrize(("size", "grid", "axis", "pad"), VECTORS)
def test_the_fourteen_vectors(size: tuple[int, int], grid: tuple[int, int], axis: str, pad: int):
    width, height = size
    assert choose_grid(height, width, GRIDS, tile=384) == Grid(*grid)
    canvas = resize_and_pad(Image.new("RGB", size, "white"), Grid(*grid), tile=384)
    assert canvas.shape == (3, grid[0] * 384, grid[1] * 384)
    black = canvas.max(axis=0) == 0
    black_rows, black_cols = int(black.all(axis=1).sum()), int(black.all(axis=0).sum())
    # one feature covers 384 / 27 pixels; the reference rounds the image's own extent in features down
    features = {"rows": black_rows, "cols": black_cols, "none": 0}[axis] * 27 / 384
    assert math.ceil(features) // 2 == pad
    assert {"rows": black_cols, "cols": black_rows, "none": black_rows + black_cols}[axis] == 0


def test_the_first_of_equally_good_grids_wins():
    assert choose_grid(100, 100, [Grid(1, 2), Grid(2, 1)], tile=384) == Grid(1, 2)
    assert choose_grid(100, 100, [Grid(2, 1), Grid(1, 2)], tile=384) == Grid(2, 1)


def test_tiles_are_the_image_row_by_row():
    # every pixel says where it is, and the image has the size of its canvas: nothing is resized
    rows, cols = np.meshgrid(np.arange(16), np.arange(24), indexing="ij")
    pixels = np.stack([rows, cols, np.zeros_like(rows)]).astype(np.uint8)
    tiles = split_tiles(pixels, Grid(2, 3))
    corners = [(0, 0), (0, 8), (0, 16), (8, 0), (8, 8), (8, 16)]
    assert [tuple(tile[:2, 0, 0].tolist()) for tile in tiles] == corners
    assert np.array_equal(tiles[4], pixels[:, 8:16, 8:16])


def tiled(image: Image.Image, tile: int, grids, decoded=lambda image: image) -> tuple[list[Image.Image], Grid]:
    grid = grid_of(image.size, grids, tile)
    tiles = np.full((1 + grid.rows * grid.cols, 3, tile, tile), 7, dtype=np.uint8)
    assert write_tiles(tiles, decoded(image), grid) == len(tiles)
    return [Image.fromarray(one.transpose(1, 2, 0)) for one in tiles], grid


def test_the_base_tile_is_the_whole_image_and_comes_first():
    picture = Image.new("RGB", (30, 10), "red")
    picture.paste("blue", (15, 0, 30, 10))
    tiles, grid = tiled(picture, 10, [Grid(1, 3), Grid(2, 2)])
    assert grid == Grid(1, 3)
    assert len(tiles) == 4
    assert [tiles[0].getpixel((x, 5)) for x in (1, 8)] == [(255, 0, 0), (0, 0, 255)]
    assert tiles[1].getcolors() == [(100, (255, 0, 0))]
    assert tiles[3].getcolors() == [(100, (0, 0, 255))]


def test_padding_is_black_and_the_image_stands_in_the_middle():
    canvas = resize_and_pad(Image.new("RGB", (10, 5), "white"), Grid(2, 1), tile=10)
    rows = canvas[0, :, 0].tolist()
    assert rows == [0] * 7 + [255] * 5 + [0] * 8  # (20 - 5) // 2 above
    canvas = resize_and_pad(Image.new("RGB", (5, 10), "white"), Grid(1, 2), tile=10)
    assert canvas[0, 0, :].tolist() == rows


def test_fixed_resolution_squashes_to_one_tile():
    tiles, grid = tiled(Image.new("RGB", (30, 10), "red"), 10, [])
    assert grid == Grid(0, 0)
    assert [tile.size for tile in tiles] == [(10, 10)]


def test_an_image_of_the_tiles_size_is_not_touched():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 10, 3), dtype=np.uint8))
    (tile,), _ = tiled(picture, 10, [])
    assert np.array_equal(np.asarray(tile), np.asarray(picture))


def test_up_to_twelve_tiles():
    # arXiv 2408.08872v4: at most 12 tiles, longest side 1536 = 4 x 384
    grids = grids_up_to(12, side=4)
    assert {(g.rows, g.cols) for g in grids} == {(r, c) for r in range(1, 5) for c in range(1, 5)} - {(1, 1), (4, 4)}
    tiles, grid = tiled(Image.new("RGB", (1600, 1200)), 384, grids)
    assert grid == Grid(3, 4)
    assert len(tiles) == 13


@pytest.mark.parametrize(
    ("size", "most", "mean"),
    # torch rounds its weights to 16 bits, Pillow to more; what grows wide and shrinks high it makes in the other order
    [((640, 480), 1, 0.01), ((40, 30), 2, 0.01), ((384, 100), 2, 0.01), ((384, 384), 0, 0), ((31, 777), 255, 0.5)],
)
def test_arrays_give_pillows_tiles(size: tuple[int, int], most: int, mean: float):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    grid = grid_of(size, GRIDS if size != (384, 384) else [], 384)
    found, expected = (np.full((1 + grid.rows * grid.cols, 3, 384, 384), 7, dtype=np.uint8) for _ in range(2))
    write_tiles(found, pixels, grid)
    write_tiles(expected, Image.fromarray(pixels), grid)
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= most
    assert difference.mean() <= mean


def test_arrays_are_resized_as_interpolate_does():
    """Whole tiles, and a picture in the midst of its canvas."""
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    tiles = np.empty((5, 3, 384, 384), dtype=np.uint8)
    write_tiles(tiles, pixels, Grid(2, 2))
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    base, fitted = (interpolate(planes, size, mode="bicubic", antialias=True) for size in ((384, 384), (576, 768)))
    canvas = pad(fitted, (0, 0, 96, 96))[0]
    assert np.array_equal(tiles[0], base[0])
    for number, tile in enumerate(tiles[1:]):
        row, col = divmod(number, 2)
        assert np.array_equal(tile, canvas[:, row * 384 : row * 384 + 384, col * 384 : col * 384 + 384])


@pytest.mark.parametrize("decoded", [lambda image: image, np.array])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (7, 3)])
def test_extreme_proportions(size: tuple[int, int], decoded):
    tiles, grid = tiled(Image.new("RGB", size, "white"), 16, GRIDS, decoded)
    assert len(tiles) == 1 + grid.rows * grid.cols
    assert all(tile.size == (16, 16) for tile in tiles)
    assert sum(math.prod(tile.size) for tile in tiles[1:]) == grid.rows * grid.cols * 256

"""Any-resolution tiling: which grid an image gets, and its tiles. Knows nothing of tokens or models."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from xgenmm.types import Grid

Decoded = Image.Image | np.ndarray
"""An RGB image: Pillow's, which Pillow resizes, or an array [height, width, 3], which torch resizes: in much less time,
the same but for a grey level here and there (`benchmarks/loader.py`)."""
Size = tuple[int, int]
"""Width and height in pixels."""
_bicubic_into = torch.ops.aten._upsample_bicubic2d_aa.out


def choose_grid(height: int, width: int, grids: Sequence[Grid], tile: int) -> Grid:
    """Pick the grid that keeps most of the image's pixels and, among those, wastes least of its canvas.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        grids: Grids allowed by the recipe; the first of equally good ones wins.
        tile: Side of a tile in pixels.

    Source: arXiv 2408.08872, section 3 (the "any-resolution" rule that it takes over from LLaVA-NeXT).

    >>> choose_grid(480, 640, [Grid(2, 1), Grid(1, 2), Grid(2, 2)], tile=384)
    Grid(rows=2, cols=2)
    """

    def merit(grid: Grid) -> tuple[int, int]:
        canvas_height, canvas_width = grid.rows * tile, grid.cols * tile
        scale = min(canvas_width / width, canvas_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas_height * canvas_width

    return max(grids, key=merit)


def fitting_size(size: Size, grid: Grid, tile: int) -> Size:
    """Width and height of an image of this size when it is fitted into the grid's canvas, keeping its proportions."""
    width, height = size
    canvas_width, canvas_height = grid.cols * tile, grid.rows * tile
    if canvas_width / width < canvas_height / height:
        return canvas_width, min(math.ceil(height * canvas_width / width), canvas_height)
    return min(math.ceil(width * canvas_height / height), canvas_width), canvas_height


def resize_and_pad(
    image: Decoded, grid: Grid, tile: int, size: Size | None = None
) -> UInt8[np.ndarray, "3 height width"]:
    """Fit the whole image into the grid's canvas, keeping its proportions, centred on black.

    Args:
        image: RGB.
        grid: Rows and columns of the canvas.
        tile: Side of a tile in pixels.
        size: Width and height of the image as it is stored, where it was decoded smaller.
    """
    rows, cols = grid.rows * tile, grid.cols * tile
    width, height = fitting_size(size or _size_of(image), grid, tile)
    top, left = (rows - height) // 2, (cols - width) // 2
    canvas = np.zeros((3, rows, cols), dtype=np.uint8)
    _resize_into(canvas[:, top : top + height, left : left + width], image)
    return canvas


def split_tiles(canvas: UInt8[np.ndarray, "3 height width"], grid: Grid) -> UInt8[np.ndarray, "tiles 3 side side"]:
    """Cut a canvas into its tiles, row by row."""
    return rearrange(canvas, "c (r h) (k w) -> (r k) c h w", r=grid.rows, k=grid.cols)


def grid_of(size: Size, grids: Sequence[Grid], tile: int) -> Grid:
    """The grid of an image of this width and height; `Grid(0, 0)` without `grids` (fixed resolution)."""
    return choose_grid(size[1], size[0], grids, tile) if grids else Grid(0, 0)


def write_tiles(
    tiles: UInt8[np.ndarray, "tiles 3 side side"], image: Decoded, grid: Grid, size: Size | None = None
) -> int:
    """Write the tiles that a model sees of an image: the base tile, the whole image squashed to a square, then the
    grid's. Gives their number.

    Args:
        tiles: Where they go, from the first place on.
        image: RGB.
        grid: What `grid_of` gives.
        size: As in `resize_and_pad`.
    """
    number = 1 + grid.rows * grid.cols
    _resize_into(tiles[0], image)
    if grid.rows:
        tiles[1:number] = split_tiles(resize_and_pad(image, grid, tiles.shape[-1], size), grid)
    return number


def needed_size(size: Size, grid: Grid, tile: int) -> Size:
    """Width and height in pixels that suffice for the tiles of an image: nothing larger is looked at.

    >>> needed_size((2000, 1000), Grid(1, 2), tile=384)
    (768, 384)
    """
    width, height = (0, 0) if grid == Grid(0, 0) else fitting_size(size, grid, tile)
    return max(width, tile), max(height, tile)


def grids_up_to(tiles: int, side: int) -> tuple[Grid, ...]:
    """All grids of at most `tiles` tiles and at most `side` tiles along a side, but for the single tile.

    The 2025 revision of the paper has up to 12 tiles and a longest side of 1536 = 4 x 384 pixels.

    >>> len(grids_up_to(12, side=4))
    14
    """
    return tuple(
        Grid(rows, cols) for rows in range(1, side + 1) for cols in range(1, side + 1) if 1 < rows * cols <= tiles
    )


def _resize_into(planes: UInt8[np.ndarray, "3 height width"], image: Decoded) -> None:
    """Write the channels of the image at another size, smoothed where it gets smaller: bicubic."""
    height, width = planes.shape[1:]
    if isinstance(image, Image.Image):
        fitted = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
        for plane, channel in zip(planes, fitted.split(), strict=True):  # faster than NumPy turns the axes
            plane[...] = np.asarray(channel)
        return
    if image.shape[:2] != (height, width):
        small = np.empty((height, width, 3), dtype=np.uint8)
        # `interpolate` would allocate planes, and take as long to write them as to resize; NumPy is faster at that
        _bicubic_into(_as_picture(image), (height, width), False, None, None, out=_as_picture(small))
        image = small
    planes[...] = image.transpose(2, 0, 1)


def _as_picture(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "1 3 height width"]:
    """The same memory for torch. Axes by NumPy: einops takes 30 microseconds where a decoder has emptied the caches."""
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None])


def _size_of(image: Decoded) -> Size:
    return (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size

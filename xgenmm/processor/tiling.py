"""Any-resolution tiling: which grid an image gets, and its tiles. Knows nothing of tokens or models."""

import math
from collections.abc import Sequence

from PIL import Image

from xgenmm.types import Grid

Size = tuple[int, int]
"""Width and height in pixels."""


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


def resize_and_pad(image: Image.Image, grid: Grid, tile: int, size: Size | None = None) -> Image.Image:
    """Fit the whole image into the grid's canvas, keeping its proportions, centred on black.

    Args:
        image: RGB.
        grid: Rows and columns of the canvas.
        tile: Side of a tile in pixels.
        size: Width and height of the image as it is stored, where it was decoded smaller.
    """
    canvas_width, canvas_height = grid.cols * tile, grid.rows * tile
    width, height = fitting_size(size or image.size, grid, tile)
    canvas = Image.new("RGB", (canvas_width, canvas_height))
    canvas.paste(_resize(image, width, height), ((canvas_width - width) // 2, (canvas_height - height) // 2))
    return canvas


def split_tiles(canvas: Image.Image, tile: int) -> list[Image.Image]:
    """Cut a canvas into its tiles, row by row."""
    return [
        canvas.crop((left, top, left + tile, top + tile))
        for top in range(0, canvas.height, tile)
        for left in range(0, canvas.width, tile)
    ]


def grid_of(size: Size, grids: Sequence[Grid], tile: int) -> Grid:
    """The grid of an image of this width and height; `Grid(0, 0)` without `grids` (fixed resolution)."""
    return choose_grid(size[1], size[0], grids, tile) if grids else Grid(0, 0)


def tile_image(image: Image.Image, tile: int, grid: Grid, size: Size | None = None) -> list[Image.Image]:
    """The tiles that a model sees of an image: first the base tile, the whole image squashed to a square, then the
    grid's.

    Args:
        image: RGB.
        tile: Side of a tile in pixels.
        grid: What `grid_of` gives.
        size: As in `resize_and_pad`.
    """
    base = _resize(image, tile, tile)
    if grid == Grid(0, 0):
        return [base]
    return [base, *split_tiles(resize_and_pad(image, grid, tile, size), tile)]


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


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)

"""Any-resolution tiling: which grid an image gets, and its tiles. Knows nothing of tokens or models."""

import math
from collections.abc import Sequence

from PIL import Image

from xgenmm.types import Grid


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


def resize_and_pad(image: Image.Image, grid: Grid, tile: int) -> Image.Image:
    """Fit the whole image into the grid's canvas, keeping its proportions, centred on black."""
    canvas_width, canvas_height = grid.cols * tile, grid.rows * tile
    if canvas_width / image.width < canvas_height / image.height:
        width, height = canvas_width, min(math.ceil(image.height * canvas_width / image.width), canvas_height)
    else:
        width, height = min(math.ceil(image.width * canvas_height / image.height), canvas_width), canvas_height
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


def tile_image(image: Image.Image, tile: int, grids: Sequence[Grid]) -> tuple[list[Image.Image], Grid]:
    """The tiles that a model sees of an image, and the grid they were cut in.

    The base tile, the whole image squashed to a square, comes first. Without `grids` (fixed resolution) it is the only
    one and the grid is `Grid(0, 0)`.

    Args:
        image: RGB.
        tile: Side of a tile in pixels.
        grids: Grids allowed by the recipe; the first of equally good ones wins.
    """
    base = _resize(image, tile, tile)
    if not grids:
        return [base], Grid(0, 0)
    grid = choose_grid(image.height, image.width, grids, tile)
    return [base, *split_tiles(resize_and_pad(image, grid, tile), tile)], grid


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

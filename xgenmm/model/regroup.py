"""From the tiles of an image to the groups of patches that the resampler reads one by one, and which patches are
padding.

`tiles` is what the paper describes: a group is a tile. `strips` is what the released weights were trained with: the
tiles are laid side by side into one map, which is then cut into groups in raster order, so that a group is a
horizontal strip across all tiles of its rows. The two agree where the grid is one tile wide. Knows no model.
"""

from functools import lru_cache
from math import isqrt
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

Regroup = Literal["tiles", "strips"]


def regroup(
    features: Float[Tensor, "T P D"], layouts: Int[Tensor, "N 4"], mode: Regroup
) -> tuple[Float[Tensor, "T P D"], Bool[Tensor, "T P"] | None]:
    """Features in the groups that the resampler reads, and the mask of the patches that show something of the image.

    Args:
        features: All tiles of all images in order; of each image the base tile first, then its grid row by row.
        layouts: Rows and columns of each image's grid, and height and width of the original in pixels.
        mode: What a group is, see above.

    Returns:
        The groups, as many as tiles and in the same order; and False at padding, or None if there is no padding
        anywhere.

    Source: spec 1.6, feature side; arXiv 2408.08872, section 3.
    """
    images = layouts.tolist()
    expected = sum(1 + rows * cols for rows, cols, _, _ in images)
    if expected != len(features):
        raise ValueError(
            f"{len(features)} tiles for {len(images)} image layouts that ask for {expected}: "
            "the processor must give the base tile and then one tile per cell of the grid for every image"
        )
    side = isqrt(features.shape[1])
    masks: list[Bool[Tensor, "tiles P"]] = []
    groups: list[Float[Tensor, "tiles P D"]] = []
    start = 0
    for rows, cols, height, width in images:
        cells = features[start + 1 : start + 1 + rows * cols]
        if mode == "strips" and cols > 1:
            canvas = rearrange(cells, "(r c) (h w) d -> (r h c w) d", r=rows, c=cols, h=side)
            cells = rearrange(canvas, "(g p) d -> g p d", g=rows * cols)
        groups += [features[start : start + 1], cells]
        masks += [torch.ones(1, side * side, dtype=torch.bool), group_mask(rows, cols, height, width, side, mode)]
        start += 1 + rows * cols
    mask = torch.cat(masks) if masks else torch.ones(0, side * side, dtype=torch.bool)
    # Tiles need no moving: the copy is saved.
    grouped = torch.cat(groups) if mode == "strips" and groups else features
    return grouped, None if bool(mask.all()) else mask.to(features.device, non_blocking=True)


@lru_cache(maxsize=4096)
def group_mask(rows: int, cols: int, height: int, width: int, side: int, mode: Regroup) -> Bool[Tensor, "tiles P"]:
    """The padding mask of the grid's groups (without the base tile), cut as the features are."""
    if rows * cols == 0:
        return torch.ones(0, side * side, dtype=torch.bool)
    canvas = feature_mask(rows, cols, height, width, side)
    if mode == "tiles":
        return rearrange(canvas, "(r h) (c w) -> (r c) (h w)", r=rows, c=cols)
    return rearrange(canvas.reshape(-1), "(g p) -> g p", g=rows * cols)


def feature_mask(rows: int, cols: int, height: int, width: int, side: int) -> Bool[Tensor, "map_rows map_cols"]:
    """Which patches of the whole map show the image (True) and which the black bars that the processor put around it.

    Args:
        rows: Rows of the grid of tiles.
        cols: Columns of the grid of tiles.
        height: Height of the original image in pixels.
        width: Width of the original image in pixels.
        side: Patches along a side of a tile.

    Source: spec 1.6, feature side, step 3 (bars are equal on both sides and rounded down).

    >>> int(feature_mask(rows=2, cols=2, height=480, width=640, side=27).sum())
    2160
    """
    map_rows, map_cols = rows * side, cols * side
    mask = torch.zeros(map_rows, map_cols, dtype=torch.bool)
    if width * map_rows > map_cols * height:
        bar = (map_rows - height * map_cols // width) // 2
        mask[bar : map_rows - bar] = True
    else:
        bar = (map_cols - width * map_rows // height) // 2
        mask[:, bar : map_cols - bar] = True
    return mask

"""A sample as tokens and labels, its pictures known by their sizes alone: how long it is, before a pixel is decoded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xgenmm.processor.branching import branch
from xgenmm.processor.tiling import Size
from xgenmm.types import IGNORE_INDEX, Example, Picture


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What becomes an Example once its pictures are decoded (`XGenMMProcessor.fill`)."""

    example: Example
    """All of it but the pixels: it has no tile."""
    pictures: tuple[Picture, ...]
    """In the order of their placeholders, one for each row of `example.image_layouts`."""
    layouts: tuple[tuple[int, int, int, int], ...]
    """These rows: a grid's rows and columns, and the picture's height and width in pixels. As numbers, because between
    decoding and resizing, where `fill` wants them, reading them out of a tensor is slow.
    """
    needed: tuple[Size, ...]
    """Width and height in pixels at which each picture suffices for its tiles."""

    @property
    def tokens(self) -> int:
        """Positions, text and vision."""
        return self.example.input_ids.numel()

    @property
    def tiles(self) -> int:
        """Tiles of all pictures, base tiles included."""
        return sum(1 + rows * cols for rows, cols, _, _ in self.layouts)

    @property
    def loss_tokens(self) -> int:
        """Supervised positions."""
        return int(np.count_nonzero(self.example.labels.numpy() != IGNORE_INDEX))

    def named(self, name: str) -> "Outline":
        """The same under another id."""
        return replace(self, example=replace(self.example, id=name))


def joined(outlines: Sequence[Outline], placeholder: int) -> Outline | None:
    """Several outlines as branches of one (`processor.branching`), or None if they do not share all their pictures."""
    first = outlines[0]
    if any(other.pictures != first.pictures for other in outlines[1:]):
        return None
    example = branch([outline.example for outline in outlines], placeholder)
    return None if example is None else replace(first, example=example)

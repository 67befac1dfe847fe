"""What stands in for a question's pictures, to see what a model makes of it without them."""

import io
import random

from PIL import Image

from xgenmm.types import Picture


def others(count: int) -> list[int]:
    """For each of so many questions another one: the next in an order drawn once and for all.

    It is drawn because neighbours in a file are often alike: a fruit's neighbour is a fruit.

    >>> sorted(others(3)), any(place == other for place, other in enumerate(others(3)))
    ([0, 1, 2], False)
    """
    order = random.Random(0).sample(range(count), count)
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [following[place] for place in range(count)]


def white_paper(side: int) -> Picture:
    """A white picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "white").save(buffer, format="PNG")
    return Picture(source=buffer.getvalue(), name="white paper")

"""The fast way from a plain JPEG to pixels, for those who install OpenCV: decoding and shrinking, half as expensive.

Its pixels differ by less than a grey level on average from Pillow's. It takes what is not plain for something else than
Pillow does (CMYK, damage), so the caller hands it nothing else.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from xgenmm.config import ConfigError

_REDUCED = {8: "IMREAD_REDUCED_COLOR_8", 4: "IMREAD_REDUCED_COLOR_4", 2: "IMREAD_REDUCED_COLOR_2"}
"""Scale -> how OpenCV calls decoding at a part of the size."""
_END = b"\xff\xd9"


@functools.cache
def library() -> Any:
    """OpenCV, told to start no threads of its own.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            "reading.decode: fast needs OpenCV: pip install 'xgenmm[fast]', or say draft or exact"
        ) from error
    cv2.setNumThreads(0)
    return cv2


def decoded(
    data: bytes, size: tuple[int, int], at_least: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"] | None:
    """A plain JPEG as RGB, as it is stored: no larger than it has to be. None if it is not whole.

    Args:
        data: The file.
        size: Width and height in pixels by its header.
        at_least: Width and height that suffice.
    """
    if data[-2:] != _END:  # cut off, or something behind it: OpenCV would say nothing
        return None
    cv2 = library()
    scale = next((s for s in _REDUCED if size[0] >= s * at_least[0] and size[1] >= s * at_least[1]), 1)
    coded = np.frombuffer(data, dtype=np.uint8)
    if scale == 1:
        return cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    small = cv2.imdecode(coded, getattr(cv2, _REDUCED[scale]) | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if small is None else cv2.cvtColor(small, cv2.COLOR_BGR2RGB)


def resized(image: UInt8[np.ndarray, "rows cols 3"], width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """At another size: by areas where it gets smaller on both sides, otherwise by Pillow."""
    rows, cols, _ = image.shape
    if (cols, rows) == (width, height):
        return image
    if width <= cols and height <= rows:
        cv2 = library()
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def split(pixels: UInt8[np.ndarray, "height width 3"], into: UInt8[np.ndarray, "3 height width"]) -> None:
    """Write the channels apart, seven times as fast as NumPy turns the axes."""
    library().split(pixels, list(into))

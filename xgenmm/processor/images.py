"""Opens pictures of every kind people have as upright RGB images. Knows nothing of tiles, tokens or models."""

import base64
import binascii
import io
import os
import re
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from xgenmm.types import Picture

T = TypeVar("T")
MAX_PIXELS = 178_956_970
"""Largest picture that is decoded, in pixels: where Pillow itself refuses. As RGB it takes half a gigabyte."""

FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are tried. Not all that Pillow knows: EPS would start another program on the file's content, and some
take anything for a picture of theirs."""

# What decoders raise on damaged files has no base class of its own.
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, MemoryError),
    *(AttributeError, RuntimeError, struct.error, zlib.error),
)

_HARMLESS_BYTES = 16
"""Some cameras fill up the end of a scan; a damage leaves more behind."""
_HOLE, _HUFFMAN, _LUMA_AC = 64, 0xC4, 0x10
_DOWNLOAD_SECONDS = 30
_ORIENTATION_TAG = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored picture upright."""


Image.init()  # Pillow opens a format only after its plug-in was loaded


class ImageError(ValueError):
    """A picture cannot be used; the message names it."""

    def __init__(self, name: str, reason: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.reason = reason
        """For counting: `missing`, `empty`, `not_decodable`, `too_large`, `truncated` or `corrupt`."""


def open_image(picture: Picture, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture: upright by its EXIF tag, on white where it is transparent, first frame of an animation.

    Args:
        picture: What to open.
        max_pixels: Largest width x height that is decoded; checked from the header, before any pixel is.

    Raises:
        ImageError: The picture is missing, no picture, too large, or damaged.
    """
    return _decoded(picture, max_pixels, to_rgb)


def check_image(picture: Picture, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Decode a picture as it is stored, to find damage; gives width and height in pixels. Arguments as `open_image`.

    Raises:
        ImageError: As `open_image`.
    """
    size, kind = _decoded(picture, max_pixels, lambda image: (image.size, image.format))
    if kind == "JPEG":
        _check_jpeg(picture)
    return size


def _check_jpeg(picture: Picture) -> None:
    """Find a damage inside a JPEG's scan that Pillow passes over: its decoder only warns of it, or does not notice."""
    content = picture.source if isinstance(picture.source, bytes) else picture.source.read_bytes()
    try:
        simplejpeg.decode_jpeg(content, strict=True)
    except ValueError as error:
        surplus = re.search(r"(\d+) extraneous bytes", str(error))
        if "Corrupt JPEG data" in str(error) and (surplus is None or int(surplus[1]) > _HARMLESS_BYTES):
            raise ImageError(picture.name, "corrupt", f"damaged picture: {error}") from error
    scan = content.find(b"\xff\xda")
    hole = content.find(bytes(_HOLE), scan)
    if scan >= 0 and hole >= 0 and not _codes_nothing_as_zeros(content[:scan]):
        raise ImageError(picture.name, "corrupt", f"damaged picture: a hole of zeros at byte {hole}")


def _codes_nothing_as_zeros(header: bytes) -> bool:
    """Whether brightness has "no more coefficients" written as zeros, as tables made for flat pictures may: then zeros
    say nothing of a damage. Otherwise 64 bytes of them would be several blocks of coefficients that are all -1.

    Source: ITU-T T.81, B.2.4.2: the first symbol of a table has the code of all zeros; 0x10 is AC of the first table,
    symbol 0 the end of a block.
    """
    place = 2
    while place + 4 <= len(header):
        marker, size = header[place + 1], int.from_bytes(header[place + 2 : place + 4], "big")
        tables = header[place + 4 : place + 2 + size] if marker == _HUFFMAN else b""
        while len(tables) > 17:
            symbols = sum(tables[1:17])
            if tables[0] == _LUMA_AC and symbols and tables[17] == 0:
                return True
            tables = tables[17 + symbols :]
        place += 2 + size
    return False


def _decoded(picture: Picture, max_pixels: int, use: Callable[[Image.Image], T]) -> T:
    name = picture.name
    try:
        with _open_header(picture) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(name, "too_large", f"{width} x {height} pixels, the limit is {max_pixels} in all")
            image.load()
            return use(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(name, "too_large", str(error)) from error
    except _DECODER_ERRORS as error:
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise ImageError(name, reason, f"damaged picture: {error}") from error


def load_image(source: Any, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """What callers of Hugging Face processors give as an image, as an upright RGB image.

    Args:
        source: A PIL image, an array [height, width(, channels)] of bytes, a file's bytes, its path (as text, too), an
            http(s) or data URL, or base64 text.
        max_pixels: As in `open_image`.

    Raises:
        ImageError: As `open_image`.
        TypeError: It is none of these.
    """
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, np.ndarray):
        return to_rgb(Image.fromarray(source))
    if isinstance(source, bytes):
        return open_image(Picture(source=source, name="picture given as bytes"), max_pixels)
    if isinstance(source, Path):
        return open_image(Picture(source=source, name=str(source)), max_pixels)
    if isinstance(source, str):
        return open_image(_picture_of_text(source), max_pixels)
    raise TypeError(f"a picture is a PIL image, an array, bytes, a path or a URL, not a {type(source).__name__}")


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture of any mode as an upright RGB one.

    Sixteen-bit greys keep their whole range (Pillow's own conversion clips them at 255); transparent parts show white,
    as on a page; CMYK is converted without its colour profile.
    """
    orientation = _orientation(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bit(image)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = image.convert("RGB")
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _picture_of_text(text: str) -> Picture:
    name = text if len(text) <= 100 else f"{text[:100]}..."
    if text.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(text, timeout=_DOWNLOAD_SECONDS) as answer:
                return Picture(source=answer.read(), name=name)
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it is an open answer, too
            raise ImageError(name, "missing", f"cannot download: {error}") from error
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = None if os.path.isfile(text) else base64.b64decode(encoded, validate=True)
    except binascii.Error:
        data = None
    return Picture(source=Path(text) if data is None else data, name=name)


def _open_header(picture: Picture) -> Image.Image:
    source = picture.source
    if isinstance(source, Path) and not os.path.isfile(source):  # a named pipe, for one, would be read for ever
        raise ImageError(picture.name, "missing", "there is no such file")
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise ImageError(picture.name, "missing", f"cannot read the file: {error.strerror}") from error
    if not data:
        raise ImageError(picture.name, "empty", "the file holds no bytes")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        start = data[:12]
        message = f"not a picture in a format that we read ({', '.join(FORMATS)}); it starts with {start!r}"
        raise ImageError(picture.name, "not_decodable", message) from error


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except _DECODER_ERRORS:  # damaged EXIF says nothing about the pixels: show them as they are stored
        return None


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits and of floats, brought to 0..255.

    Whole numbers within 16 bits are scaled by 257, so that 65535 is white. Anything else has no agreed white: its own
    smallest and largest values become black and white.
    """
    values = np.asarray(image)
    if np.issubdtype(values.dtype, np.integer) and values.min() >= 0 and values.max() <= 65535:
        return Image.fromarray(np.round(values / 257).astype(np.uint8))
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = values.min(), values.max()
    return Image.fromarray(np.round((values - low) / max(high - low, np.finfo(np.float64).tiny) * 255).astype(np.uint8))

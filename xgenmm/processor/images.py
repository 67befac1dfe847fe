"""Opens pictures of every kind people have as upright RGB images. Knows nothing of tiles, tokens or models."""

import base64
import binascii
import functools
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from xgenmm.processor import jpeg
from xgenmm.types import Picture
from xgenmm.web import Web, WebConfig, WebError

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

WEB = WebConfig()
"""Pictures by address come from the public internet only, whoever asks: an address may be somebody else's."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
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
_TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
}
"""The same for arrays [height, width, 3]."""


Image.init()  # Pillow opens a format only after its plug-in was loaded


class ImageError(ValueError):
    """A picture cannot be used; the message names it."""

    def __init__(self, name: str, reason: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.reason = reason
        """For counting: `missing`, `empty`, `not_decodable`, `too_large`, `truncated` or `corrupt`."""


class PictureFile:
    """A picture whose header is read and whose pixels are not: its size is known before anything is decoded."""

    mode: str
    """Pillow's name for how a pixel is stored."""
    size: tuple[int, int]
    """Width and height in pixels of the upright picture."""

    def __init__(self, picture: Picture, max_pixels: int = MAX_PIXELS) -> None:
        """Read the header.

        Args:
            picture: What to open.
            max_pixels: Largest width x height that is decoded; checked here, before any pixel is.

        Raises:
            ImageError: The picture is missing, no picture, or too large.
        """
        self.name = picture.name
        with _told(self.name):
            self._content = _read(picture)
            plain = jpeg.plain_header(self._content)
            self.mode, self._stored_size = plain or (self._image.mode, self._image.size)
            width, height = self._stored_size
            if width * height > max_pixels:
                text = f"{width} x {height} pixels, the limit is {max_pixels} in all"
                raise ImageError(self.name, "too_large", text)
            self._format = "JPEG" if plain else self._image.format
            self._orientation = None if plain else _orientation_in_header(self._image, self._content)
        self.size = (height, width) if self._on_its_side else (width, height)

    @functools.cached_property
    def _image(self) -> Image.Image:
        with _told(self.name):
            return _open_header(self.name, self._content)

    @property
    def is_jpeg(self) -> bool:
        """Whether it is a JPEG, alone or with others in its file."""
        return self._format in ("JPEG", "MPO")

    @property
    def digest(self) -> str:
        """Of the file's bytes: equal files have equal ones."""
        return xxhash.xxh3_64(self._content).hexdigest()

    @property
    def _on_its_side(self) -> bool:
        # Pillow gives the size of a TIFF as it will be once it is loaded, turned already
        return (self._orientation or 0) >= 5 and self._format != "TIFF"

    def decode(self, at_least: tuple[int, int] | None = None) -> Image.Image:
        """The picture: upright by its EXIF tag, on white where it is transparent, first frame of an animation.

        Args:
            at_least: Width and height in pixels that suffice. A JPEG of twice, four or eight times that is decoded at a
                half, a quarter or an eighth of its size, which is several times as fast and not quite the same picture.

        Raises:
            ImageError: It is damaged.
        """
        if at_least is not None and self.is_jpeg:
            self._image.draft(None, at_least[::-1] if self._on_its_side else at_least)
        return self._load(to_rgb)

    def decode_pixels(self, at_least: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
        """The numbers of `decode`, in less time.

        Raises:
            ImageError: As `decode`.
        """
        if self._format == "JPEG" and self.mode in ("RGB", "L"):
            stored = at_least[::-1] if self._on_its_side else at_least
            pixels = jpeg.decoded(self._content, self._stored_size, stored)
            if pixels is not None:
                return _turned(pixels, self._orientation)
        return np.array(self.decode(at_least))

    def verify(self) -> None:
        """Decode the picture as it is stored, to find damage.

        Raises:
            ImageError: It is damaged.
        """
        self._load(lambda image: image)
        if self.is_jpeg and (damage := jpeg.damage_of(self._content)):
            raise ImageError(self.name, "corrupt", f"damaged picture: {damage}")

    def _load(self, use: Callable[[Image.Image], Image.Image]) -> Image.Image:
        with _told(self.name), self._image as image:
            image.load()
            return use(image)


def _turned(pixels: np.ndarray, orientation: int | None) -> np.ndarray:
    turn = _TURNED.get(orientation or 1)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What decoders raise on damaged files, as an error that names the picture and the reason."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(name, "too_large", str(error)) from error
    except _DECODER_ERRORS as error:
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise ImageError(name, reason, f"damaged picture: {error}") from error


def open_image(picture: Picture, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture, exactly; see `PictureFile`.

    Raises:
        ImageError: The picture is missing, no picture, too large, or damaged.
    """
    return PictureFile(picture, max_pixels).decode()


def check_image(picture: Picture, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Decode a picture as it is stored, to find damage; gives width and height in pixels.

    Raises:
        ImageError: As `open_image`.
    """
    file = PictureFile(picture, max_pixels)
    file.verify()
    return file.size


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
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _picture_of_text(text: str) -> Picture:
    name = text if len(text) <= 100 else f"{text[:100]}..."
    if text.startswith(("http://", "https://")):
        try:
            with Web(WEB) as web:
                return Picture(source=web.get(text), name=name)
        except WebError as error:
            raise ImageError(name, "missing", f"cannot download: {error}") from error
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = None if os.path.isfile(text) else base64.b64decode(encoded, validate=True)
    except binascii.Error:
        data = None
    return Picture(source=Path(text) if data is None else data, name=name)


def _read(picture: Picture) -> bytes:
    source = picture.source
    if isinstance(source, Path) and not os.path.isfile(source):  # a named pipe, for one, would be read for ever
        raise ImageError(picture.name, "missing", "there is no such file")
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise ImageError(picture.name, "missing", f"cannot read the file: {error.strerror or error}") from error
    if not data:
        raise ImageError(picture.name, "empty", "the file holds no bytes")
    return data


def _open_header(name: str, data: bytes) -> Image.Image:
    if data[:4] == b"RIFF" and len(data) < 8 + int.from_bytes(data[4:8], "little"):  # WebP's decoder would not say so
        raise ImageError(name, "truncated", f"the file is cut off at byte {len(data)}")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        start = data[:12]
        message = f"not a picture in a format that we read ({', '.join(FORMATS)}); it starts with {start!r}"
        raise ImageError(name, "not_decodable", message) from error


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except _DECODER_ERRORS:  # damaged EXIF says nothing about the pixels: show them as they are stored
        return None


def _orientation_in_header(image: Image.Image, data: bytes) -> int | None:
    """What `_orientation` will say once the picture is decoded, as far as it can be known without that."""
    if image.format == "PNG":
        if _has_late_chunks(data):
            image.load()
        elif "exif" not in image.info and not any("exif" in str(name) or "xmp" in str(name) for name in image.info):
            return None  # asking would decode the picture: the tag may stand behind the pixels, but it does not
    elif image.format == "JPEG" and "exif" not in image.info and "xmp" not in image.info:
        return None
    return _orientation(image)


def _has_late_chunks(data: bytes) -> bool:
    """Whether a PNG has chunks behind its pixels that may hold an orientation."""
    here, behind_pixels = len(_PNG_SIGNATURE), False
    while here + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, here)
        behind_pixels |= kind == b"IDAT"
        if behind_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return True
        here += length + 12
    return False


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

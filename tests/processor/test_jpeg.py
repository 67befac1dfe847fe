"""Plain headers against Pillow: of every kind of JPEG that it writes, and of the same with damaged headers."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from xgenmm.processor.jpeg import plain_header

SETTINGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "own tables": {"optimize": True},
    "restart markers": {"restart_marker_blocks": 2},
    "a comment": {"comment": b"hello"},
    "density": {"dpi": (72, 72)},
    "profile": {"icc_profile": b"x" * 100},
    "orientation": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
}
NOT_PLAIN = ("profile", "orientation")


def written(mode: str, settings: dict) -> bytes:
    buffer = io.BytesIO()
    shape = (9, 17, len(mode)) if len(mode) > 1 else (9, 17)
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    Image.fromarray(pixels, mode).save(buffer, "JPEG", **settings)
    return buffer.getvalue()


def by_pillow(content: bytes) -> tuple[str, tuple[int, int]] | None:
    """None for what is not shown as it is stored, too."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            upright = image.getexif().get(274, 1) == 1
            return (image.mode, image.size) if image.format == "JPEG" and upright else None
    except (OSError, ValueError):
        return None


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_plain_header_says_what_pillow_says(kind: str):
    for mode in ("RGB", "L"):
        expected = None if kind in NOT_PLAIN else (mode, (17, 9))
        assert plain_header(written(mode, SETTINGS[kind])) == expected
    assert plain_header(written("CMYK", SETTINGS[kind])) is None


def test_of_damaged_headers_it_says_what_pillow_says_or_nothing():
    draw = random.Random(0)
    whole = [written(mode, settings) for mode in ("RGB", "L") for settings in SETTINGS.values()]
    plain = 0
    for _ in range(4000):
        content = bytearray(draw.choice(whole))
        place = draw.randrange(content.find(b"\xff\xda") + 12)
        damage = draw.choice(("change", "cut", "insert", "remove"))
        if damage == "change":
            content[place] = draw.choice((0, 1, 2, 4, 8, 255, draw.randrange(256)))
        elif damage == "cut":
            content = content[:place]
        elif damage == "insert":
            content[place:place] = draw.randbytes(draw.randint(1, 4))
        else:
            del content[place : place + draw.randint(1, 4)]
        found = plain_header(bytes(content))
        plain += found is not None
        assert found is None or found == by_pillow(bytes(content)), content[:64].hex()
    assert plain > 500  # most changes are to a table's numbers


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xda\0\x02", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_jpeg_has_none(content: bytes):
    assert plain_header(content) is None

"""`xgenmm data scan`: pictures and their captions."""

import random
import struct
import zlib

from PIL import Image
from scans import HD, JPEG, LARGE, bomb, flat, pair, picture, records, write_tar

LARGE_PNG, WEBP, GIF, BMP, TIFF, PROGRESSIVE = (
    picture("PNG", size=(400, 300)),
    picture("WEBP", size=(400, 300)),
    picture("GIF", "L", size=(400, 300)),
    picture("BMP", size=(400, 300)),
    picture("TIFF", size=(400, 300)),
    picture(size=(400, 300), progressive=True),
)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


LYING_PNG = LARGE_PNG[:8] + png_chunk(b"IHDR", struct.pack(">II", 4000, 3000) + LARGE_PNG[24:29]) + LARGE_PNG[33:]
"""Its header promises a hundred times the pixels that are there."""


def text_bomb():
    """A small picture with a compressed remark of 200 MB."""
    return LARGE_PNG[:33] + png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9)) + LARGE_PNG[33:]


PICTURES = {
    "good": (JPEG, "ok"),
    "cmyk": (picture(mode="CMYK"), "ok"),
    "grey16": (picture("PNG", "I;16"), "ok"),
    "palette": (picture("PNG", "P"), "ok"),
    "alpha": (picture("PNG", "RGBA"), "ok"),
    "animated": (picture("GIF", "P", save_all=True, append_images=[Image.new("P", (40, 30), 3)]), "ok"),
    "webp": (picture("WEBP"), "ok"),
    "progressive": (picture(progressive=True), "ok"),
    "flat": (flat(), "ok"),
    "junk_behind": (JPEG + b"junk" * 9, "ok"),
    "turned": (picture(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"), "ok"),
    "cut": (JPEG[: len(JPEG) // 2], "image_truncated"),
    "hole": (LARGE[:20_000] + bytes(500) + LARGE[20_500:], "image_corrupt"),
    "empty": (b"", "image_empty"),
    "html": (b"<html>404</html>", "image_not_decodable"),
    "noise": (b"\x89PNG\r\n\x1a\n" + bytes(range(200)), "image_not_decodable"),
    "bomb": (bomb(), "image_too_large"),
    "dot": (picture("PNG", size=(1, 1)), "image_too_small"),
    "strip": (picture("PNG", size=(4000, 8)), "image_aspect"),
    "cut_png": (LARGE_PNG[: len(LARGE_PNG) // 2], "image_truncated"),
    "cut_png_header": (LARGE_PNG[:20], "image_truncated"),
    "cut_webp": (WEBP[: len(WEBP) // 2], "image_truncated"),
    "cut_gif": (GIF[: len(GIF) // 2], "image_truncated"),
    "cut_bmp": (BMP[: len(BMP) // 2], "image_truncated"),
    "cut_tiff": (TIFF[: len(TIFF) // 2], "image_truncated"),
    "cut_progressive": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "image_truncated"),
    "cut_header": (JPEG[:40], "image_truncated"),
    "cut_end": (LARGE[:-2], "image_truncated"),
    "lying_png": (LYING_PNG, "image_corrupt"),
    "flipped_png": (LARGE_PNG[:5000] + bytes([LARGE_PNG[5000] ^ 0xFF]) + LARGE_PNG[5001:], "image_corrupt"),
    "text_bomb": (text_bomb(), "image_corrupt"),
    "noise_jpeg": (b"\xff\xd8\xff\xe0" + random.Random(0).randbytes(90_000), "image_not_decodable"),
    "cmyk_adobe": (picture(mode="CMYK", quality=95), "ok"),
    "grey": (picture("JPEG", "L"), "ok"),
    "grey16_tiff": (picture("TIFF", "I;16"), "ok"),
    "bilevel": (picture("PNG", "1"), "ok"),
    "grey_alpha": (picture("PNG", "LA"), "ok"),
    "palette_alpha": (picture("PNG", "P", transparency=0), "ok"),
    "animated_webp": (picture("WEBP", save_all=True, append_images=[Image.new("RGB", (40, 30))]), "ok"),
    "animated_png": (picture("PNG", save_all=True, append_images=[Image.new("RGB", (40, 30))]), "ok"),
}


def test_pictures_of_every_kind(tmp_path):
    members = [member for key, (content, _) in PICTURES.items() for member in pair(key, content)]
    assert records(write_tar(tmp_path / "s.tar", members)) == {key: reason for key, (_, reason) in PICTURES.items()}


TEXTS = {
    "good": (HD.encode(), "ok"),
    "lines": (b"two\nlines\tand a tab", "ok"),
    "empty": (b"", "text_empty"),
    "blank": (b" \n ", "text_empty"),
    "invisible": ("\u200b\u200d\ufeff".encode(), "text_empty"),
    "latin": ("Stra\xdfe".encode("latin-1"), "text_invalid_utf8"),
    "nul": (b"a\0b", "text_control_chars"),
    "escape": (b"\x1b[31mred", "text_control_chars"),
    "long": (b"word " * 60_000, "text_too_long"),
}


def test_texts_of_every_kind(tmp_path):
    members = [member for key, (text, _) in TEXTS.items() for member in pair(key, text=text)]
    assert records(write_tar(tmp_path / "s.tar", members)) == {key: reason for key, (_, reason) in TEXTS.items()}


def test_samples_that_lack_something(tmp_path):
    members = [
        *pair("upper", suffix="JPG"),
        ("no_text.jpg", JPEG),
        ("no_picture.txt", b"alone"),
        *pair("list_json"),
        ("list_json.json", b"[1]"),
        *pair("bad_json"),
        ("bad_json.json", b'{"url": '),
        ("caption_in_json.jpg", JPEG),
        ("caption_in_json.json", b'{"caption": "a cloud"}'),
        *pair("with.dot/a"),
        (".DS_Store", b"mac"),
        ("._good.jpg", b"mac"),
    ]
    assert records(write_tar(tmp_path / "s.tar", members)) == {
        "upper": "ok",
        "no_text": "sample_incomplete",
        "no_picture": "sample_incomplete",
        "list_json": "schema_wrong_type",
        "bad_json": "json_invalid",
        "caption_in_json": "ok",
        "with.dot/a": "ok",
    }

"""Every kind of picture that people have, as small real files: opened right, or refused with a reason."""

import base64
import http.server
import io
import os
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, PngImagePlugin

from xgenmm.processor import images
from xgenmm.processor.images import ImageError, PictureFile, load_image, open_image, to_rgb
from xgenmm.types import Picture
from xgenmm.web import WebConfig

Size = tuple[int, int]
WHITE, BLACK, RED, GREEN, BLUE = (255,) * 3, (0,) * 3, (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(data: bytes, **options: int) -> Image.Image:
    image = open_image(Picture(source=data, name="p"), **options)
    assert image.mode == "RGB"
    return image


def refused(source: bytes | Path, **options: int) -> ImageError:
    with pytest.raises(ImageError) as caught:
        open_image(Picture(source=source, name="shard/7.jpg"), **options)
    assert str(caught.value).startswith("shard/7.jpg: ")
    assert caught.value.name == "shard/7.jpg"
    return caught.value


def corners() -> Image.Image:
    """6 x 4 pixels; a different colour in every corner."""
    image = Image.new("RGB", (6, 4), WHITE)
    for place, colour in {(0, 0): RED, (5, 0): GREEN, (0, 3): BLUE}.items():
        image.putpixel(place, colour)
    return image


# How a camera stores a scene under each orientation (EXIF 2.3, tag 0x0112: which sides of the scene row 0 and
# column 0 of the file are), written with array steps rather than with Pillow's own operations.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda scene: scene,  # row 0 is the top, column 0 the left side
    2: lambda scene: scene[:, ::-1],  # top, right
    3: lambda scene: scene[::-1, ::-1],  # bottom, right
    4: lambda scene: scene[::-1],  # bottom, left
    5: lambda scene: scene.transpose(1, 0, 2),  # left, top
    6: lambda scene: scene.transpose(1, 0, 2)[::-1],  # right, top
    7: lambda scene: scene.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: lambda scene: scene.transpose(1, 0, 2)[:, ::-1],  # left, bottom
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation: int, kind: str):
    scene = np.asarray(corners())
    if kind == "JPEG":
        scene = np.kron(scene, np.ones((16, 16, 1), dtype=np.uint8))  # whole blocks: JPEG keeps their colours
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](scene)))
    data = encoded(stored, kind, exif=exif, **options)
    image = opened(data)
    assert PictureFile(Picture(source=data, name="p")).size == image.size == (scene.shape[1], scene.shape[0])
    assert np.abs(np.asarray(image).astype(int) - scene).max() <= (3 if kind == "JPEG" else 0)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_an_orientation_behind_the_pixels_of_a_png_turns_the_size_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encoded(corners(), "PNG")
    end = plain.index(b"IEND") - 4
    late = plain[:end] + png_chunk(b"eXIf", exif.tobytes()[6:]) + plain[end:]
    image = opened(late)
    assert PictureFile(Picture(source=late, name="p")).size == image.size == (4, 6)
    for cut in (plain[:end], plain[: end + 5], plain[:50]):  # walking over the chunks ends with the file
        assert PictureFile(Picture(source=cut, name="p")).size == (6, 4)


def test_the_header_is_read_without_decoding():
    cut = encoded(Image.effect_noise((640, 480), 50), "JPEG")[:2000]
    file = PictureFile(Picture(source=cut, name="p"))
    assert (file.size, file.mode) == ((640, 480), "L")
    with pytest.raises(ImageError, match="truncated"):
        file.decode()


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_no_larger_than_needed(orientation: int):
    ramp = np.tile(np.linspace(0, 255, 1600, dtype=np.uint8), (1200, 1))  # brighter to the right
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(STORED[orientation](np.stack([ramp] * 3, axis=2))), "JPEG", exif=exif)
    file = PictureFile(Picture(source=data, name="p"))
    assert file.size == (1600, 1200)
    small = file.decode(at_least=(384, 384))
    assert small.size == (800, 600)  # a quarter would be 400 x 300
    whole = opened(data).resize((384, 384), Image.Resampling.BICUBIC)
    difference = np.abs(np.asarray(small.resize((384, 384), Image.Resampling.BICUBIC)).astype(int) - np.asarray(whole))
    assert difference.mean() < 1
    assert PictureFile(Picture(source=data, name="p")).decode(at_least=(1000, 384)).size == (1600, 1200)


SETTINGS = {
    "plain": {},
    "no subsampling": {"subsampling": 0},
    "half": {"subsampling": 1},
    "progressive": {"progressive": True},
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_pixels_are_pillows(orientation: int, mode: str, settings: dict):
    scene = np.asarray(Image.effect_noise((12, 9), 60).convert(mode).resize((477, 359), Image.Resampling.BICUBIC))
    stored = STORED[orientation](scene[..., None] if mode == "L" else scene)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored).squeeze())
    data = encoded(picture, "JPEG", quality=90, exif=exif, **(settings if mode == "RGB" else {}))
    for needed, size in (((300, 300), (477, 359)), ((200, 100), (239, 180)), ((50, 40), (60, 45))):
        one = PictureFile(Picture(source=data, name="p")).decode_pixels(needed)
        other = PictureFile(Picture(source=data, name="p")).decode(needed)
        assert other.size == size
        assert np.array_equal(one, np.asarray(other))


def test_what_is_no_plain_whole_jpeg_pillow_decodes(monkeypatch):
    noise = Image.effect_noise((64, 48), 60).convert("RGB")
    whole = encoded(noise, "JPEG")
    calls = []
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: calls.append(1) or np.zeros((48, 64, 3), np.uint8))
    for data in (encoded(noise, "PNG"), encoded(Image.new("CMYK", (64, 48), (0, 255, 255, 0)), "JPEG")):
        found = PictureFile(Picture(source=data, name="p")).decode_pixels((64, 48))
        assert np.array_equal(found, np.asarray(opened(data)))
    assert not calls
    monkeypatch.undo()
    odd = whole[:-2] + bytes(10) + whole[-2:]  # a camera's filling: strict decoding refuses it, Pillow does not mind
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(odd)
    found = PictureFile(Picture(source=odd, name="p")).decode_pixels((64, 48))
    assert np.array_equal(found, np.asarray(opened(whole)))
    with pytest.raises(ImageError, match="truncated"):
        PictureFile(Picture(source=whole[:-100], name="p")).decode_pixels((1, 1))


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage and goes on
def test_damaged_exif_is_ignored():
    data = encoded(corners(), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(np.asarray(opened(data)), np.asarray(corners()))


def test_transparent_parts_are_white():
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 0))  # invisible red
    rgba.putpixel((1, 0), (0, 0, 255, 128))  # half blue on white: 255 - 128, 255 - 128, 255
    for kind in ("PNG", "WEBP", "TIFF"):
        image = opened(encoded(rgba, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
        assert [image.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (127, 127, 255)], kind


def test_grey_with_transparency():
    la = Image.new("LA", (2, 1), (0, 0))
    la.putpixel((1, 0), (0, 255))
    image = opened(encoded(la, "PNG"))
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [WHITE, BLACK]


def test_palette_with_one_transparent_colour():
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *GREEN, *BLUE])
    for x in range(3):
        palette.putpixel((x, 0), x)
    for kind in ("PNG", "GIF"):
        image = opened(encoded(palette, kind, transparency=1))
        assert [image.getpixel((x, 0)) for x in range(3)] == [RED, WHITE, BLUE], kind
    image = opened(encoded(palette, "PNG", transparency=bytes([0, 255, 255])))  # an alpha for each colour
    assert [image.getpixel((x, 0)) for x in range(3)] == [WHITE, GREEN, BLUE]
    image = opened(encoded(palette, "PNG"))
    assert [image.getpixel((x, 0)) for x in range(3)] == [RED, GREEN, BLUE]


def test_a_colour_declared_transparent_without_alpha():
    image = opened(encoded(corners(), "PNG", transparency=RED))
    assert [image.getpixel(place) for place in ((0, 0), (5, 0))] == [WHITE, GREEN]


def test_cmyk_jpeg_is_not_a_negative():
    # cyan ink on red paper light: C=0 M=1 Y=1 K=0 is red. Pillow writes Adobe's inverted form, and must read it back
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encoded(red, "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(np.asarray(opened(data)).astype(int) - RED).max() <= 3
    assert opened(encoded(red, "TIFF")).getpixel((0, 0)) == RED


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str):
    grey = Image.fromarray(np.array([[0, 256, 32768, 65535]], dtype=np.uint16))
    image = opened(encoded(grey, kind))
    # 256 / 257 = 1.0, 32768 / 257 = 127.5 (rounded to even), 65535 / 257 = 255
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


def test_sixteen_bit_colour():
    # by hand: one row of two pixels, RGB, 16 bits, big-endian
    rows = b"\0" + struct.pack(">6H", 65535, 32768, 0, 0, 256, 65535)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    image = opened(png(header, rows))
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 128, 0), (0, 1, 255)]


def test_greys_of_no_agreed_white_span_their_own_range():
    floats = Image.fromarray(np.array([[-1.0, 0.0, 3.0]], dtype=np.float32))
    image = opened(encoded(floats, "TIFF"))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 64, 255]  # (0 + 1) / 4 x 255 = 63.75
    large = Image.fromarray(np.array([[0, 500_000, 1_000_000]], dtype=np.int32))
    assert [opened(encoded(large, "TIFF")).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    flat = Image.fromarray(np.full((1, 1), 7.5, dtype=np.float32))
    assert opened(encoded(flat, "TIFF")).getpixel((0, 0)) == BLACK
    holes = Image.fromarray(np.array([[np.nan, 1.0]], dtype=np.float32))
    assert [opened(encoded(holes, "TIFF")).getpixel((x, 0))[0] for x in range(2)] == [0, 255]


def test_one_bit_and_plain_grey():
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    for kind in ("PNG", "BMP", "TIFF"):
        image = opened(encoded(bits, kind))
        assert [image.getpixel((x, 0)) for x in (0, 1)] == [BLACK, WHITE], kind
    assert opened(encoded(Image.new("L", (1, 1), 77), "PNG")).getpixel((0, 0)) == (77,) * 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_several(kind: str):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    assert opened(data).getpixel((0, 0)) == RED


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"])
def test_formats(kind: str):
    image = opened(encoded(Image.new("RGB", (16, 16), (200, 40, 40)), kind))
    assert np.abs(np.asarray(image).astype(int) - (200, 40, 40)).max() <= 8
    assert image.size == (16, 16)


def test_progressive_jpeg_trailing_junk_and_a_wrong_suffix(tmp_path: Path):
    picture = Image.new("RGB", (16, 16), RED)
    assert opened(encoded(picture, "JPEG", progressive=True)).size == (16, 16)
    assert opened(encoded(picture, "JPEG") + b"junk" * 100).size == (16, 16)
    path = tmp_path / "WEBP.JPG"
    path.write_bytes(encoded(picture, "WEBP", lossless=True))
    assert open_image(Picture(source=path, name="p")).getpixel((0, 0)) == RED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF"])
def test_truncated(kind: str):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    error = refused(data[: len(data) * 2 // 3])
    assert error.reason in ("truncated", "corrupt")
    if kind in ("JPEG", "PNG"):
        assert error.reason == "truncated"


def test_a_flipped_byte_in_a_png():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = bytearray(encoded(noise, "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert refused(bytes(data)).reason == "corrupt"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not_decodable"),
        (b"\xff\xd8\xff\xe0" + bytes(range(256)), "not_decodable"),
        (b"\x89PNG\r\n\x1a\n", "not_decodable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not_decodable"),
        (b"\0" * 1000, "not_decodable"),
    ],
)
def test_no_pictures(data: bytes, reason: str):
    assert refused(data).reason == reason


def test_no_files(tmp_path: Path):
    assert refused(tmp_path / "nothing.jpg").reason == "missing"
    assert refused(tmp_path).reason == "missing"  # a folder called like a picture
    os.mkfifo(tmp_path / "pipe.jpg")
    assert refused(tmp_path / "pipe.jpg").reason == "missing"


def png(header: bytes, rows: bytes, *chunks: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *chunks, pixels, chunk(b"IEND", b"")])


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    # 480 megapixels of one bit each: 60 kB as a file, 1.4 GB as RGB
    header = struct.pack(">IIBBBBB", 24_000, 20_000, 1, 0, 0, 0, 0)
    bomb = png(header, bytes(3001) * 20_000)
    assert len(bomb) < 100_000
    tracemalloc.start()
    error = refused(bomb)
    assert error.reason == "too_large"
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_the_pixel_cap_is_settable():
    data = encoded(Image.new("RGB", (30, 20)), "PNG")
    assert opened(data, max_pixels=600).size == (30, 20)
    error = refused(data, max_pixels=599)
    assert error.reason == "too_large"
    assert "30 x 20 pixels" in str(error)
    assert "599" in str(error)


def test_a_bomb_in_a_text_chunk():
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 2_000_000, zip=True)
    assert refused(encoded(corners(), "PNG", pnginfo=info)).reason in ("corrupt", "not_decodable")


@pytest.mark.filterwarnings("ignore")
def test_decoders_may_fail_in_any_way():
    # whatever a flipped byte breaks inside a decoder, one sort of error comes out
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    kinds = {"GIF": noise.convert("P"), "ICO": noise, "JPEG2000": noise, "PNG": noise, "TIFF": noise, "WEBP": noise}
    for kind, image in {**kinds, "JPEG": noise, "BMP": noise, "PPM": noise, "AVIF": noise}.items():
        original = encoded(image, kind)
        for _ in range(40):
            data = bytearray(original)
            for place in generator.integers(0, min(len(data), 400), 3):
                data[place] = generator.integers(0, 256)
            try:
                opened(bytes(data), max_pixels=1_000_000)
            except ImageError:
                continue


def test_pil_images_arrays_and_bytes():
    rgba = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert load_image(rgba).getpixel((0, 0)) == WHITE
    assert load_image(np.full((2, 3, 3), 9, dtype=np.uint8)).size == (3, 2)
    assert load_image(encoded(corners(), "PNG")).size == (6, 4)
    with pytest.raises(TypeError, match="not a int"):
        load_image(7)


def test_paths_and_base64_text(tmp_path: Path):
    data = encoded(corners(), "PNG")
    path = tmp_path / "corners.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    for source in (path, str(path), text, f"data:image/png;base64,{text}"):
        assert load_image(source).size == (6, 4)
    with pytest.raises(ImageError, match=r"nothing\.png: there is no such file"):
        load_image("nothing.png")
    with pytest.raises(ImageError, match="there is no such file"):
        load_image("?" * 100_000)


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/there.png" else 404)
            self.end_headers()
            self.wfile.write(encoded(corners(), "PNG"))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{host.server_port}"
        host.shutdown()


def test_addresses(server: str, monkeypatch):
    with pytest.raises(ImageError, match="not on the public internet"):
        load_image(f"{server}/there.png")
    monkeypatch.setattr(images, "WEB", WebConfig(allow_private=True))
    assert load_image(f"{server}/there.png").size == (6, 4)
    with pytest.raises(ImageError, match="404") as caught:
        load_image(f"{server}/missing.png")
    assert caught.value.reason == "missing"


def test_pictures_of_every_mode_become_rgb():
    for mode in ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"):
        assert to_rgb(Image.new(mode, (2, 2))).mode == "RGB", mode

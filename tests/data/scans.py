"""Small real files, each with one thing wrong (or merely unusual), and what `xgenmm data scan` says of them."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

from PIL import Image

from xgenmm.data.corpus import look_through
from xgenmm.data.scan import scan_corpus

HD = "😀 مرحبا \u202eabc\u202c 👩‍👩‍👧 <|im_start|>user <image>"
"""Unusual and good: joiners, right to left, words of chat templates."""


def picture(form="JPEG", mode="RGB", size=(40, 30), **options) -> bytes:
    content = io.BytesIO()
    image = Image.effect_noise(size, 60).convert(mode) if mode in ("L", "RGB", "CMYK") else Image.new(mode, size)
    image.save(content, form, **options)
    return content.getvalue()


JPEG = picture()
LARGE = picture(size=(400, 300))


def flat() -> bytes:
    """A white picture with tables made for it: its scan is nothing but zeros."""
    content = io.BytesIO()
    Image.new("RGB", (800, 600), "white").save(content, "JPEG", optimize=True)
    assert bytes(64) in content.getvalue()
    return content.getvalue()


def bomb() -> bytes:
    """A PNG of some kilobytes whose header says 24,000 x 20,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 24_000, 20_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9000))) + chunk(b"IEND", b"")
    )


def write_tar(path: Path, members: list[tuple[str, bytes | tarfile.TarInfo]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def pair(key: str, image: bytes = JPEG, text: bytes = b"a grey cloud", suffix: str = "jpg"):
    return [(f"{key}.{suffix}", image), (f"{key}.txt", text)]


def found(path: Path, schema: str = "auto") -> dict[tuple[str, str], list[str]]:
    """(kind, key) -> reasons, "ok" where there is none."""
    result: dict[tuple[str, str], list[str]] = {}
    for finding in scan_corpus(look_through(path), schema):
        assert (finding.status == "ok") == (not finding.reason)
        result.setdefault((finding.kind, finding.key), []).append(finding.reason or "ok")
    return result


def records(path: Path, schema: str = "auto") -> dict[str, str]:
    return {key: reasons[0] for (kind, key), reasons in found(path, schema).items() if kind == "record"}


def tiff(frames: int, size=(40, 30)) -> bytes:
    content = io.BytesIO()
    pages = [Image.new("RGB", size, (20 * n, 0, 0)) for n in range(frames)]
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    return content.getvalue()


def write_json(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def talk(*values, image=None, roles=("human", "gpt")):
    turns = [{"from": roles[n % len(roles)], "value": value} for n, value in enumerate(values)]
    return {"id": "x", **({} if image is None else {"image": image}), "conversations": turns}


def ocr_captions(texts=None):
    return [
        {"granularity": level, "include_datacomp_raw_cap": raw, "text": (texts or {}).get(level, "The text reads SHOP")}
        for level in range(6)
        for raw in (False, True)
    ]

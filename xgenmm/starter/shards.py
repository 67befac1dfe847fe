"""Writes data in the formats in which people have theirs: WebDataset tars, lists in JSON, JSON lines."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def write_tar(path: Path, rows: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """A WebDataset shard of (key, {extension: contents}). Equal rows give equal bytes: no times, no owners."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, members in rows:
            for extension, contents in members.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(contents)
                archive.addfile(entry, io.BytesIO(contents))


def caption_row(key: str, picture: bytes, captions: Sequence[tuple[str, str]]) -> tuple[str, dict[str, bytes]]:
    """A caption pair as img2dataset writes it; in the JSON all captions, each with the words that ask for it."""
    first = " ".join(captions[0])
    listed = [{"prompt": prompt, "caption": caption} for prompt, caption in captions]
    about = json.dumps({"caption": first, "captions": listed}, ensure_ascii=False)
    return key, {"png": picture, "txt": first.encode(), "json": about.encode()}


def page_row(key: str, parts: Sequence[str | Image.Image]) -> tuple[str, dict[str, bytes]]:
    """An interleaved page in MINT-1T's form: parallel lists of texts and image names, pictures as pages of one TIFF."""
    names = [None if isinstance(part, str) else f"image_{number}" for number, part in enumerate(parts)]
    texts = [part if isinstance(part, str) else None for part in parts]
    # copies: Pillow leaves a format's settings on an image that it saved, and chokes on a PNG's when it writes a TIFF
    pictures = [part.copy() for part in parts if not isinstance(part, str)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, format="TIFF", save_all=True, append_images=pictures[1:], compression="tiff_adobe_deflate")
    about = json.dumps({"texts": texts, "images": names}, ensure_ascii=False)
    return key, {"json": about.encode(), "tiff": buffer.getvalue()}


def write_json(path: Path, rows: Sequence[Any]) -> None:
    """One JSON list, a row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

"""`xgenmm data view`: a local page on which records are read as people and as the model read them.

Everything that data bring along is shown as text; there is no script on the pages, and their policy allows none.
Pictures are decoded and written anew before they are sent, and those of records that cannot be used never are.
"""

import io
import socket
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any
from urllib.parse import urlencode

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware

from xgenmm.config import ConfigError
from xgenmm.data.scan import MAX_PIXELS
from xgenmm.data.view.boxes import boxes_of
from xgenmm.data.view.catalogue import Catalogue, Entry, Query, head_of
from xgenmm.data.view.tokens import Seen, see
from xgenmm.pages.templates import page_template
from xgenmm.processor.images import ImageError, PictureFile
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import Picture

HOST = "127.0.0.1"
THUMBNAIL, LARGE = 320, 1280
"""Longest side of a picture on the pages, in pixels."""
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def make_app(catalogue: Catalogue, title: str, processors: Mapping[str, XGenMMProcessor]) -> FastAPI:
    """The page's server.

    Args:
        catalogue: What there is to look at.
        title: What the pages call it.
        processors: By source; without one, its pages show only what people read.
    """
    app = FastAPI(title="xgenmm data view", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # no name of a stranger's leads here

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Any]) -> Response:
        response = await answer(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    def page(template: str, **values: Any) -> HTMLResponse:
        common = {"title": title, "sources": catalogue.names, "link": link}
        return HTMLResponse(page_template("xgenmm.data.view", template).render(**common, **values))

    @app.get("/style.css")
    def style() -> Response:
        house = resources.files("xgenmm.pages").joinpath("style.css").read_text(encoding="utf-8")
        own = resources.files("xgenmm.data.view").joinpath("page/view.css").read_text(encoding="utf-8")
        return Response(house + own, media_type="text/css")

    @app.get("/")
    def browse(
        source: str = "", status: str = "", reason: str = "", words: str = "", start: str = "", tab: str = ""
    ) -> HTMLResponse:
        query = Query(source=source, status="quarantine" if tab == "quarantine" else status, reason=reason, words=words)
        found = catalogue.page(query, start)
        heads = {
            entry.id: _hex(head_of(entry.row, entry.reason)) for entry in found.entries if entry.reason and entry.row
        }
        return page("browse.html", query=query, found=found, tab=tab, start=start, heads=heads)

    @app.get("/sample")
    def sample(id: str, at: int = -1, variant: int = 0) -> HTMLResponse:
        entry = catalogue.find(id, at, variant)
        if entry is None:
            raise HTTPException(404, f"there is no record {id}")
        texts = [text for reading in entry.readings for text in reading.texts]
        return page(
            "sample.html",
            entry=entry,
            variant=variant,
            neighbours=catalogue.neighbours(entry),
            boxes=boxes_of(entry.row.fields, texts) if entry.row and not entry.reason else [],
            seen=_seen(entry, processors.get(entry.source)),
            has_model=entry.source in processors,
            fields=_shown_fields(entry),
            pictures_of=lambda reading: [_pictures(entry).index(picture) for picture in reading.pictures],
            head=_hex(head_of(entry.row, entry.reason)) if entry.reason and entry.row else [],
        )

    @app.get("/picture")
    def picture(id: str, number: int, at: int = -1, size: str = "small") -> Response:
        entry = catalogue.find(id, at)
        if entry is None:
            raise HTTPException(404, "there is no such record")
        if entry.reason:
            raise HTTPException(403, "a record that cannot be used shows no picture")
        pictures = _pictures(entry)
        if not 0 <= number < len(pictures):
            raise HTTPException(404, "there is no such picture")
        return _drawn(pictures[number], LARGE if size == "large" else THUMBNAIL)

    @app.exception_handler(HTTPException)
    async def told(_: Request, error: HTTPException) -> PlainTextResponse:
        return PlainTextResponse(str(error.detail), status_code=error.status_code)

    return app


def open_port(port: int) -> socket.socket:
    """A port of this machine that nobody else can reach; 0 is any that is free.

    Raises:
        ConfigError: There is no such port, or it is taken.
    """
    if not 0 <= port < 65_536:
        raise ConfigError(f"--port {port}: ports go up to 65535")
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigError(f"--port {port}: {error}") from error


def serve(app: FastAPI, port: socket.socket) -> None:
    """Serve until it is stopped."""
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[port])


def link(path: str, **values: Any) -> str:
    """An address of ours, with what is empty left out."""
    given = {name: value for name, value in values.items() if value not in ("", None)}
    return f"{path}?{urlencode(given)}" if given else path


def _pictures(entry: Entry) -> list[Picture]:
    """All pictures of a record, each once; the pages number them so."""
    return list(dict.fromkeys(picture for reading in entry.readings for picture in reading.pictures))


def _seen(entry: Entry, processor: XGenMMProcessor | None) -> list[tuple[str, Seen, list[int]]]:
    """What a model sees of each sample: a heading, the document, and which of the record's pictures it shows."""
    if processor is None or entry.reason:
        return []
    pictures = _pictures(entry)
    found = []
    for sample, reading in zip(entry.samples, entry.readings, strict=True):
        outlines = processor.outlines(sample, lambda picture: PictureFile(picture, MAX_PIXELS).size)
        names = ("chosen", "rejected") if reading.kind == "preference" else ("",) * len(outlines)
        for name, outline in zip(names, outlines, strict=True):
            seen = see(outline, processor)
            found.append((name, seen, [pictures.index(canvas.picture) for canvas in seen.canvases]))
    return found


def _drawn(picture: Picture, longest: int) -> Response:
    """A picture, decoded and written anew: what a browser gets is ours."""
    try:
        file = PictureFile(picture, MAX_PIXELS)
        image = file.decode((longest, longest))
    except ImageError as error:
        raise HTTPException(403, str(error)) from error
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=88)
    headers = {"Cache-Control": "private, max-age=3600"}
    return Response(content.getvalue(), media_type="image/jpeg", headers=headers)


def _shown_fields(entry: Entry) -> list[tuple[str, str]]:
    """The row as it lies in its file, as text."""
    if entry.row is None:
        return []
    return [(str(name), _told(value)) for name, value in entry.row.fields.items()]


def _told(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            text = value[:4000].decode("utf-8")
            if text.isprintable() or not any(ord(letter) < 9 for letter in text):
                return text + ("…" if len(value) > 4000 else "")
        except UnicodeDecodeError:
            pass
        return f"{len(value):,} bytes"
    text = str(value)
    return text if len(text) <= 4000 else f"{text[:4000]}…"


def _hex(content: bytes) -> list[tuple[str, str, str]]:
    """Offset, bytes and letters of each 16 bytes."""
    rows = []
    for first in range(0, len(content), 16):
        part = content[first : first + 16]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in part)
        rows.append((f"{first:04x}", part.hex(" "), letters))
    return rows

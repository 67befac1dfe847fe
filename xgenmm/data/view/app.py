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
from xgenmm.data.audit_report import COLOURS
from xgenmm.data.pictures import MAX_PIXELS
from xgenmm.data.plan import StepPlan
from xgenmm.data.prepare import Preparer
from xgenmm.data.quarantine import BadSample
from xgenmm.data.view.boxes import boxes_of
from xgenmm.data.view.catalogue import Catalogue, Entry, Query
from xgenmm.data.view.heads import head_of, hexdump
from xgenmm.data.view.packed import Packed, Plans
from xgenmm.data.view.tokens import Seen, see
from xgenmm.pages.templates import page_template
from xgenmm.processor.images import ImageError, PictureFile
from xgenmm.types import Picture

HOST = "127.0.0.1"
THUMBNAIL, LARGE = 320, 1280
"""Longest side of a picture on the pages, in pixels."""
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def make_app(catalogue: Catalogue, title: str, plans: Mapping[str, Plans] | None = None) -> FastAPI:
    """The page's server.

    Args:
        catalogue: What there is to look at.
        title: What the pages call it.
        plans: Of the stages, by name: their packed rows can be looked at.
    """
    app = FastAPI(title="xgenmm data view", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # no name of a stranger's leads here
    site = Site(catalogue, title, plans or {})
    for path, page in (
        *(("/", site.browse), ("/sample", site.sample), ("/rows", site.rows), ("/row", site.row)),
        *(("/picture", site.picture), ("/style.css", site.style)),
    ):
        app.add_api_route(path, page, response_model=None)

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Any]) -> Response:
        response = await answer(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.exception_handler(HTTPException)
    async def told(_: Request, error: HTTPException) -> PlainTextResponse:
        return PlainTextResponse(str(error.detail), status_code=error.status_code)

    return app


class Site:
    """The pages. Names of arguments are those of the addresses' queries."""

    def __init__(self, catalogue: Catalogue, title: str, plans: Mapping[str, Plans]) -> None:
        self._catalogue = catalogue
        self._plans = plans
        planned = dict.fromkeys(name for plan in plans.values() for name in plan.sources)
        self._common = {
            "title": title,
            "sources": catalogue.names,
            "stages": list(plans),
            "colours": {name: number % COLOURS for number, name in enumerate(planned)},
            "link": link,
        }

    def browse(
        self, source: str = "", status: str = "", reason: str = "", words: str = "", start: str = "", tab: str = ""
    ) -> HTMLResponse:
        """Some records."""
        query = Query(source=source, status="quarantine" if tab == "quarantine" else status, reason=reason, words=words)
        found = self._catalogue.page(query, start)
        heads = {
            entry.id: hexdump(head_of(entry.row, entry.reason)) for entry in found.entries if entry.reason and entry.row
        }
        return self._page("browse.html", query=query, found=found, tab=tab, start=start, heads=heads)

    def sample(self, id: str, at: int = -1, variant: int = 0, source: str = "") -> HTMLResponse:
        """One record."""
        entry = self._find(id, at, variant, source)
        texts = [text for reading in entry.readings for text in reading.texts]
        preparer = self._catalogue.shelf(entry.source).preparer
        return self._page(
            "sample.html",
            entry=entry,
            variant=variant,
            neighbours=self._catalogue.neighbours(entry),
            boxes=boxes_of(entry.row.fields, texts) if entry.row and entry.opened else [],
            seen=_seen(entry, preparer),
            has_model=preparer is not None,
            fields=_shown_fields(entry),
            pictures_of=lambda reading: [_pictures(entry).index(picture) for picture in reading.pictures],
            head=hexdump(head_of(entry.row, entry.reason)) if entry.reason and entry.row else [],
        )

    def rows(self, stage: str, step: int = 0) -> HTMLResponse:
        """The packed rows of a step."""
        plan, found = self._step(stage, step)
        packed = [plan.documents(found, number, seen=False) for number in range(len(found.rows))]
        return self._page("rows.html", stage=stage, step=found, rows=packed, capacity=_room(plan, packed))

    def row(self, stage: str, step: int, number: int) -> HTMLResponse:
        """One packed row, with its documents."""
        plan, found = self._step(stage, step)
        if not 0 <= number < len(found.rows):
            raise HTTPException(404, f"step {step} has {len(found.rows)} rows")
        packed = plan.documents(found, number, seen=True)
        room = _room(plan, [packed])
        return self._page("row.html", stage=stage, step=found, number=number, row=packed, capacity=room)

    def picture(self, id: str, number: int, at: int = -1, size: str = "small", source: str = "") -> Response:
        """A picture of a record that can be used."""
        entry = self._find(id, at, 0, source)
        if entry.reason:
            raise HTTPException(403, "a record that cannot be used shows no picture")
        pictures = _pictures(entry)
        if not 0 <= number < len(pictures):
            raise HTTPException(404, "there is no such picture")
        return _drawn(pictures[number], LARGE if size == "large" else THUMBNAIL)

    def style(self) -> Response:
        """The style of all pages."""
        sheets = (
            ("xgenmm.pages", "style.css"),
            ("xgenmm.data", "page/packed.css"),
            ("xgenmm.data.view", "page/view.css"),
        )
        text = [resources.files(package).joinpath(name).read_text(encoding="utf-8") for package, name in sheets]
        return Response("".join(text), media_type="text/css")

    def _page(self, template: str, **values: Any) -> HTMLResponse:
        return HTMLResponse(page_template("xgenmm.data.view", template).render(**self._common, **values))

    def _find(self, name: str, at: int, variant: int, source: str) -> Entry:
        entry = self._catalogue.find(name, at, variant, source)
        if entry is None:
            raise HTTPException(404, f"there is no record {name}")
        return entry

    def _step(self, stage: str, step: int) -> tuple[Plans, StepPlan]:
        if stage not in self._plans:
            raise HTTPException(404, f"there is no stage {stage}")
        found = self._plans[stage].step(step) if step >= 0 else None
        if found is None:
            raise HTTPException(404, f"the plan of {stage} has no step {step}")
        return self._plans[stage], found


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


def _room(plan: Plans, rows: list[list[Packed]]) -> int:
    """Positions that the drawing of a row has room for."""
    return max([plan.capacity, *(sum(document.tokens for document in row) for row in rows)])


def _pictures(entry: Entry) -> list[Picture]:
    """All pictures of a record, each once; the pages number them so."""
    return list(dict.fromkeys(picture for reading in entry.readings for picture in reading.pictures))


def _seen(entry: Entry, preparer: Preparer | None) -> list[tuple[str, Seen | None, list[int]]]:
    """What a model sees of each document: a heading, the document, and which of the record's pictures it shows."""
    if preparer is None or entry.opened is None:
        return []
    try:
        documents = [outline for _, outline in preparer.cut(entry.opened)]
    except BadSample as error:
        return [(f"{error.reason}: {error.detail}", None, [])]
    pictures = _pictures(entry)
    found: list[tuple[str, Seen | None, list[int]]] = []
    for number, outline in enumerate(documents, start=1):
        seen = see(outline, preparer.processor)
        heading = "" if len(documents) == 1 else f"piece {number} of {len(documents)}"
        found.append((heading, seen, [pictures.index(canvas.picture) for canvas in seen.canvases]))
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

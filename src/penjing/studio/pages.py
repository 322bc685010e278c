"""The page's routes: its files, the manifest and the worker that make it an app, a look inside, the training runs.

    app.include_router(router(runs=Path("runs")))

The files are a folder of plain HTML, CSS and ES modules (`page/`), read once. They come with a Content-Security-Policy
of `default-src 'self'`: no script, style, font or picture of any other origin, and none written into a page, so neither
a reply nor a bug can bring one in. The worker (`sw.js`) keeps the files, under a name that is a hash of them all: a new
version of the server is a new cache, and without a server the page still opens and says so.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from penjing.errors import PenjingError
from penjing.serving.api.errors import RESPONSES
from penjing.serving.backend import Backends, UnknownModelError
from penjing.studio import icons, runs
from penjing.studio.look import ALTERNATIVES, Inside, LookError, attention_in, tokens_in
from penjing.studio.markdown import render

POLICY = "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
_ICONS = {"icon-192.png": (192, False), "icon-512.png": (512, False), "icon-maskable.png": (512, True)}


class Said(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Asked(BaseModel):
    """A conversation to look into; its last message is the reply."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    messages: list[Said] = Field(min_length=1, max_length=2_000)


class Tokens(Asked):
    """What is asked of each token."""

    top: int = Field(ALTERNATIVES, ge=1, le=50)


class Attended(Asked):
    """Whose attention is asked for."""

    place: int = Field(ge=0)
    layer: int = Field(0, ge=0)


def router(folder: Path | None = None) -> APIRouter:
    """The page's routes.

    Args:
        folder: where training runs are; None for `runs` in the current folder.
    """
    place = Path("runs") if folder is None else folder
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    def chat(request: Request) -> Response:
        return _file(request, "index.html")

    @routes.get("/runs", include_in_schema=False)
    def run_page(request: Request) -> Response:
        return _file(request, "runs.html")

    @routes.get("/manifest.webmanifest", include_in_schema=False)
    def manifest(request: Request) -> Response:
        return _file(request, "manifest.webmanifest")

    @routes.get("/sw.js", include_in_schema=False)
    def worker(request: Request) -> Response:
        return _file(request, "sw.js")

    @routes.get("/favicon.ico", include_in_schema=False)
    def favicon(request: Request) -> Response:
        return _file(request, "icon-192.png")

    @routes.get("/studio/{name}", include_in_schema=False)
    def asset(request: Request, name: str) -> Response:
        return _file(request, name)

    @routes.post(
        "/api/look", tags=["studio"], responses=RESPONSES, summary="What the model expected at each token of a reply"
    )
    async def look_at(request: Request, asked: Tokens) -> JSONResponse:
        return await _look(request, asked, tokens_in, top=asked.top)

    @routes.post(
        "/api/look/attention",
        tags=["studio"],
        responses=RESPONSES,
        summary="Where a token of a reply looks, head by head",
    )
    async def look_where(request: Request, asked: Attended) -> JSONResponse:
        return await _look(request, asked, attention_in, place=asked.place, layer=asked.layer)

    @routes.get("/api/runs", tags=["studio"], responses=RESPONSES, summary="The training runs")
    def list_runs() -> JSONResponse:
        return JSONResponse({"folder": str(place), "runs": [asdict(run) for run in runs.runs(place)]})

    Name = Annotated[str, Query(max_length=1_000)]

    @routes.get(
        "/api/runs/curves", tags=["studio"], responses=RESPONSES, summary="What is new in a run's metrics since a mark"
    )
    def run_curves(run: Name, mark: Annotated[str, Query(max_length=100)] = "") -> JSONResponse:
        return _answer(lambda: asdict(runs.curves(place, run, mark)))

    @routes.get(
        "/api/runs/details",
        tags=["studio"],
        responses=RESPONSES,
        summary="A run's last samples, and its plots and reports",
    )
    def run_details(run: Name) -> JSONResponse:
        return _answer(lambda: {"samples": runs.samples(place, run), "files": runs.files(place, run)})

    @routes.get(
        "/api/runs/plot",
        tags=["studio"],
        responses=RESPONSES,
        summary="A plot of a run, as PNG",
        response_class=Response,
    )
    def run_plot(path: Name) -> Response:
        try:
            found = runs.file(place, path)
        except PenjingError as error:
            return _error(404, error)
        return Response(found.read_bytes(), media_type="image/png", headers={"X-Content-Type-Options": "nosniff"})

    @routes.get("/api/runs/report", tags=["studio"], responses=RESPONSES, summary="A report of a run, as HTML")
    def run_report(path: Name) -> JSONResponse:
        def page() -> dict[str, str]:
            text = runs.file(place, path).read_text(encoding="utf-8", errors="replace")
            return {"html": render(text, breaks=False)}

        return _answer(page)

    return routes


async def _look(request: Request, asked: Asked, work: Callable[..., Any], **arguments: Any) -> JSONResponse:
    try:
        backend = await cast(Backends, request.app.state.backends).get(asked.model)
        if not callable(getattr(backend, "run", None)):
            raise LookError(f"'{backend.name}' runs elsewhere: only a model of this server's can be looked into")
        messages = [{"role": message.role, "content": message.content} for message in asked.messages]
        return JSONResponse(await cast(Inside, backend).run(work, messages=messages, **arguments))
    except UnknownModelError as error:
        return _error(404, error)
    except PenjingError as error:
        return _error(400, error)


def _answer(work: Any) -> JSONResponse:
    try:
        return JSONResponse(work())
    except PenjingError as error:
        return _error(404, error)


def _error(status: int, error: PenjingError) -> JSONResponse:
    """An error in OpenAI's shape."""
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    body = {"error": {"message": str(error), "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status_code=status)


def _file(request: Request, name: str) -> Response:
    found = _files().get(name)
    if found is None:
        return _error(404, PenjingError(f"there is no file {name!r} in the page"))
    content, tag = found
    headers = {**_HEADERS, "ETag": tag, "Cache-Control": "no-cache"}  # asked for each time, sent when it has changed
    if tag in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPES[Path(name).suffix], headers=headers)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Every file of the page by name, with its tag."""
    found = {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}
    found |= {name: icons.png(size, maskable) for name, (size, maskable) in _ICONS.items()}
    found |= {"icon.svg": icons.svg().encode(), "tree.svg": icons.svg(ground=False).encode()}
    whole = hashlib.sha256(b"".join(name.encode() + content for name, content in sorted(found.items()))).hexdigest()
    shell = ["/", "/runs", "/manifest.webmanifest"]
    shell += [f"/studio/{name}" for name in found if not name.endswith((".html", ".webmanifest")) and name != "sw.js"]
    worker = found["sw.js"].decode()
    worker = worker.replace('"VERSION"', json.dumps(whole[:16])).replace('["SHELL"]', json.dumps(shell))
    found["sw.js"] = worker.encode()
    return {name: (content, f'"{hashlib.sha256(content).hexdigest()[:20]}"') for name, content in found.items()}

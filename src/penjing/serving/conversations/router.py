"""`/api/conversations`: the page's API, as a table of routes.

A reply comes as server-sent events: `message` (the user's record, then the reply's), `text`, `block`, `tool`, `notice`,
`blocked`, and last `done` with the record as it is stored, after an `error` where there was one. Leaving does not end a
reply: `GET .../follow` goes on with it from where it is.

Whose conversations these are, `request.state.user` says (the keys' part of the server sets it; "local" where there are
no keys). Another user's conversation is not found, as one that does not exist.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI

from penjing.serving.conversations import bodies, file_routes, routes
from penjing.serving.conversations.parts import FAULTS, Parts, Route

_EVENTS = ["message", "text", "block", "tool", "notice", "blocked", "error", "done"]
_EVENT = {
    "type": "object",
    "properties": {"event": {"enum": _EVENTS}, "data": {"type": "string", "description": "JSON."}},
    "required": ["event", "data"],
}
_STREAM: dict[str, Any] = {
    "responses": {200: {"content": {"text/event-stream": {"schema": _EVENT}}, "description": "Events."}}
}
_ONE = "/conversations/{id}"
_MESSAGE = _ONE + "/messages/{message}"


def _json(model: type, status: int = 200) -> dict[str, Any]:
    return {"status_code": status, "responses": {status: {"model": model}}}


def _file(kind: str) -> dict[str, Any]:
    return {"responses": {200: {"content": {kind: {"schema": {}}}, "description": "A file."}}}


_IMPORT = _json(bodies.ImportRecord, 201) | {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    }
}

ROUTES: tuple[tuple[str, str, Any, dict[str, Any]], ...] = (
    ("GET", "/conversations", routes.listed, _json(bodies.ListRecord)),
    ("POST", "/conversations", routes.create, _json(bodies.ConversationRecord, 201)),
    ("GET", "/conversations/export", file_routes.export_all, _file("application/json")),
    ("POST", "/conversations/import", file_routes.take_in, _IMPORT),
    ("GET", _ONE, routes.read, _json(bodies.ConversationRecord)),
    ("PATCH", _ONE, routes.change, _json(bodies.ConversationRecord)),
    ("DELETE", _ONE, routes.delete, _json(bodies.DeletedRecord)),
    ("POST", _ONE + "/fork", routes.fork, _json(bodies.ConversationRecord, 201)),
    ("GET", _ONE + "/budget", routes.budget, _json(bodies.BudgetRecord)),
    ("GET", _ONE + "/export", file_routes.export, _file("*/*")),
    ("POST", _ONE + "/messages", routes.say, _STREAM),
    ("POST", _MESSAGE + "/regenerate", routes.regenerate, _STREAM),
    ("GET", _MESSAGE + "/follow", routes.follow, _STREAM),
    ("POST", _MESSAGE + "/stop", routes.stop, _json(bodies.MessageRecord)),
    ("PATCH", _MESSAGE, routes.mark, _json(bodies.MessageRecord)),
    ("DELETE", _MESSAGE, routes.remove, _json(bodies.RemovedRecord)),
    ("GET", "/feedback/export", file_routes.feedback, _file("application/jsonl")),
    ("GET", "/presets", routes.presets, _json(bodies.PresetsBody)),
    ("PUT", "/presets", routes.put_presets, _json(bodies.PresetsBody)),
)
"""Method, path, what answers, how it is documented. Fixed paths are before those with an id in their place."""


def router() -> APIRouter:
    """The routes, for an application whose `state` has `store` and `backends`, and may have `policy` and `metrics`.

    `state.markdown` (`html.Markdown`) may say how replies become HTML; by default it is as on the page. The lifespan
    ends running replies in an orderly way when the server stops, and closes the store.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        parts: Parts | None = getattr(app.state, "conversations", None)
        if parts is not None:
            await parts.replies.close()
            app.state.conversations = None
        await asyncio.to_thread(app.state.store.close)

    made = APIRouter(prefix="/api", tags=["conversations"], route_class=Route, lifespan=lifespan, responses=FAULTS)
    for method, path, answer, about in ROUTES:
        made.add_api_route(path, answer, methods=[method], **about)
    return made

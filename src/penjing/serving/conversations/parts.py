"""What the routes of conversations share: the server's parts, who asks, and faults as answers."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from penjing.errors import GenerationError, PenjingError
from penjing.serving.backend import BackendError, Backends, UnknownModelError
from penjing.serving.conversations.bodies import FaultBody
from penjing.serving.conversations.errors import BusyError, ConversationError, StorageError, TooManyError
from penjing.serving.conversations.html import Html, Markdown
from penjing.serving.conversations.policy import Policy
from penjing.serving.conversations.records import Conversation, Message
from penjing.serving.conversations.replies import Replies
from penjing.serving.conversations.store import Store

_RETRY = 2
"""Seconds after which a client may try again what was refused for now."""

FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": FaultBody, "description": what}
    for status, what in {
        400: "Not possible as asked; the message says why.",
        404: "There is no such conversation or message of this user.",
        409: "Not now: a reply is still being written.",
        413: "Larger than its limit.",
        422: "Not of the form that is expected.",
        429: "Too many replies are being written at once; try again.",
        500: "The database failed.",
        502: "The model failed.",
        503: "The database is locked or away; try again.",
        507: "The disk is full.",
    }.items()
}
"""What the routes answer where something is wrong, for the documentation."""


class Parts:
    """What the routes work with, made when the first request comes: by then the server's parts are all there."""

    def __init__(self, app: FastAPI):
        state = app.state
        self.store: Store = state.store
        self.backends: Backends = state.backends
        self.policy: Policy | None = getattr(state, "policy", None)
        self.html = Html(getattr(state, "markdown", None) or Markdown.of_the_page())
        self.replies = Replies(self.store, self.html)

    def record(self, message: Message) -> dict[str, Any]:
        """A message as the page gets it; one that is being written here, as it is now."""
        run = self.replies.running(message.id)
        return self.html.record(message) if run is None else run.record()

    def whole(self, found: Conversation) -> dict[str, Any]:
        """A conversation as the page gets it."""
        value: dict[str, Any] = {name: getattr(found, name) for name in ("id", "title", "leaf", "created", "updated")}
        value["settings"] = found.settings.to_dict()
        return value | {"messages": [self.record(message) for message in found.messages]}

    async def settled(self, user: str, id: str) -> Conversation:
        """A conversation, in which no reply is running that nobody writes."""
        found = await asyncio.to_thread(self.store.get, user, id)
        with suppress(StorageError):  # a full disk keeps nobody from reading
            if await self.replies.settle(found):
                found = await asyncio.to_thread(self.store.get, user, id)
        return found


class Route(APIRoute):
    """A route whose faults are answered in the shape of OpenAI's errors."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """What answers requests."""
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as fault:
                first = fault.errors()[0]
                where = ".".join(str(part) for part in first["loc"] if part != "body")
                return _answer(422, f"{where or 'the request'}: {first['msg']}", where or None)
            except (ConversationError, GenerationError, BackendError, UnknownModelError) as fault:
                return _answer(_status(fault), str(fault))

        return told


def _status(fault: PenjingError) -> int:
    if isinstance(fault, ConversationError):
        return fault.status
    return 404 if isinstance(fault, UnknownModelError) else 502 if isinstance(fault, BackendError) else 400


def _answer(status: int, message: str, param: str | None = None) -> Response:
    kind = "not_found_error" if status == 404 else "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": None}
    headers = {"Retry-After": str(_RETRY)} if status in (BusyError.status, TooManyError.status) else None
    return JSONResponse({"error": error}, status, headers)


async def _parts(request: Request) -> Parts:
    found: Parts | None = getattr(request.app.state, "conversations", None)
    if found is None:
        found = request.app.state.conversations = Parts(request.app)
    return found


async def _user(request: Request) -> str:
    user: str = getattr(request.state, "user", "local")
    return user


Here = Annotated[Parts, Depends(_parts)]
"""The parts, for a route's argument."""
User = Annotated[str, Depends(_user)]
"""Who asks."""

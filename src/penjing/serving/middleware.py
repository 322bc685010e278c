"""The gate that every request passes: who asks, may they, is it bounded; and what every answer carries.

    Origin, Host  ->  key  ->  rate and number  ->  body: size, time, shape  ->  the application, in bounded time
         403           401          429                  413, 408, 400                     504

An answer carries its request's id and the headers that keep browsers from doing harm; every request is counted and
logged. Written against ASGI itself, not as one of Starlette's `BaseHTTPMiddleware`s: those put a queue and a task
between the application and the client, which a stream pays for with every token.

Why a server without keys looks at `Host`: any web page that its user visits may send requests to 127.0.0.1, and by
rebinding its own name to that address read the answers. Such a request names the page's host, not this machine.
"""

import asyncio
import json
import logging
import secrets
import time
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penjing.serving.json_text import fault_in
from penjing.serving.keys import Key, KeyFile, is_loopback
from penjing.serving.limits import Limiter, Limits
from penjing.serving.logs import RequestLog, event
from penjing.serving.metrics import Metrics

COOKIE = "penjing_key"
"""What the page's key is called, once it has logged in."""
_GUARDED = ("/v1", "/api", "/tokenize", "/detokenize", "/metrics", "/docs", "/redoc", "/openapi.json")
_SESSION = "/api/session"
_SLOWEST = 1 << 16  # bytes a second of a body for which more time is granted
_LONG_BODY = 1 << 18  # from here on it is looked at in a thread
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
)


@dataclass(frozen=True)
class Gate:
    """What the guard knows.

    Raises nothing: what is in it was checked where it was made.
    """

    limits: Limits
    metrics: Metrics
    log: RequestLog
    keys: KeyFile | None = None
    """Whoever has one of these may ask; None: everybody who can reach the server."""
    origins: frozenset[str] = frozenset()
    """Web pages of other hosts that may ask, as `https://example.org`; "*" for all of them."""
    hosts: frozenset[str] = frozenset()
    """Names of this server besides localhost, for one without keys that is reached through a proxy."""
    secure: bool = False
    """Whether it is reached by TLS."""


class Guard:
    """ASGI middleware.

    Args:
        app: the application.
        gate: what it is guarded by.
    """

    def __init__(self, app: ASGIApp, gate: Gate):
        self.app = app
        self.gate = gate
        self.limiter = Limiter(gate.limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(self.gate, scope, send)
        self.gate.metrics.began()
        try:
            await self._let_in(exchange, receive)
        except _Refused as refused:
            if refused.reason:
                self.gate.metrics.refused(refused.reason)
            await exchange.refuse(refused)
        except _Gone:
            pass
        except Exception as error:
            # its text may hold what a user wrote; its trace does not
            event("fault", level=logging.ERROR, error=error, id=exchange.id)
            await exchange.refuse(_Refused(500, "server_error", "the server failed at this request, and logged it"))
        finally:
            exchange.close()

    async def _let_in(self, exchange: "_Exchange", receive: Receive) -> None:
        scope, headers = exchange.scope, exchange.headers
        self._check_origin(exchange)
        if exchange.origin and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await exchange.preflight()
            return
        key = self._identify(exchange)
        work = _makes_work(scope)
        if work:
            grants = (key.rate, key.concurrent) if key else (None, None)
            refusal = self.limiter.enter(exchange.user, rate=grants[0], concurrent=grants[1])
            if refusal is not None:
                raise _Refused(
                    429, "rate_limit_error", refusal.message, code="rate_limit_exceeded", reason=refusal.reason,
                    retry_after=refusal.retry_after,
                )  # fmt: skip
        try:
            await self._answer(exchange, receive)
        finally:
            if work:
                self.limiter.leave(exchange.user)

    async def _answer(self, exchange: "_Exchange", receive: Receive) -> None:
        seconds = self.gate.limits.request_seconds
        if _has_body(exchange.headers):
            receive = _Given(await self._body(exchange, receive), receive)
        try:
            async with asyncio.timeout(seconds or None) as limit:
                await self.app(exchange.scope, receive, exchange.send)
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"the answer took longer than {seconds:g} seconds"
            raise _Refused(504, "timeout", message, reason="time") from None

    def _check_origin(self, exchange: "_Exchange") -> None:
        gate, headers = self.gate, exchange.headers
        host = headers.get("host", "")
        server = exchange.scope.get("server")
        if gate.keys is None and server and is_loopback(server[0]):
            name = urlsplit(f"//{host}").hostname or ""
            if not is_loopback(name) and name not in gate.hosts:
                message = f"this server is not called {name[:80]!r}; whoever serves may allow it with --allow-host"
                raise _Refused(403, "permission_error", message, reason="host")
        origin = headers.get("origin")
        if origin is None or urlsplit(origin).netloc == host:
            return
        if not gate.origins & {origin, "*"}:
            message = (
                f"pages of {origin[:80]!r} may not ask this server; whoever serves may allow them with --allow-origin"
            )
            raise _Refused(403, "permission_error", message, reason="origin")
        exchange.origin = origin

    def _identify(self, exchange: "_Exchange") -> Key | None:
        scope, state = exchange.scope, exchange.scope.setdefault("state", {})
        key = None
        if self.gate.keys is not None:
            sent = _key_in(exchange.headers)
            key = self.gate.keys.check(sent) if sent else None
            if key is None and _is_guarded(scope):
                message = (
                    "this API key is not valid" if sent else "this server needs an API key: Authorization: Bearer KEY"
                )
                raise _Refused(401, "invalid_request_error", message, code="invalid_api_key", reason="key")
            exchange.user = key.user if key else ""
        else:
            exchange.user = "local"
        state |= {"user": exchange.user, "key": key, "id": exchange.id}
        return key

    async def _body(self, exchange: "_Exchange", receive: Receive) -> bytes:
        limits, path = self.gate.limits, exchange.scope["path"]
        most = limits.body_of(path)
        declared = int(length) if (length := exchange.headers.get("content-length", "")).isdecimal() else 0
        too_long = _Refused(
            413, "invalid_request_error", f"the body is longer than {most} bytes", code="body_too_large", reason="body"
        )
        if declared > most:
            raise too_long
        pieces, size = [], 0
        try:
            async with asyncio.timeout(limits.body_seconds + declared / _SLOWEST):
                more = True
                while more:
                    piece = await receive()
                    if piece["type"] == "http.disconnect":
                        raise _Gone
                    pieces.append(piece.get("body", b""))
                    size += len(pieces[-1])
                    if size > most:
                        raise too_long
                    more = piece.get("more_body", False)
        except TimeoutError:
            raise _Refused(408, "timeout", "the request's body did not come in time", reason="slow") from None
        body = b"".join(pieces)
        self.gate.log.prompt(exchange.id, body)
        if "json" in exchange.headers.get("content-type", "json") and path.startswith(_GUARDED):
            look = asyncio.to_thread(fault_in, body, limits.depth) if size > _LONG_BODY else None
            fault = await look if look is not None else fault_in(body, limits.depth)
            if fault is not None:
                message = f"the body cannot be read as JSON: {fault}"
                raise _Refused(400, "invalid_request_error", message, code="invalid_json", reason="shape")
        return body


class _Gone(Exception):
    """The client left before it had asked."""


class _Refused(Exception):
    """A request that is not answered as asked."""

    def __init__(
        self, status: int, type: str, message: str, *, code: str | None = None, reason: str = "", retry_after: int = 0
    ):
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.body = json.dumps({"error": {"message": message, "type": type, "param": None, "code": code}}).encode()


class _Given:
    """`receive` of a request whose body was read already."""

    def __init__(self, body: bytes, rest: Receive):
        self._body: bytes | None = body
        self._rest = rest

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._rest()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Exchange:
    """A request and its answer."""

    def __init__(self, gate: Gate, scope: Scope, send: Send):
        self.gate = gate
        self.scope = scope
        self.headers = Headers(scope=scope)
        self.id = _id_of(self.headers)
        self.user = ""
        self.origin = ""
        """The other host's page that may ask, if it is one that asks."""
        self._send = send
        self._began = time.perf_counter()
        self._status = 0
        self._first: float | None = None
        self._bytes = 0
        self._streams = False
        self._whole = False

    async def send(self, message: Message) -> None:
        """Passes the application's answer on, with what every answer carries."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._more_headers(message)]}
        else:
            body = message.get("body", b"")
            if body and self._first is None:
                self._first = time.perf_counter() - self._began
            self._bytes += len(body)
            self._whole = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, refused: _Refused) -> None:
        """Answers with an error; in the middle of a stream as an event, its last."""
        if self._whole:
            return
        if self._status:
            if self._streams:
                await self.send({"type": "http.response.body", "body": b"data: " + refused.body + b"\n\n"})
            return  # a body cut short: the server closes the connection, so that it is not taken for whole
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(refused.body)).encode())]
        if refused.retry_after:
            headers.append((b"retry-after", str(refused.retry_after).encode()))
        if refused.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if refused.status == 408:
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": refused.body})

    async def preflight(self) -> None:
        """Tells a browser that a page of another host may ask."""
        headers = [
            (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", b"authorization, content-type, x-request-id"),
            (b"access-control-max-age", b"600"),
        ]
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})

    def close(self) -> None:
        """Counts and logs it."""
        seconds = time.perf_counter() - self._began
        method, route = self.scope["method"], getattr(self.scope.get("route"), "path", "other")
        status = self._status or 499  # the client left before there was an answer
        self.gate.metrics.ended(method, route, status, seconds)
        client = self.scope.get("client") or ("",)
        self.gate.log.request(
            id=self.id,
            user=self.user,
            client=client[0],
            method=method[:16],
            path=self.scope["path"][:200],
            status=status,
            seconds=round(seconds, 4),
            first=None if self._first is None else round(self._first, 4),
            bytes=self._bytes,
            whole=self._whole,
        )

    def _more_headers(self, start: Message) -> list[tuple[bytes, bytes]]:
        there = {name.lower(): value for name, value in start.get("headers", ())}
        self._streams = there.get(b"content-type", b"").startswith(b"text/event-stream")
        more = [(b"x-request-id", self.id.encode())]
        more += [header for header in _HEADERS if header[0] not in there]
        if b"cache-control" not in there and self.scope["path"].startswith(_GUARDED):
            more.append((b"cache-control", b"no-store"))
        if self._streams:
            more.append((b"x-accel-buffering", b"no"))  # nginx then passes each piece on at once
        if self.gate.secure:
            more.append((b"strict-transport-security", b"max-age=31536000"))
        if self.origin:
            more += [(b"access-control-allow-origin", self.origin.encode("latin-1")), (b"vary", b"Origin")]
        return more


def _id_of(headers: Headers) -> str:
    """The client's own id of its request, if it is one that can stand in a log; else a new one."""
    sent = headers.get("x-request-id", "")
    plain = sent.replace("-", "").replace("_", "").replace(".", "")
    return sent if len(sent) <= 64 and plain.isascii() and plain.isalnum() else secrets.token_hex(12)


def _key_in(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _is_guarded(scope: Scope) -> bool:
    """Whether a request needs a key: all but reading the page's own files, `/health`, and logging in."""
    path: str = scope["path"]
    if path == _SESSION:
        return False
    guarded = any(path == place or path.startswith(f"{place}/") for place in _GUARDED)
    return guarded or scope["method"] not in ("GET", "HEAD")


def _makes_work(scope: Scope) -> bool:
    path: str = scope["path"]
    if scope["method"] != "POST":
        return False
    return path.startswith(("/v1/", "/tokenize", "/detokenize")) or path.endswith(("/messages", "/regenerate"))


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers

"""The HTTP server: uvicorn, with an end to connections that hold it up.

uvicorn waits without end for the head of a first request and takes a head of any length: a client that opens a thousand
connections and sends a letter a minute down each keeps everybody else out ("slow loris"). Here each connection has a
time for its request's head and a size that it may have, and there are only so many. The time for a body is kept by
`middleware.Guard`; one that its request's answer did not wait for is cut off here.
"""

import asyncio
import gc
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penjing.errors import ConfigError
from penjing.serving.limits import Limits

_GRACE = 25  # seconds that running answers have when the server is told to end; Kubernetes kills after 30


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds; `limits` is set in a subclass by `protocol_of`."""

    limits = Limits()

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._patience: asyncio.TimerHandle | None = None
        self._head = 0
        self._in_request = False  # from the end of a head to the end of its body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; it is sent away if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._end(503, "the server has too many connections; try again later")
            return
        self._wait(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._be_patient()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some more of a request."""
        between = not self._in_request
        if between:
            self._head += len(data)
            if self._patience is None:
                self._wait(self.limits.header_seconds)
        super().data_received(data)
        if between and not self._in_request and self._head > self.limits.header and not self.transport.is_closing():
            self._end(431, f"the request's head is longer than {self.limits.header} bytes")

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._be_patient()
        self._head, self._in_request = 0, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there too."""
        self._head, self._in_request = 0, False
        self._be_patient()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is out; the rest of a body that it did not wait for may still come for a while."""
        super().on_response_complete()
        if self._in_request:
            self._wait(self.limits.body_seconds)

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._end(400, msg)

    def _wait(self, seconds: float) -> None:
        self._be_patient()
        self._patience = self.loop.call_later(seconds, self._too_slow)

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _too_slow(self) -> None:
        self._patience = None
        busy = self.cycle is not None and not self.cycle.response_complete
        if self.transport.is_closing() or busy:  # an answer still goes out: the next request's head may wait for it
            return
        if self._in_request or not self._head:
            self.transport.close()
        else:
            self._end(408, "the request's head did not come in time")

    def _end(self, status: int, message: str) -> None:
        phrase = {
            400: "Bad Request",
            408: "Request Timeout",
            431: "Request Header Fields Too Large",
            503: "Service Unavailable",
        }[status]
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()


def protocol_of(limits: Limits) -> type[HttpProtocol]:
    """The protocol with these limits."""
    return type("LimitedHttpProtocol", (HttpProtocol,), {"limits": limits})


def run(
    app: ASGIApp,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    certificate: Path | None = None,
    private_key: Path | None = None,
    proxies: str = "127.0.0.1",
    started: Callable[[str], None] | None = None,
) -> None:
    """Serves until the process is told to end; answers that run then have some seconds to come to theirs.

    Args:
        app: the application.
        host: the address to listen at.
        port: the port; 0 for any that is free.
        limits: what is granted.
        certificate: for TLS, with `private_key`: files in PEM format.
        private_key: see `certificate`.
        proxies: whose word about a client's address is believed: addresses and networks, joined by commas.
        started: called with the address once clients can come.

    Raises:
        ConfigError: the address cannot be had, or the certificate not be read.
    """
    limits = limits or Limits()
    if (certificate is None) != (private_key is None):
        raise ConfigError("TLS needs both files: --certificate and --private-key")
    _check_certificate(certificate, private_key)
    with listen(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        url = f"http{'s' if certificate else ''}://{shown}:{listener.getsockname()[1]}"
        config = _settings(app, limits, certificate, private_key, proxies)

        def begun() -> None:
            gc.freeze()  # this process serves for the rest of its life: what is there by now stays
            if started is not None:
                started(url)

        Server(config, begun).run(sockets=[listener])


def _settings(
    app: ASGIApp, limits: Limits, certificate: Path | None = None, private_key: Path | None = None, proxies: str = ""
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol_of(limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=proxies,
        timeout_keep_alive=max(1, round(limits.idle_seconds)),
        timeout_graceful_shutdown=_GRACE,
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: the address cannot be had.
    """
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, OverflowError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise ConfigError(f"cannot serve at {host} port {port}: {reason}; choose others with --host, --port") from None
    listener.setblocking(False)
    return listener


class Server(uvicorn.Server):
    """uvicorn's server, which says when it has started.

    Args:
        config: uvicorn's.
        started: called once clients can come.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]):
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started:
            self._started()
            tell_systemd("READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        tell_systemd("STOPPING=1")
        await super().shutdown(sockets)


@contextmanager
def running(app: ASGIApp, limits: Limits | None = None) -> Iterator[str]:
    """Serves in a thread of this process, on a free port of this machine, as long as the context lasts.

    Yields:
        The address.

    Raises:
        ConfigError: it does not start.
    """
    with listen("127.0.0.1", 0) as listener:
        begun = threading.Event()
        server = Server(_settings(app, limits or Limits()), begun.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
        thread.start()
        while not begun.wait(0.05):
            if not thread.is_alive():
                raise ConfigError("the server did not start; its log says why")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_GRACE)


def tell_systemd(state: str) -> None:
    """Tells the service manager, if it started this process and asked to be told (`Type=notify`; sd_notify(3))."""
    place = os.environ.get("NOTIFY_SOCKET")
    if not place or place[0] not in "@/":
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), "\0" + place[1:] if place[0] == "@" else place)


def _check_certificate(certificate: Path | None, private_key: Path | None) -> None:
    if certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key)
    except ssl.SSLError as fault:
        raise ConfigError(f"{certificate} and {private_key} are no certificate with its key: {fault.reason}") from None
    except OSError as fault:
        raise ConfigError(f"{fault.filename or certificate} cannot be read: {fault.strerror}") from None

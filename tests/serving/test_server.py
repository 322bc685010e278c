"""What only real connections show: clients that are slow, too many, endless or no HTTP; each over loopback."""

import json
import socket
import threading
from contextlib import suppress

import pytest
from fastapi import FastAPI, Request

from penjing.errors import ConfigError
from penjing.serving import server
from penjing.serving.limits import Limits
from penjing.serving.logs import RequestLog
from penjing.serving.metrics import Metrics
from penjing.serving.middleware import Gate, Guard
from penjing.serving.server import running, tell_systemd

LIMITS = Limits(header_seconds=0.3, body_seconds=0.3, idle_seconds=1, header=8192, body=1 << 20, connections=8)
"""Short times: what a test waits for is one of these, never a sleep of its own."""


def application() -> Guard:
    app = FastAPI()

    @app.post("/v1/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @app.get("/health")
    async def health() -> str:
        return "ok"

    return Guard(app, Gate(LIMITS, Metrics(), RequestLog()))


@pytest.fixture(scope="module")
def address() -> tuple[str, int]:
    with running(application(), LIMITS) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


def connect(address) -> socket.socket:
    return socket.create_connection(address, timeout=10)


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """All that comes until the server closes: the status of the first answer, and the rest."""
    data = b""
    while True:
        try:
            piece = connection.recv(1 << 16)
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    status = int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/1.1 ") else 0
    return status, data


def ask(address, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
    with connect(address) as connection:
        connection.sendall(head.replace(b"\n", b"\r\n") + b"\r\n" + body)
        return answer(connection)


def alive(address) -> bool:
    status, _ = ask(address, b"GET /health HTTP/1.1\nHost: localhost\nConnection: close\n")
    return status == 200


def test_a_head_that_comes_by_the_letter_is_cut_off(address):
    """Slow loris: one byte now and then keeps the connection busy, not the time that it has."""
    with connect(address) as connection:
        connection.settimeout(0.05)
        received, sent = b"", 0
        while not received and sent < 200:
            connection.send(b"GET /health HTTP/1.1\r\nX-Slow: aaaaaaaaaaaaaaa"[sent % 40 : sent % 40 + 1])
            sent += 1
            try:
                received = connection.recv(1 << 16)
            except TimeoutError:
                continue
        assert received.startswith(b"HTTP/1.1 408 ")
        assert sent < 20
    assert alive(address)


def test_a_connection_that_says_nothing_is_closed(address):
    with connect(address) as connection:
        assert answer(connection) == (0, b"")


def test_a_body_that_does_not_come_is_cut_off(address):
    status, data = ask(address, b"POST /v1/echo HTTP/1.1\nHost: localhost\nContent-Length: 100\n", b"abc")
    assert status == 408
    assert json.loads(data.split(b"\r\n\r\n", 1)[1])["error"]["type"] == "timeout"


def test_a_long_body_is_refused_and_read_to_its_end(address):
    """10 MB: the client sends all of it and then reads 413, not a connection that was reset under it."""
    size = 10_000_000
    head = f"POST /v1/echo HTTP/1.1\nHost: localhost\nConnection: close\nContent-Length: {size}\n".encode()
    with connect(address) as connection:
        connection.sendall(head.replace(b"\n", b"\r\n") + b"\r\n")
        sender = threading.Thread(target=lambda: _send(connection, b"x" * size))
        sender.start()
        status, data = answer(connection)
        sender.join()
    assert status == 413
    assert b"body_too_large" in data
    assert alive(address)


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # the answer was whole already, and the server may close
        connection.sendall(data)


@pytest.mark.parametrize("where", ["one line", "many lines", "the address"])
def test_a_head_that_is_too_long_is_refused_before_its_end(address, where):
    long = b"a" * 7000
    lines = {
        "one line": b"GET / HTTP/1.1\nHost: localhost\nX: " + long * 2,
        "many lines": b"GET / HTTP/1.1\nHost: localhost\n" + b"".join(b"X: %s\n" % long for _ in range(2)),
        "the address": b"GET /" + long * 2,
    }[where].replace(b"\n", b"\r\n")
    with connect(address) as connection:
        _send(connection, lines)
        status, _ = answer(connection)
    assert status == 431
    assert alive(address)


def test_what_is_no_http_is_answered_400_in_our_shape(address):
    status, data = ask(address, b"\x16\x03\x01 hello\n")
    assert status == 400
    assert "error" in json.loads(data.split(b"\r\n\r\n", 1)[1])


def test_more_connections_than_allowed_are_sent_away_and_places_are_free_again(address):
    held = [connect(address) for _ in range(LIMITS.connections)]
    try:
        statuses = []
        for _ in range(3):
            with connect(address) as connection:
                statuses.append(answer(connection)[0])
        assert statuses == [503] * 3
    finally:
        for connection in held:
            connection.close()
    assert any(alive(address) for _ in range(50))  # as soon as the server saw that they left


def test_a_connection_serves_one_request_after_another(address):
    """The bounds are each request's own: bodies do not add up to a head."""
    with connect(address) as connection:
        request = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6000\r\n\r\n" + b"x" * 6000
        for _ in range(10):
            connection.sendall(request)
            data = b""
            while not data.endswith(b"6000"):
                data += connection.recv(1 << 16)
            assert data.startswith(b"HTTP/1.1 200 ")


def test_an_address_that_is_taken_is_an_error_with_advice():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: .*--port"):
            server.listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="--host"):
        server.listen("no such host.invalid", 1)


def test_tls_needs_a_certificate_and_its_key(tmp_path):
    nothing = FastAPI()
    with pytest.raises(ConfigError, match="both"):
        server.run(nothing, certificate=tmp_path / "c.pem")
    with pytest.raises(ConfigError, match=r"c\.pem cannot be read|cannot be read"):
        server.run(nothing, certificate=tmp_path / "c.pem", private_key=tmp_path / "k.pem")
    (tmp_path / "c.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="no certificate"):
        server.run(nothing, certificate=tmp_path / "c.pem", private_key=tmp_path / "c.pem")


def test_the_service_manager_is_told(tmp_path, monkeypatch):
    """sd_notify(3): a datagram to the socket that NOTIFY_SOCKET names; without one, nothing."""
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place))
        manager.settimeout(5)
        tell_systemd("READY=1")
        monkeypatch.setenv("NOTIFY_SOCKET", str(place))
        tell_systemd("STOPPING=1")
        assert manager.recv(100) == b"STOPPING=1"
    tell_systemd("READY=1")  # a manager that has gone does no harm

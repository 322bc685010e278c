"""What goes wrong around a server, and what it makes of it: the right status, an error of OpenAI's shape, and it lives.

A whole server on loopback with a tiny random model and conversations in a file. After each fault the same question gets
the same answer as before it.
"""

import json
import os
import signal
import sqlite3
import threading
from contextlib import contextmanager

import httpx2
import pytest
from sqlalchemy import event

from penjing.inference.engine import runner
from penjing.inference.remote import Endpoint
from penjing.serving import server
from penjing.serving.app import create_app
from penjing.serving.limits import Limits
from penjing.serving.settings import ServeSettings
from tests.serving.api.conftest import settings_for, tiny_folder

QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "the"}], "max_tokens": 8, "temperature": 0}
LIMITS = Limits(header_seconds=2, body_seconds=1, samples=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def app(place):
    folder = tiny_folder(place / "tiny")
    return create_app(settings_for(folder, conversations=str(place / "conversations.db"), limits=LIMITS))


@pytest.fixture(scope="module")
def http(app):
    with server.running(app, LIMITS) as url, httpx2.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture(autouse=True)
def _lives(http):
    """The answer before and after a test is the same, and the server says that it is well."""
    before = answer(http)
    yield
    assert answer(http) == before
    assert http.get("/health").status_code == 200


def answer(http) -> str:
    found = http.post("/v1/chat/completions", json=QUESTION)
    assert found.status_code == 200, found.text
    return found.json()["choices"][0]["message"]["content"]


def error(found: httpx2.Response) -> dict:
    body = found.json()["error"]
    assert set(body) >= {"message", "type", "param", "code"}
    assert "Traceback" not in found.text
    return body


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b'{"model": "tiny", "messages": ' + b"[" * 100_000, 400, "nested"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "\xff\xfe"}]}', 400, "UTF-8"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "surrogate"),
        (json.dumps(QUESTION | {"n": 10**9}).encode(), 400, "n"),
        (json.dumps(QUESTION | {"n": 5}).encode(), 400, "n"),
        (json.dumps(QUESTION)[:-1].encode() + b', "temperature": NaN}', 400, "NaN"),
        (json.dumps(QUESTION)[:-1].encode() + b', "n": ' + b"9" * 5000 + b"}", 400, ""),
        (json.dumps(QUESTION | {"max_tokens": -1}).encode(), 400, "max_tokens"),
        (b"", 400, ""),
        (b"null", 400, ""),
        (b"{" * 3, 400, ""),
        (b'"' + b"x" * (1 << 20), 400, ""),
        (b"x" * 10_000_000, 413, "longer"),
    ],
)
def test_a_body_that_is_too_much_or_none_is_refused_by_name(http, body, status, word):
    found = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert found.status_code == status
    assert word in error(found)["message"] or word == error(found)["param"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_fails_its_requests_and_is_replaced(http, monkeypatch, stream):
    """The model's pass raises once, as when memory is full: these requests fail, later ones do not."""
    failed = threading.Event()
    real = runner.PagedRunner.run

    def once(self, *arguments, **options):
        if not failed.is_set():
            failed.set()
            raise RuntimeError("no memory left for this pass")
        return real(self, *arguments, **options)

    monkeypatch.setattr(runner.PagedRunner, "run", once)
    found = http.post("/v1/chat/completions", json=QUESTION | {"stream": stream})
    assert failed.is_set()
    if found.status_code == 200:
        last = [line for line in found.text.splitlines() if line.startswith("data: {")][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["message"]
    else:
        assert found.status_code in (500, 503)
        error(found)


@pytest.mark.slow
def test_a_models_process_that_is_killed_fails_its_answers_and_is_replaced(place, http):
    """kill -9 in the middle of a stream: its last event is an error, and then the answer is what it is elsewhere."""
    app = create_app(settings_for(place / "tiny", processes=True))
    chat = "/v1/chat/completions", QUESTION | {"max_tokens": 2000, "stream": True}
    responses = "/v1/responses", {"model": "tiny", "input": "the", "max_output_tokens": 2000, "stream": True}
    with server.running(app) as url, httpx2.Client(base_url=url, timeout=60) as client:
        for path, asked in (chat, responses):
            with client.stream("POST", path, json=asked | {"temperature": 0}) as found:
                lines = (line for line in found.iter_lines() if line.startswith("data: "))
                begun = [next(lines) for _ in range(8)]
                os.kill(app.state.backends._held["tiny"].content.host.pid, signal.SIGKILL)
                last = json.loads([*begun, *lines][-1].removeprefix("data: "))
            assert "ask again" in last.get("response", last)["error"]["message"]
        assert answer(client) == answer(http)
        assert client.get("/health").status_code == 200
        assert b'penjing_engine_memory_bytes{model="tiny"}' in client.get("/metrics").content


def test_a_tool_or_route_of_ours_that_fails_is_a_500_and_no_end(http, app, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(app.state.backends, "get", broken)
    found = http.post("/v1/chat/completions", json=QUESTION)
    assert found.status_code == 500
    assert error(found)["type"] == "server_error"


@contextmanager
def told(app, pragma: str, after: str):
    """SQLite is told something whenever a connection is used, as long as the block lasts; then something else."""
    engines = [app.state.store.database._engine, app.state.store.database._hasty]
    words = [pragma]

    def used(connection, *_):
        connection.execute(words[0])

    for engine in engines:
        event.listen(engine, "checkout", used)
    try:
        yield
    finally:
        words[0] = after  # told from now on: connections that are in the pool do not forget


def test_a_database_that_another_program_has_locked_is_busy_until_it_lets_go(http, app, place):
    """503 with Retry-After, and the API goes on; then the same request is done."""
    other = sqlite3.connect(place / "conversations.db", timeout=5, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with told(app, "PRAGMA busy_timeout = 50", "PRAGMA busy_timeout = 5000"):
            found = http.post("/api/conversations", json={"title": "locked"})
            assert found.status_code == 503
            assert int(found.headers["retry-after"]) >= 1
            assert "locked" in error(found)["message"]
            assert answer(http)
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert http.post("/api/conversations", json={"title": "free"}).is_success


def test_a_full_disk_is_said_and_what_was_there_can_be_read(http, app):
    """A limit on the file's pages is to SQLite what a full disk is (SQLITE_FULL): 507, and nothing is half there."""
    before = http.get("/api/conversations").json()
    with told(app, "PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1073741823"):
        found = http.post("/api/conversations", json={"title": "x", "system": "y" * 20_000})
        assert found.status_code == 507
        assert "disk is full" in error(found)["message"]
        assert http.get("/api/conversations").json() == before
    assert http.post("/api/conversations", json={"title": "room again"}).is_success


def test_a_backend_that_is_down_is_503_and_found_again_when_it_is_back():
    """Its address refuses connections: the page's server starts all the same, says so, and answers once it is there."""
    with server.listen("127.0.0.1", 0) as closed:
        port = closed.getsockname()[1]
    away = Endpoint(f"http://127.0.0.1:{port}/v1", "m", attempts=1)
    app = create_app(ServeSettings(remotes=(away,), page=False, safety=False))
    with server.running(app) as url, httpx2.Client(base_url=url, timeout=30) as client:
        asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        for stream in (False, True):
            found = client.post("/v1/chat/completions", json=asked | {"stream": stream})
            assert found.status_code == 503
            assert "cannot be reached" in error(found)["message"]
        assert client.get("/health").status_code == 200

"""The gate before the application, asked in process; what only a real connection shows is in test_server.py."""

import io
import json
import logging

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.testclient import TestClient

from penjing.serving import health, logs, metrics, session
from penjing.serving.json_text import fault_in
from penjing.serving.keys import KeyFile
from penjing.serving.limits import Limits
from penjing.serving.logs import RequestLog
from penjing.serving.metrics import Metrics
from penjing.serving.middleware import Gate, Guard

SECRET = "the patient's name is Wang"


def application(gate: Gate) -> FastAPI:
    """A small application behind the gate."""
    app = FastAPI()
    app.state.metrics, app.state.health = gate.metrics, health.Health()
    routes = APIRouter()

    @routes.post("/v1/echo")
    async def echo(request: Request):
        return {"user": request.state.user, "body": (await request.body()).decode(), "id": request.state.id}

    @routes.post("/v1/fails")
    async def fails(request: Request):
        raise RuntimeError(await request.body())

    @routes.post("/v1/slow")
    async def slow():
        async def pieces():
            yield b"data: 1\n\n"
            await never.wait()

        import asyncio

        never = asyncio.Event()
        return StreamingResponse(pieces(), media_type="text/event-stream")

    @routes.post("/v1/waits")
    async def waits():
        import asyncio

        await asyncio.Event().wait()

    @routes.get("/api/things/{id}")
    async def thing(id: str):
        return PlainTextResponse(id, headers={"content-security-policy": "default-src 'none'"})

    @routes.get("/")
    async def page():
        return PlainTextResponse("the page")

    for part in (routes, health.router(), metrics.router(), session.router(gate)):
        app.include_router(part)
    app.add_middleware(Guard, gate=gate)
    return app


def client(
    limits: Limits | None = None, keys: KeyFile | None = None, *, prompts: bool = False, **options
) -> TestClient:
    gate = Gate(limits or Limits(), Metrics(), RequestLog(prompts=prompts), keys, **options)
    return TestClient(application(gate), raise_server_exceptions=True)


def error(answer) -> dict:
    """The error of an answer, whose shape is OpenAI's."""
    body = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["message"]
    return body


@pytest.fixture
def keys(tmp_path) -> tuple[KeyFile, str]:
    file = KeyFile(tmp_path / "keys.json")
    _, text = file.create("laptop", "ada")
    return file, text


def test_without_keys_everybody_is_local():
    assert client().post("/v1/echo", json={}).json()["user"] == "local"


def test_with_keys_a_request_without_one_is_refused_and_the_page_is_not(keys):
    file, text = keys
    asker = client(keys=file)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {text}"}, {"authorization": text}):
        answer = asker.post("/v1/echo", json={}, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert error(answer)["code"] == "invalid_api_key"
    assert asker.post("/v1/echo", json={}, headers={"authorization": f"Bearer {text}"}).json()["user"] == "ada"
    for path in ("/", "/health"):
        assert asker.get(path).status_code != 401
    for path in ("/metrics", "/api/things/3", "/v1/nothing", "/openapi.json", "/docs"):
        assert asker.get(path).status_code == 401
    assert asker.post("/").status_code == 401
    assert asker.delete("/health").status_code == 401


def test_the_page_logs_in_by_a_cookie_that_scripts_cannot_read(keys):
    file, text = keys
    asker = client(keys=file, secure=True)
    asker.base_url = "https://testserver"
    assert asker.get("/api/session").json() == {"user": "", "keys": True}
    assert asker.post("/api/session", json={"key": "pj-wrong"}).status_code == 401
    answer = asker.post("/api/session", json={"key": text})
    assert answer.json()["user"] == "ada"
    cookie = answer.headers["set-cookie"].lower()
    assert {"httponly", "samesite=strict", "secure"} <= {part.strip() for part in cookie.split(";")}
    assert asker.get("/api/things/3").text == "3"
    assert asker.get("/api/session").json()["user"] == "ada"
    file.revoke("laptop")
    assert asker.get("/api/things/3").status_code == 401
    asker.delete("/api/session")
    assert "penjing_key" not in asker.cookies


def test_pages_of_other_hosts_may_not_ask_unless_allowed():
    asker = client()
    for origin in ("https://evil.example", "null", "http://testserver:81"):
        assert error(asker.post("/v1/echo", json={}, headers={"origin": origin}))["type"] == "permission_error"
    own = asker.post("/v1/echo", json={}, headers={"origin": "http://testserver"})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers
    friendly = client(origins=frozenset({"https://friend.example"}))
    headers = {"origin": "https://friend.example"}
    answer = friendly.post("/v1/echo", json={}, headers=headers)
    assert answer.headers["access-control-allow-origin"] == "https://friend.example"
    preflight = friendly.options("/v1/echo", headers=headers | {"access-control-request-method": "POST"})
    assert (preflight.status_code, "authorization" in preflight.headers["access-control-allow-headers"]) == (204, True)
    assert friendly.post("/v1/echo", json={}, headers={"origin": "https://evil.example"}).status_code == 403


def test_a_name_that_was_rebound_to_this_machine_is_refused():
    """A TestClient whose server is 127.0.0.1 is as a browser that was told evil.example is there."""
    for allowed, host, status in (
        ((), "127.0.0.1:8000", 200),
        ((), "localhost", 200),
        ((), "[::1]:8000", 200),
        ((), "evil.example", 403),
        ((), "127.0.0.1.evil.example", 403),
        ((), "", 403),
        (("box.example",), "box.example:443", 200),
    ):
        asker = client(hosts=frozenset(allowed))
        asker.base_url = "http://127.0.0.1:8000"
        assert asker.get("/", headers={"host": host}).status_code == status


def test_every_answer_carries_its_id_and_headers_against_harm():
    asker = client()
    for answer in (asker.get("/"), asker.get("/nothing"), asker.post("/v1/echo", content=b"[" * 1000)):
        assert len(answer.headers["x-request-id"]) >= 16
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert asker.get("/api/things/1").headers["content-security-policy"] == "default-src 'none'"
    assert asker.get("/api/things/1").headers["cache-control"] == "no-store"
    given = asker.post("/v1/echo", json={}, headers={"x-request-id": "mine-1.2_3"})
    assert given.headers["x-request-id"] == given.json()["id"] == "mine-1.2_3"
    for odd in ("x" * 65, "a b", 'a"b', ""):
        assert asker.get("/", headers={"x-request-id": odd}).headers["x-request-id"] != odd


def test_bodies_are_bounded_whether_they_say_their_length_or_not():
    asker = client(Limits(body=1000))
    assert asker.post("/v1/echo", content=b"x" * 1000, headers={"content-type": "text/plain"}).status_code == 200
    told = asker.post("/v1/echo", content=b"x" * 1001, headers={"content-type": "text/plain"})
    assert (told.status_code, error(told)["code"]) == (413, "body_too_large")
    chunked = asker.post("/v1/echo", content=(b"x" * 100 for _ in range(11)), headers={"content-type": "text/plain"})
    assert chunked.status_code == 413


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "UTF-8"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": [1, -Infinity]}', "Infinity"),
        (b"[" * 101 + b"]" * 101, "nested"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nested"),
        (b'{"a": "' + b"x" * (1 << 19) + b'", "b": ' + b"[" * 101 + b"]" * 101 + b"}", "nested"),
    ],
)
def test_json_that_ends_other_readers_in_odd_ways_is_refused(body, word):
    answer = client().post("/v1/echo", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert word in error(answer)["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "\\ud83d\\ude00 NaN and Infinity", "b": [1, 2]}',
        json.dumps({"a": "[[[" * 1000 + '"\\'}).encode(),
        b"[" * 100 + b"]" * 100,
        b"[" + b"[]," * 10_000 + b"[]]",
        "盆景".encode(),
        b"",
    ],
)
def test_json_that_only_looks_odd_passes(body):
    assert fault_in(body, 100) is None


def test_too_many_requests_are_told_when_to_come_again():
    asker = client(Limits(rate=60, burst=2))
    assert [asker.post("/v1/echo", json={}).status_code for _ in range(3)] == [200, 200, 429]
    refused = asker.post("/v1/echo", json={})
    assert int(refused.headers["retry-after"]) >= 1
    assert error(refused)["code"] == "rate_limit_exceeded"
    assert asker.get("/api/things/1").status_code == 200  # reading makes no model work
    assert 'penjing_refused_total{reason="rate"} 2.0' in asker.get("/metrics").text


def test_a_request_leaves_its_place_however_it_ends():
    asker = client(Limits(concurrent=1, queue=1, request_seconds=0.05))
    for _ in range(3):
        assert asker.post("/v1/fails", content=b"x").status_code == 500
        assert asker.post("/v1/echo", content=b"[" * 200).status_code == 400
        assert asker.post("/v1/waits", json={}).status_code == 504
        assert asker.post("/v1/echo", json={}).status_code == 200


def test_an_answer_that_takes_too_long_ends_with_an_error_of_its_kind():
    asker = client(Limits(request_seconds=0.05))
    assert error(asker.post("/v1/waits", json={}))["type"] == "timeout"
    streamed = asker.post("/v1/slow", json={})
    assert streamed.status_code == 200
    *_, last = streamed.text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "timeout"


def test_health_is_503_until_it_can_answer_and_when_a_check_finds_something():
    asker = client()
    state = asker.app.state.health
    assert asker.get("/health").status_code == 503
    state.begin()
    assert asker.get("/health").json() == {"status": "ok"}
    state.checks.append(lambda: "the engine's thread has ended")
    assert asker.get("/health").json()["reason"] == "the engine's thread has ended"
    state.checks[:] = [lambda: 1 / 0]
    assert asker.get("/health").status_code == 503
    state.end()
    assert asker.get("/health").json()["reason"] == "ending"


def test_metrics_count_by_route_and_hold_no_more_series_for_more_addresses():
    asker = client()
    asker.app.state.metrics.engines(lambda: {"tiny": {"waiting": 3}})
    asker.app.state.metrics.tokens("tiny", prompt=5, completion=7)
    asker.app.state.metrics.first_token("tiny", 0.03)
    asker.get("/api/things/0")
    asker.get("/nothing-0")
    before = len(asker.get("/metrics").text.splitlines())
    for number in range(1, 20):
        asker.get(f"/api/things/{number}")
        asker.get(f"/nothing-{number}")
        asker.request(f"ODD{number}", "/")
    text = asker.get("/metrics").text
    assert 'penjing_requests_total{method="GET",route="/api/things/{id}",status="200"} 20.0' in text
    assert 'penjing_engine_waiting{model="tiny"} 3.0' in text
    assert 'penjing_tokens_total{kind="completion",model="tiny"} 7.0' in text
    assert 'penjing_first_token_seconds_count{model="tiny"} 1.0' in text
    assert len(text.splitlines()) <= before + 60  # two more routes came, some 20 lines each


@pytest.fixture
def log():
    stream = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("penjing.serving", "uvicorn")]
    kept = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield stream
    for logger, (handlers, propagate, level) in zip(loggers, kept, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_logs_hold_no_word_of_what_was_said_unless_asked(log):
    for prompts in (False, True):
        logs.setup(prompts=prompts, stream=log)
        asker = client(prompts=prompts)
        asker.post("/v1/echo", json={"prompt": SECRET})
        asker.get(f"/api/things/1?query={SECRET}")
        assert asker.post("/v1/fails", content=SECRET.encode()).status_code == 500
        lines = [json.loads(line) for line in log.getvalue().splitlines()]
        assert (SECRET in log.getvalue()) is prompts
        requests = [line for line in lines if line["event"] == "request"]
        assert [line["status"] for line in requests] == [200, 200, 500]
        assert all(line["seconds"] >= 0 and line["user"] == "local" and line["time"].endswith("Z") for line in requests)
        (fault,) = [line for line in lines if line["event"] == "fault"]
        assert fault["error"].startswith("RuntimeError")
        assert any("fails" in place for place in fault["trace"])
        log.seek(0)
        log.truncate()

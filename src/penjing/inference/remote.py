"""A ChatModel behind another server: anything that speaks OpenAI's API (vLLM, SGLang, llama.cpp, this project's own).

    model = OpenAIChatModel(Endpoint.of("openai:http://127.0.0.1:8000/v1#Qwen/Qwen3-0.6B"))
    for piece in model.stream([{"role": "user", "content": "Hi"}]): ...

A request that the server refuses for now (429, 5xx), or that does not reach it, is sent again, each time after a longer
pause, or after the one that it asks for; but only until the first byte of an answer has come: what has been shown is
never asked for again.

Source of the pauses: "exponential backoff and jitter", Marc Brooker, AWS Architecture Blog, 2015 ("full jitter").
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import httpx2

from penjing.errors import ConfigError
from penjing.inference.chat_model import End, Piece, Text, Tool, ToolCall, Usage, check_messages
from penjing.inference.openai_wire import Events, RemoteError, Scored, Turn, error_of, request_of
from penjing.inference.sampling import DEFAULT, Sampling
from penjing.inference.tools import ROUNDS, run_call

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message

__all__ = ["Endpoint", "OpenAIChatModel", "RemoteError", "is_remote"]

PREFIX = "openai:"
_AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504})
_LONGEST_PAUSE = 30.0
_LONGEST_ERROR = 1 << 16


def is_remote(model: str) -> bool:
    """Whether a model's name is that of one behind another server."""
    return model.startswith(PREFIX)


@dataclass(frozen=True)
class Endpoint:
    """A server, and how it is asked."""

    url: str
    """As far as `/v1`."""
    model: str = ""
    """By the server's name; empty: the first that it lists."""
    key: str = ""
    """The API key."""
    timeout: float = 300.0
    """Seconds without a byte, the first included, after which the server counts as gone."""
    attempts: int = 4
    """How often a request is sent at most."""

    @classmethod
    def of(cls, text: str, key: str | None = None) -> "Endpoint":
        """What `openai:URL` or `openai:URL#MODEL` names.

        Args:
            text: an address without a path gets `/v1`.
            key: the API key; None: that of the environment's OPENAI_API_KEY, as OpenAI's own programs have it.

        Raises:
            ConfigError: it is none.
        """
        address, _, model = text.removeprefix(PREFIX).partition("#")
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"'{text}' names no server; write openai:http://HOST:PORT/v1 or openai:http://.../v1#MODEL"
            )
        if parts.username is not None or parts.password is not None:
            raise ConfigError("a password in an address ends in logs; give the API key by OPENAI_API_KEY")
        url = address.rstrip("/") if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1"
        return cls(url, model, os.environ.get("OPENAI_API_KEY", "") if key is None else key)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def times(self) -> httpx2.Timeout:
        """How long to wait for what."""
        return httpx2.Timeout(self.timeout, connect=10.0, pool=self.timeout)


def pause_before(attempt: int, headers: Mapping[str, str] | None = None) -> float:
    """Seconds before a request is sent again.

    Args:
        attempt: how often it was sent.
        headers: of the answer that refused it; what its Retry-After says is kept to, within reason.
    """
    try:
        told = float((headers or {}).get("retry-after", ""))
    except ValueError:
        told = -1.0
    if told >= 0:
        return min(told, _LONGEST_PAUSE)
    return random.uniform(0, min(_LONGEST_PAUSE, 0.5 * 2**attempt))


def again(status: int) -> bool:
    """Whether an answer of this status may be another if the request is sent again."""
    return status in _AGAIN


def unreachable(url: str, fault: Exception) -> RemoteError:
    """The error that a connection's failure is."""
    reason = str(fault) or type(fault).__name__
    if isinstance(fault, httpx2.TimeoutException):
        return RemoteError(f"{url} does not answer in time ({type(fault).__name__})")
    return RemoteError(f"{url} cannot be reached: {reason}; is the server running there?")


def model_names(body: Any, url: str) -> list[str]:
    """The names in an answer to GET /models.

    Raises:
        RemoteError: it lists none.
    """
    try:
        names = [entry["id"] for entry in body["data"]]
    except (TypeError, LookupError):
        names = []
    if not names or not all(isinstance(name, str) for name in names):
        raise RemoteError(f"{url}/models lists no models; name one: openai:{url}#MODEL")
    return names


class OpenAIChatModel:
    """Answers conversations by asking a server.

    Args:
        endpoint: the server.
        rounds: how many times in one answer the model may call tools before it must answer.
        name: what it is called here; None: as there.
        client: sends requests; None makes one.
        sleep: waits some seconds.

    Raises:
        RemoteError: no model is named, and the server does not tell which it has.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        rounds: int = ROUNDS,
        name: str | None = None,
        client: httpx2.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._client = client or httpx2.Client(timeout=endpoint.times)
        self._sleep = sleep
        self.rounds = rounds
        self.endpoint = endpoint
        if not endpoint.model:
            self.endpoint = replace(endpoint, model=self._first_model())
        self.name = name or self.endpoint.model

    def stream(
        self,
        messages: "Sequence[Message]",
        sampling: Sampling = DEFAULT,
        tools: Sequence[Tool] | None = None,
    ) -> Iterator[Piece]:
        """See `ChatModel.stream`. How a long conversation is treated is the server's affair.

        Raises:
            GenerationError: the conversation cannot be answered.
            RemoteError: the server cannot be reached, refuses, or (from the iterator) breaks off.
        """
        check_messages(messages)
        pieces = self._answer(list(messages), sampling, list(tools or ()))
        next(pieces)  # the request is out: whatever is wrong with it is raised here
        return cast("Iterator[Piece]", pieces)  # what comes from now on is never None

    def close(self) -> None:
        """Ends all connections."""
        self._client.close()

    def _answer(self, messages: "list[Message]", sampling: Sampling, tools: list[Tool]) -> Iterator[Piece | None]:
        run = {tool.name: tool.run for tool in tools if tool.run is not None}
        theirs = {tool.name for tool in tools if tool.run is None}
        given, usage, rounds_left = len(messages), Usage(), self.rounds
        while True:
            turn = Turn(f"call-{len(messages)}")
            with closing(self._send(request_of(self.endpoint.model, messages, sampling, tools))) as response:
                if len(messages) == given:
                    yield None
                yield from self._pieces(response, turn)
            messages.append(turn.message())
            usage += turn.usage
            reason = turn.why_over(rounds_left, theirs)
            if reason is not None:
                break
            for call in turn.calls:
                result = run_call(call, run)
                yield result
                messages.append({"role": "tool", "content": result.content, "tool_call_id": call.id})
            rounds_left -= 1
        yield End(reason, usage, tuple(messages[given:]))

    def _pieces(self, response: httpx2.Response, turn: Turn) -> Iterator[Text | ToolCall]:
        events = Events()
        try:
            for data in response.iter_bytes():
                for event in events.push(data):
                    yield from (piece for piece in turn.push(event) if not isinstance(piece, Scored))
                if turn.done:
                    break
        except httpx2.TransportError as fault:
            raise unreachable(self.endpoint.url, fault) from None
        yield from turn.finish()

    def _send(self, body: dict[str, Any]) -> httpx2.Response:
        url = f"{self.endpoint.url}/chat/completions"
        return self._insist(self._client.build_request("POST", url, json=body, headers=self.endpoint.headers))

    def _insist(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request until it is answered for good."""
        attempt = 0
        while True:
            attempt += 1
            try:
                response = self._client.send(request, stream=True)
            except httpx2.TransportError as fault:
                if attempt >= self.endpoint.attempts or isinstance(fault, httpx2.ReadTimeout):
                    raise unreachable(self.endpoint.url, fault) from None
                self._sleep(pause_before(attempt))
                continue
            if response.status_code == 200:
                return response
            status, headers, body = response.status_code, response.headers, _beginning(response)
            if attempt >= self.endpoint.attempts or not again(status):
                raise error_of(status, body, self.endpoint.url)
            self._sleep(pause_before(attempt, headers))

    def _first_model(self) -> str:
        request = self._client.build_request("GET", f"{self.endpoint.url}/models", headers=self.endpoint.headers)
        with closing(self._insist(request)) as response:
            try:
                response.read()
                body = response.json()
            except (httpx2.TransportError, ValueError) as fault:
                raise unreachable(self.endpoint.url, fault) from None
        return model_names(body, self.endpoint.url)[0]


def _beginning(response: httpx2.Response) -> bytes:
    """The first bytes of an error's body; the rest is not read."""
    found = b""
    with closing(response), suppress(httpx2.TransportError):
        for piece in response.iter_bytes():
            found += piece
            if len(found) > _LONGEST_ERROR:
                break
    return found

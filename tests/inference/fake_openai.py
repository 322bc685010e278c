"""A stand-in for a server that speaks OpenAI's API: answers by a script, remembers what it was asked.

It is a transport of httpx, so that nothing goes over a network; its stream breaks where a test says, in the middle of a
character and of a line too.
"""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx2


def chunk(content: str | None = None, *, finish: str | None = None, calls: Sequence[dict] = (), scores=None) -> dict:
    """An event of a stream, as OpenAI's reference has it."""
    delta: dict[str, Any] = {} if content is None else {"content": content}
    if calls:
        delta["tool_calls"] = list(calls)
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": scores}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def usage(prompt: int, completion: int, cached: int = 0) -> dict:
    details = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**chunk(), "choices": [], "usage": details | {"prompt_tokens_details": {"cached_tokens": cached}}}


def events(*chunks: dict | str) -> bytes:
    lines = (chunk if isinstance(chunk, str) else json.dumps(chunk, ensure_ascii=False) for chunk in chunks)
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def answering(*texts: str) -> bytes:
    """A whole stream that says these texts."""
    return events(chunk(""), *map(chunk, texts), chunk(finish="stop"), usage(9, len(texts), 4), "[DONE]")


class Pieces(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body in pieces of some bytes, which may break off."""

    def __init__(self, body: bytes, size: int, breaks: bool):
        self.body, self.size, self.breaks = body, size, breaks
        self.closed = False
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self.body), self.size):
            self.sent += 1
            yield self.body[start : start + self.size]
        if self.breaks:
            raise httpx2.ReadError("connection reset")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class FakeServer:
    """Answers each request with the next of its answers: bytes are a stream, an exception is raised, or (status, body,
    headers)."""

    def __init__(self, *answers: Any, piece: int = 7, breaks: bool = False):
        self.answers = list(answers)
        self.asked: list[dict] = []
        self.headers: list[httpx2.Headers] = []
        self.bodies: list[Pieces] = []
        self.piece, self.breaks = piece, breaks

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(json.loads(request.content or b"{}") | {"path": request.url.path})
        self.headers.append(request.headers)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body, headers = answer if isinstance(answer, tuple) else (200, answer, {})
        stream = Pieces(body if isinstance(body, bytes) else json.dumps(body).encode(), self.piece, self.breaks)
        self.bodies.append(stream)
        return httpx2.Response(status, headers=headers, stream=stream)

    def client(self) -> httpx2.Client:
        return httpx2.Client(transport=httpx2.MockTransport(self))

    def async_client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self))

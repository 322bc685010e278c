"""A backend behind another server's API: how a page and its conversations grow beyond one machine.

The requests and their answers are those of `inference.remote`, without waiting: one thread asks for all clients. What
another server does not tell is estimated, and said to be: how many tokens a prompt has (`count`), and, unless its list
of models says it as vLLM's does, how long its context is.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2

from penjing.errors import GenerationError, PenjingError
from penjing.inference.chat_model import End, Usage, check_messages
from penjing.inference.openai_wire import Events, RemoteError, RemoteTooLongError, Scored, Turn, error_of, request_of
from penjing.inference.remote import Endpoint, again, model_names, pause_before, unreachable
from penjing.inference.sampling import DEFAULT
from penjing.inference.tools import ROUNDS, Tool, run_call
from penjing.serving.backend import Alternative, Ask, BackendError, Chosen, Named, Piece, TooLongError

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message

DEFAULT_CONTEXT = 8192
"""What a context counts as that the server does not tell."""
_LOOK = 5
_BYTES_A_TOKEN = 3  # one Chinese character; English has more, so that the estimate is on the safe side
_TOKENS_A_MESSAGE = 4


class RemoteBackend:
    """A model of another server.

    Args:
        endpoint: the server, and the model's name there.
        name: what it is called here; None: as there.
        context: tokens that a conversation and its answer may have.
        client: sends requests; None makes one.
        rounds: how many times in one answer tools may be called.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        name: str | None = None,
        context: int = DEFAULT_CONTEXT,
        client: httpx2.AsyncClient | None = None,
        rounds: int = ROUNDS,
    ):
        self.endpoint = endpoint
        self.name = name or endpoint.model
        self.context = context
        self.defaults = DEFAULT
        self._client = client or new_client(endpoint)
        self._rounds = rounds

    def count(self, messages: "Sequence[Message]", tools: Sequence[Tool] = ()) -> int:
        """An estimate of the prompt's tokens, rather too many than too few."""
        check_messages(messages)
        texts = [str(message.get("content") or "") for message in messages] + [str(tool.to_dict()) for tool in tools]
        return sum(len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN + _TOKENS_A_MESSAGE for text in texts)

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece]:
        """See `Backend.answer`."""
        check_messages(ask.messages)
        messages = list(ask.messages)
        run = {tool.name: tool.run for tool in ask.tools if tool.run is not None}
        theirs = {tool.name for tool in ask.tools if tool.run is None}
        usage, rounds_left = Usage(), self._rounds
        while True:
            turn = Turn(f"call-{len(messages)}")
            async with aclosing(self._turn(ask, messages, turn)) as pieces:
                async for piece in pieces:
                    yield piece
            messages.append(turn.message())
            usage += turn.usage
            reason = turn.why_over(rounds_left, theirs)
            if reason is not None:
                break
            for call in turn.calls:
                result = await asyncio.to_thread(run_call, call, run)
                yield result
                messages.append({"role": "tool", "content": result.content, "tool_call_id": call.id})
            rounds_left -= 1
        yield End(reason, usage, tuple(messages[len(ask.messages) :]))

    async def embed(self, texts: "Sequence[str | Sequence[int]]") -> tuple[list[list[float]], int]:
        """See `Embedder.embed`; GenerationError also where the server's model gives no vectors."""
        inputs = [text if isinstance(text, str) else list(text) for text in texts]
        request = self._request("embeddings", {"model": self.endpoint.model, "input": inputs})
        with _errors_of_backends():
            response = await insist(self._client, request, self.endpoint)
            body = await _whole(response, self.endpoint)
            try:
                rows = sorted(body["data"], key=lambda row: row["index"])
                return [list(map(float, row["embedding"])) for row in rows], int(body["usage"]["prompt_tokens"])
            except (TypeError, LookupError, ValueError):
                raise RemoteError(f"{self.endpoint.url}/embeddings answered with no vectors") from None

    async def aclose(self) -> None:
        """Ends all connections."""
        await self._client.aclose()

    async def _turn(self, ask: Ask, messages: "list[Message]", turn: Turn) -> AsyncGenerator[Piece]:
        body = request_of(self.endpoint.model, messages, ask.sampling, ask.tools, **_more(ask))
        events = Events()
        with _errors_of_backends():
            response = await insist(self._client, self._request("chat/completions", body), self.endpoint)
            try:
                async for data in response.aiter_bytes():
                    for event in events.push(data):
                        for piece in turn.push(event):
                            yield _chosen(piece) if isinstance(piece, Scored) else piece
                    if turn.done:
                        break
            except httpx2.TransportError as fault:
                raise unreachable(self.endpoint.url, fault) from None
            finally:
                await response.aclose()
            for call in turn.finish():
                yield call

    def _request(self, path: str, body: dict[str, Any]) -> httpx2.Request:
        endpoint = self.endpoint
        return self._client.build_request("POST", f"{endpoint.url}/{path}", json=body, headers=endpoint.headers)


async def connect(endpoint: Endpoint, client: httpx2.AsyncClient | None = None) -> list[RemoteBackend]:
    """The models of a server, the one that the endpoint names alone if it names one.

    Raises:
        BackendError: it cannot be reached, refuses, or does not have that model.
    """
    client = client or new_client(endpoint)
    with _errors_of_backends():
        request = client.build_request("GET", f"{endpoint.url}/models", headers=endpoint.headers)
        body = await _whole(await insist(client, request, endpoint), endpoint)
        names = model_names(body, endpoint.url)
    wanted = [name for name in names if endpoint.model in ("", name)]
    if not wanted:
        raise BackendError(f"{endpoint.url} has no model '{endpoint.model}'; it has: {', '.join(names)}")
    told = {entry["id"]: _context_in(entry) for entry in body["data"]}
    return [RemoteBackend(replace(endpoint, model=name), context=told[name], client=client) for name in wanted]


def new_client(endpoint: Endpoint) -> httpx2.AsyncClient:
    """A client with as many connections as are needed."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx2.AsyncClient(timeout=endpoint.times, limits=limits)


async def insist(client: httpx2.AsyncClient, request: httpx2.Request, endpoint: Endpoint) -> httpx2.Response:
    """Sends a request until it is answered for good; the answer's body is still to be read, and it to be closed.

    Raises:
        RemoteError: there is no answer, or it is a refusal.
    """
    attempt = 0
    while True:
        attempt += 1
        headers: httpx2.Headers | None = None
        try:
            response = await client.send(request, stream=True)
        except httpx2.TransportError as fault:
            error: PenjingError = unreachable(endpoint.url, fault)
            final = isinstance(fault, httpx2.ReadTimeout)
        else:
            if response.status_code == 200:
                return response
            headers = response.headers
            error = error_of(response.status_code, await _beginning(response), endpoint.url)
            final = not again(response.status_code)
        if final or attempt >= endpoint.attempts:
            raise error
        await asyncio.sleep(pause_before(attempt, headers))


async def _whole(response: httpx2.Response, endpoint: Endpoint) -> Any:
    try:
        await response.aread()
        return response.json()
    except (httpx2.TransportError, ValueError) as fault:
        raise unreachable(endpoint.url, fault) from None
    finally:
        await response.aclose()


async def _beginning(response: httpx2.Response) -> bytes:
    found = b""
    try:
        async for piece in response.aiter_bytes():
            found += piece
            if len(found) > 1 << 16:
                break
    except httpx2.TransportError:
        return found  # what came of it says more than that it broke off
    finally:
        await response.aclose()
    return found


def _more(ask: Ask) -> dict[str, Any]:
    """The fields that `request_of` does not know of."""
    more: dict[str, Any] = {}
    if ask.sample and ask.sampling.seed is not None:
        more["seed"] = ask.sampling.seed + ask.sample
    if ask.look:
        more |= {"logprobs": True, "top_logprobs": max(_LOOK, ask.sampling.logprobs or 0)}
    if ask.tools and ask.tool_choice != "auto":
        named = ask.tool_choice
        function = {"type": "function", "function": {"name": named.name}} if isinstance(named, Named) else named
        more["tool_choice"] = function
    if ask.tools and not ask.parallel:
        more["parallel_tool_calls"] = False
    if ask.constraint is not None:
        shape = ask.constraint
        schema = {"name": shape.name, "schema": shape.schema, "strict": True}
        more["response_format"] = (
            {"type": "json_object"} if shape.schema is None else {"type": "json_schema", "json_schema": schema}
        )
    return more


def _chosen(token: Scored) -> Chosen:
    top = tuple(Alternative(None, other.text, other.bytes, other.logprob) for other in token.top)
    return Chosen(None, token.text, token.bytes, token.logprob, top)


def _context_in(entry: dict[str, Any]) -> int:
    """The context that a list of models tells: as vLLM and SGLang have it, this project's server, llama.cpp."""
    meta = entry.get("meta")
    for value in (entry.get("max_model_len"), entry.get("context"), meta.get("n_ctx") if isinstance(meta, dict) else 0):
        if isinstance(value, int) and value > 0:
            return value
    return DEFAULT_CONTEXT


@contextmanager
def _errors_of_backends() -> Iterator[None]:
    """Errors of another server as those of a backend: what is wrong with the question, and what with the server."""
    try:
        yield
    except RemoteTooLongError as error:
        raise TooLongError(str(error)) from None
    except RemoteError as error:
        if error.status in (400, 413, 422):
            raise GenerationError(str(error)) from None
        raise BackendError(str(error)) from None

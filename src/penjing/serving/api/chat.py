"""/v1/chat/completions: conversations answered, whole or as they come.

Both ways are made of the same pieces by the same rules, so what a stream's deltas come to is the whole answer.
"""

import json
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from penjing.errors import PenjingError
from penjing.inference.chat_model import End, Text, ToolCall, Usage
from penjing.inference.sampling import Sampling
from penjing.serving.api.chat_schema import ChatCompletion, ChatRequest, FunctionTool, NamedChoice
from penjing.serving.api.common import (
    check_choice,
    check_length,
    check_samples,
    check_tools,
    logprob_of,
    new_id,
    usage_of,
)
from penjing.serving.api.errors import answered_by, api_error, bad
from penjing.serving.api.guard import Filtered, Guarded, refused, said
from penjing.serving.api.streams import DONE, EventStream, begun, event_of, interleaved, until_error, while_connected
from penjing.serving.backend import Ask, Backend, Chosen, Named, Piece, TextBackend, ToolChoice
from penjing.tokenizer.chat import Message

Pieces = AsyncGenerator[tuple[int, Piece | Filtered]]


def router() -> APIRouter:
    """POST /v1/chat/completions."""
    routes = APIRouter()
    responses = answered_by(ChatCompletion)

    @routes.post("/v1/chat/completions", tags=["openai"], response_model=None, responses=responses)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answers a conversation."""
        head = {"id": new_id("chatcmpl-"), "created": int(time.time()), "model": body.model}
        pieces = await while_connected(request, ask(body, request))
        if not body.stream:
            return JSONResponse(head | await while_connected(request, whole(body, pieces)))
        return EventStream(until_error(_events(body, head, pieces)), pieces)

    return routes


async def ask(body: ChatRequest, request: Request) -> Pieces:
    """Asks the model, and waits until the answer begins."""
    limits = request.app.state.limits
    messages = [message.message(f"messages[{number}]") for number, message in enumerate(body.messages)]
    check_samples(body.n or 1, limits.samples)
    check_length([message["content"] for message in messages], limits.prompt, "messages")
    if body.stream_options is not None and not body.stream:
        raise bad("'stream_options' is for streams only", "stream_options")
    if body.top_logprobs is not None and not body.logprobs:
        raise bad("'top_logprobs' needs 'logprobs': true", "top_logprobs")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise bad("'max_tokens' and 'max_completion_tokens' are the same; give one", "max_tokens")
    backend = await request.app.state.backends.get(body.model)
    question = _question(body, messages, backend.defaults)
    return await begun(await answers(question, backend, Guarded(request, body.user), body.n or 1, "messages"))


async def answers(question: Ask, backend: Backend, guarded: Guarded, count: int, param: str) -> Pieces:
    """A question's answers, under the safety policy, each piece with its answer's number."""
    messages, blocked = await guarded.messages(question.messages)
    if blocked is not None:
        cost = backend.count(question.messages, question.tools)
        return interleaved([said(refused(blocked, cost)) for _ in range(count)])
    question = replace(question, messages=messages)
    prompt = _Counted(backend)
    sources = [
        guarded.answer(_blaming(backend.answer(replace(question, sample=number)), param), prompt.tokens)
        for number in range(count)
    ]
    return interleaved(sources)


@dataclass(frozen=True)
class _Counted:
    """Counts tokens where the model is here, words where it is not."""

    backend: Backend

    def tokens(self, text: str) -> int:
        """How many."""
        if isinstance(self.backend, TextBackend):
            return len(self.backend.encode(text, begin=False))
        return len(text.split())


async def _blaming(pieces: AsyncGenerator[Piece], param: str) -> AsyncGenerator[Piece]:
    """The pieces; errors of ours say which field is at fault."""
    try:
        async for piece in pieces:
            yield piece
    except PenjingError as error:
        raise api_error(error, param) from None
    finally:
        await pieces.aclose()


def _question(body: ChatRequest, messages: list[Message], defaults: Sampling) -> Ask:
    functions = [tool.function for tool in body.tools or ()]
    check_tools(functions, "tools")
    named = body.tool_choice.function.name if isinstance(body.tool_choice, NamedChoice) else None
    check_choice(
        body.tool_choice if isinstance(body.tool_choice, str) else named and "function",
        named,
        [function.name for function in functions],
    )
    choice: ToolChoice = Named(named) if named else "auto"
    if isinstance(body.tool_choice, str):
        choice = body.tool_choice
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return Ask(
        messages,
        body.over(defaults, most=body.max_completion_tokens or body.max_tokens, logprobs=logprobs),
        tools=[function.tool() for function in functions],
        constraint=None if body.response_format is None else body.response_format.shape(),
        tool_choice=choice,
        parallel=body.parallel_tool_calls is not False,
        strict=frozenset(function.name for function in functions if function.strict),
    )


@dataclass
class Answer:
    """One answer, as far as it has come."""

    text: str = ""
    tokens: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    reason: str = "stop"
    filtered: bool = False
    usage: Usage = field(default_factory=Usage)

    def add(self, piece: Piece | Filtered, names: frozenset[str]) -> None:
        """Takes a piece in; calls of tools that are not the client's are not its affair."""
        match piece:
            case Text(text):
                self.text += text
            case Chosen():
                self.tokens.append(logprob_of(piece))
            case ToolCall(name=name) if name in names:
                self.calls.append(call_of(piece))
            case Filtered(message):
                self.filtered = True
                self.text = self.text or message
            case End(reason, usage):
                self.usage = usage
                self.reason = "content_filter" if self.filtered else reason


def call_of(call: ToolCall) -> dict[str, Any]:
    """A call as OpenAI's API writes it."""
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    return {"id": new_id("call_"), "type": "function", "function": {"name": call.name, "arguments": arguments}}


def names_of(tools: list[FunctionTool] | None) -> frozenset[str]:
    """The names of a request's tools."""
    return frozenset(tool.function.name for tool in tools or ())


async def whole(body: ChatRequest, pieces: Pieces) -> dict[str, Any]:
    """The answers, once they are over."""
    names, found = names_of(body.tools), [Answer() for _ in range(body.n or 1)]
    try:
        async for number, piece in pieces:
            found[number].add(piece, names)
    finally:
        await pieces.aclose()
    choices = []
    for number, answer in enumerate(found):
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.calls:
            message |= {"content": answer.text or None, "tool_calls": answer.calls}
        logprobs = {"content": answer.tokens, "refusal": None} if body.logprobs else None
        choices.append({"index": number, "message": message, "logprobs": logprobs, "finish_reason": answer.reason})
    return {
        "object": "chat.completion",
        "choices": choices,
        "usage": usage_of([answer.usage for answer in found]),
    }


async def _events(body: ChatRequest, head: Mapping[str, Any], pieces: Pieces) -> AsyncGenerator[bytes]:
    names, found = names_of(body.tools), [Answer() for _ in range(body.n or 1)]
    with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)

    def chunk(number: int, delta: Mapping[str, Any], reason: str | None = None, tokens: Any = None) -> bytes:
        logprobs = {"content": tokens, "refusal": None} if tokens is not None else None
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return event_of(_chunk(head, [choice], {"usage": None} if with_usage else {}))

    # of nearly all events only the text differs
    plain = [chunk(number, {"content": _MARK}).rpartition(_MARK_WRITTEN)[::2] for number in range(len(found))]
    left = len(found)
    try:
        for number in range(len(found)):
            yield chunk(number, {"role": "assistant", "content": "", "refusal": None})
        async for number, piece in pieces:
            answer = found[number]
            before, calls = len(answer.text), len(answer.calls)
            answer.add(piece, names)
            if len(answer.text) > before:
                text = answer.text[before:]
                if body.logprobs:
                    tokens, answer.tokens = answer.tokens, []
                    yield chunk(number, {"content": text}, tokens=tokens)
                else:
                    yield json.dumps(text, ensure_ascii=False).encode().join(plain[number])
            for place in range(calls, len(answer.calls)):
                yield chunk(number, {"tool_calls": [{"index": place, **answer.calls[place]}]})
            if isinstance(piece, End):
                left -= 1
                last = chunk(number, {}, answer.reason)
                if not left:  # what is known together is sent together
                    if with_usage:
                        last += event_of(_chunk(head, [], {"usage": usage_of([answer.usage for answer in found])}))
                    last += DONE
                yield last
    finally:
        await pieces.aclose()


_MARK = "text"
"""Stands where an event's text will be: the last of the event's strings so written."""
_MARK_WRITTEN = b'"text"'


def _chunk(head: Mapping[str, Any], choices: list[Any], usage: Mapping[str, Any]) -> dict[str, Any]:
    return {**head, "object": "chat.completion.chunk", "choices": choices, **usage}

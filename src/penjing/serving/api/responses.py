"""/v1/responses: conversations answered in OpenAI's newer form, whole or as a sequence of events.

    response.created, response.in_progress
      response.output_item.added                          a message, or a call
        response.content_part.added
        response.output_text.delta ...                    or response.function_call_arguments.delta
        response.output_text.done, response.content_part.done
      response.output_item.done
    response.completed                                    or response.incomplete, response.failed

The whole answer is what the last of these events holds: both ways are made by the same class.
"""

import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from penjing.errors import PenjingError
from penjing.inference.chat_model import End, Text, ToolCall, Usage
from penjing.inference.sampling import Sampling
from penjing.serving.api.chat import Pieces, answers, call_of
from penjing.serving.api.common import check_choice, check_length, check_tools, logprob_of, new_id
from penjing.serving.api.errors import ApiError, answered_by
from penjing.serving.api.guard import Filtered, Guarded
from penjing.serving.api.responses_schema import ResponseBody, ResponseChoice, ResponseRequest, merged
from penjing.serving.api.streams import EventStream, begun, event_of, while_connected
from penjing.serving.backend import Ask, BackendError, Chosen, Named, Piece, ToolChoice
from penjing.serving.logs import event
from penjing.tokenizer.chat import Message


def router() -> APIRouter:
    """POST /v1/responses."""
    routes = APIRouter()

    @routes.post("/v1/responses", tags=["openai"], response_model=None, responses=answered_by(ResponseBody))
    async def responses(body: ResponseRequest, request: Request) -> Response:
        """Answers a conversation; nothing of it is kept."""
        pieces, growing = await while_connected(request, _ask(body, request))
        if not body.stream:
            return JSONResponse(await while_connected(request, _whole(growing, pieces)))
        return EventStream(_events(growing, pieces), pieces)

    return routes


async def _ask(body: ResponseRequest, request: Request) -> "tuple[Pieces, _Growing]":
    items = body.input if isinstance(body.input, list) else []
    messages: list[Message] = [{"role": "system", "content": body.instructions}] if body.instructions else []
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    messages += merged([item.message(f"input[{number}]") for number, item in enumerate(items)])
    check_length([message["content"] for message in messages], request.app.state.limits.prompt, "input")
    backend = await request.app.state.backends.get(body.model)
    question = _question(body, messages, backend.defaults)
    pieces = await answers(question, backend, Guarded(request, body.user), 1, "input")
    return await begun(pieces), _Growing(body, question.sampling)


def _question(body: ResponseRequest, messages: list[Message], defaults: Sampling) -> Ask:
    tools = body.tools or []
    check_tools(tools, "tools")
    named = body.tool_choice.name if isinstance(body.tool_choice, ResponseChoice) else None
    plain = body.tool_choice if isinstance(body.tool_choice, str) else named and "function"
    check_choice(plain, named, [tool.name for tool in tools])
    choice: ToolChoice = Named(named) if named else "auto"
    if isinstance(body.tool_choice, str):
        choice = body.tool_choice
    given: dict[str, Any] = {} if body.temperature is None else {"temperature": body.temperature}
    if body.top_p is not None:
        given |= {"top_p": body.top_p} if body.top_p else {"top_p": None, "top_k": 1}
    sampling = Sampling.of(defaults, **given, max_new_tokens=body.max_output_tokens, logprobs=body.top_logprobs)
    format = body.text.format if body.text is not None else None
    return Ask(
        messages,
        sampling,
        tools=[tool.tool() for tool in tools],
        constraint=None if format is None else format.shape(),
        tool_choice=choice,
        parallel=body.parallel_tool_calls is not False,
        strict=frozenset(tool.name for tool in tools if tool.strict),
    )


async def _whole(growing: "_Growing", pieces: Pieces) -> dict[str, Any]:
    try:
        async for _, piece in pieces:
            for _ in growing.push(piece):
                pass
    finally:
        await pieces.aclose()
    return growing.body


async def _events(growing: "_Growing", pieces: Pieces) -> AsyncGenerator[bytes]:
    number = 0

    def written(name: str, content: dict[str, Any]) -> bytes:
        nonlocal number
        number += 1
        return event_of({"type": name, "sequence_number": number - 1, **content}, name)

    try:
        for name in ("response.created", "response.in_progress"):
            yield written(name, {"response": growing.body})
        try:
            async for _, piece in pieces:
                for name, content in growing.push(piece):
                    yield written(name, content)
        except Exception as error:
            if not isinstance(error, ApiError | PenjingError):
                event("stream failed", level=40, error=error)
            known = isinstance(error, ApiError | BackendError)
            yield written("response.failed", growing.failed(str(error) if known else "the server failed"))
    finally:
        await pieces.aclose()


Event = tuple[str, dict[str, Any]]


class _Growing:
    """An answer as it grows, and the events that tell of it.

    Args:
        body: the request.
        sampling: how tokens are chosen.
    """

    def __init__(self, body: ResponseRequest, sampling: Sampling):
        tools = body.tools or []
        shown = body.model_dump(by_alias=True, exclude_none=True)
        self.names = frozenset(tool.name for tool in tools)
        self.body: dict[str, Any] = {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "model": body.model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": sampling.temperature,
            "text": shown.get("text") or {"format": {"type": "text"}},
            "tool_choice": shown.get("tool_choice", "auto"),
            "tools": [
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    "strict": bool(tool.strict),
                }
                for tool in tools
            ],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
        }
        self._message: dict[str, Any] | None = None
        self._tokens: list[dict[str, Any]] = []
        self._filtered = False

    def push(self, piece: Piece | Filtered) -> Iterator[Event]:
        """What a piece changes."""
        match piece:
            case Chosen():
                self._tokens.append(logprob_of(piece))
            case Text(text):
                yield from self._text(text)
            case ToolCall(name=name) if name in self.names:
                yield from self._close()
                yield from self._call(call_of(piece))
            case Filtered(message):
                self._filtered = True
                if self._message is None:
                    yield from self._text(message)
            case End(reason, usage):
                cut = "content_filter" if self._filtered else "max_output_tokens" if reason == "length" else None
                if not self.body["output"]:
                    yield from self._text("")
                yield from self._close("incomplete" if cut else "completed")
                self.body["usage"] = _usage(usage)
                self.body["incomplete_details"] = {"reason": cut} if cut else None
                self.body["status"] = "incomplete" if cut else "completed"
                yield f"response.{self.body['status']}", {"response": self.body}

    def failed(self, message: str) -> dict[str, Any]:
        """The last event of an answer that broke off."""
        self.body |= {"status": "failed", "error": {"code": "server_error", "message": message}}
        return {"response": self.body}

    def _text(self, text: str) -> Iterator[Event]:
        if self._message is None:
            self._message = {
                "id": new_id("msg_"),
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
            self.body["output"].append(self._message)
            yield "response.output_item.added", self._item(self._message)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._message["content"].append(part)
            yield "response.content_part.added", self._place(self._message) | {"part": part}
        if text:
            part = self._message["content"][0]
            tokens, self._tokens = self._tokens, []
            part["text"] += text
            part["logprobs"] += tokens
            yield "response.output_text.delta", self._place(self._message) | {"delta": text, "logprobs": tokens}

    def _close(self, status: str = "completed") -> Iterator[Event]:
        """Ends the message that grows, if one does."""
        if self._message is None:
            return
        message, self._message = self._message, None
        part = message["content"][0]
        place = self._place(message)
        yield "response.output_text.done", place | {"text": part["text"], "logprobs": part["logprobs"]}
        yield "response.content_part.done", place | {"part": part}
        message["status"] = status
        yield "response.output_item.done", self._item(message)

    def _call(self, call: dict[str, Any]) -> Iterator[Event]:
        item = {
            "id": new_id("fc_"),
            "type": "function_call",
            "call_id": call["id"],
            "name": call["function"]["name"],
            "arguments": "",
            "status": "in_progress",
        }
        self.body["output"].append(item)
        yield "response.output_item.added", self._item(item)
        item["arguments"] = call["function"]["arguments"]
        place = {"item_id": item["id"], "output_index": len(self.body["output"]) - 1}
        yield "response.function_call_arguments.delta", place | {"delta": item["arguments"]}
        done = place | {"name": item["name"], "arguments": item["arguments"]}
        yield "response.function_call_arguments.done", done
        item["status"] = "completed"
        yield "response.output_item.done", self._item(item)

    def _item(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"output_index": self.body["output"].index(item), "item": item}

    def _place(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": self.body["output"].index(item), "content_index": 0}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }

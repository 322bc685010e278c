"""The language of OpenAI's chat completions: what is asked as JSON, and what comes back as pieces of an answer.

    -> {"model": ..., "messages": [...], "stream": true, "temperature": 0, ...}
    <- data: {"choices": [{"delta": {"content": "Hel"}}]}
    <- data: {"choices": [{"delta": {"content": "lo"}, "finish_reason": "stop"}]}
    <- data: {"choices": [], "usage": {"prompt_tokens": 9, ...}}
    <- data: [DONE]

Nothing here speaks to a network: `inference.remote` does, waiting, and `serving.remote`, without waiting.

Source: OpenAI's API reference, "Create chat completion"; WHATWG's HTML standard, section 9.2 (server-sent events).
Departs from it: settings that OpenAI does not have (`top_k`, `min_p`, `repetition_penalty`) go by the names that vLLM,
SGLang and this project's own server know.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from penjing.errors import GenerationError, PenjingError
from penjing.inference.chat_model import Text, ToolCall, Usage
from penjing.inference.sampling import Sampling
from penjing.inference.tools import CallSplitter, Tool, read_call, why_over

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message

LONGEST_LINE = 1 << 22
"""Bytes of one event; a server that sends longer ones is not believed."""


class RemoteError(PenjingError):
    """Another server does not answer, or not as it should.

    Args:
        message: what is wrong.
        status: the HTTP status of its answer; 0 where there was none.
    """

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class RemoteTooLongError(GenerationError):
    """The other server's model has too short a context for the conversation."""


@dataclass(frozen=True)
class Scored:
    """A token of the answer with its log-probability, and those that it was chosen from."""

    text: str
    bytes: bytes
    logprob: float
    top: "tuple[Scored, ...]" = ()


def messages_of(conversation: "Sequence[Message]") -> list[dict[str, Any]]:
    """A conversation as OpenAI has it: calls beside the text and with ids, results that name the call they answer.

    Conversations of this project's local models hold calls as text, between tags; those become calls too.
    """
    found: list[dict[str, Any]] = []
    unanswered: list[str] = []
    for number, message in enumerate(conversation):
        entry: dict[str, Any] = {"role": message["role"], "content": message.get("content") or ""}
        if message["role"] == "assistant":
            calls = message.get("tool_calls") or []
            if calls:
                entry["tool_calls"] = [_call(call, f"call-{number}-{index}") for index, call in enumerate(calls)]
            else:
                entry["content"], entry_calls = _calls_in_text(entry["content"], number)
                entry |= {"tool_calls": entry_calls} if entry_calls else {}
            unanswered = [call["id"] for call in entry.get("tool_calls", ())]
        elif message["role"] == "tool":
            id = message.get("tool_call_id") or (unanswered[0] if unanswered else f"call-{number}")
            unanswered = [other for other in unanswered if other != id]
            entry["tool_call_id"] = id
        found.append(entry)
    return found


def _call(call: Mapping[str, Any], id: str) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments") or {}
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call.get("id") or id,
        "type": "function",
        "function": {"name": function["name"], "arguments": written},
    }


def _calls_in_text(text: str, number: int) -> tuple[str, list[dict[str, Any]]]:
    splitter = CallSplitter()
    words = ""
    calls: list[dict[str, Any]] = []
    for kind, content in [*splitter.push(text), *splitter.flush()]:
        call = read_call(content, f"call-{number}-{len(calls)}") if kind == "call" else None
        if call is None:
            words += content
        elif not call.error:
            calls.append(_call({"id": call.id, "name": call.name, "arguments": dict(call.arguments)}, call.id))
    return words, calls


def request_of(
    model: str, conversation: "Sequence[Message]", sampling: Sampling, tools: Sequence[Tool] = (), **more: Any
) -> dict[str, Any]:
    """The body of a request for one streamed answer; settings that are as ever are left to the server's own defaults.

    Args:
        model: by the server's name.
        conversation: see `ChatModel.stream`.
        sampling: see there.
        tools: see there.
        more: fields to add.

    Raises:
        GenerationError: a setting that this language has no word for.
    """
    if sampling.tempered_logprobs:
        raise GenerationError("log-probabilities at a temperature cannot be had from another server")
    body: dict[str, Any] = {"model": model, "messages": messages_of(conversation), "stream": True}
    body["stream_options"] = {"include_usage": True}
    body["temperature"] = sampling.temperature
    usual = Sampling()
    for name in (
        "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed"
    ):  # fmt: skip
        if getattr(sampling, name) != getattr(usual, name):
            body[name] = getattr(sampling, name)
    if sampling.max_new_tokens is not None:
        body["max_tokens"] = sampling.max_new_tokens
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs is not None:
        body |= {"logprobs": True} | ({"top_logprobs": sampling.logprobs} if sampling.logprobs else {})
    if tools:
        body["tools"] = [tool.to_dict() for tool in tools]
    return body | more


class Events:
    r"""Data of server-sent events out of bytes that come in pieces.

    >>> events = Events()
    >>> [*events.push(b'data: {"a"'), *events.push(b': 1}\n\n: a comment\n\ndata: [DONE]\n')]
    ['{"a": 1}', '[DONE]']
    """

    def __init__(self) -> None:
        self._held = b""

    def push(self, data: bytes) -> Iterator[str]:
        """The data lines that are whole now (an event of several such lines is one to JSON only if each is).

        Raises:
            RemoteError: a line without end.
        """
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode("utf-8", "replace")
        if len(self._held) > LONGEST_LINE:
            raise RemoteError(f"the server sends a line of more than {LONGEST_LINE} bytes")


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class Turn:
    """One turn of the assistant, put together from the events of its stream."""

    id: str
    """Names its calls where the server does not."""
    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    reason: Literal["stop", "length", "tool_calls"] | None = None
    """None until the server has told why it ended."""
    done: bool = False
    """Whether the stream has come to its end."""
    usage: Usage = field(default_factory=Usage)
    """As the server tells it; where it does not, the number of pieces that came stands for that of tokens."""
    _calls: dict[int, _Call] = field(default_factory=dict)
    _told: bool = False

    def push(self, data: str) -> Iterator[Text | Scored]:
        """The pieces in one event. Calls are whole at the end only: `finish`.

        Raises:
            RemoteError: the event is not what it should be, or tells an error.
        """
        if data == "[DONE]":
            self.done = True
            return
        try:
            event = json.loads(data)
            if "error" in event:
                raise RemoteError(f"the server broke off: {message_in(event)}")
            self._count(event.get("usage"))
            for choice in event.get("choices") or ():
                yield from self._choice(choice)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            raise RemoteError(f"the server sent what is no piece of an answer: {data[:120]!r}") from None

    def why_over(self, rounds_left: int, theirs: Collection[str]) -> Literal["stop", "length", "tool_calls"] | None:
        """Why the answer is over with this turn; None: its calls are run, and the model goes on (`tools.why_over`)."""
        return why_over(self.calls, "length" if self.reason == "length" else "stop", rounds_left, theirs)

    def finish(self) -> Iterator[ToolCall]:
        """The calls, once the stream has ended.

        Raises:
            RemoteError: it ended in the middle.
        """
        if not self.done and self.reason is None:
            raise RemoteError("the server closed the connection in the middle of an answer")
        for index in sorted(self._calls):
            call = self._calls[index]
            text = (
                json.dumps({"name": call.name}, ensure_ascii=False)[:-1] + f', "arguments": {call.arguments or "{}"}}}'
            )
            self.calls.append(read_call(text, call.id or f"{self.id}-{index}"))
            yield self.calls[-1]

    def message(self) -> "Message":
        """The turn as a message of the conversation."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.calls:
            message["tool_calls"] = [
                _call({"id": call.id, "name": call.name, "arguments": dict(call.arguments)}, call.id)
                for call in self.calls
            ]
        return message

    def _choice(self, choice: dict[str, Any]) -> Iterator[Text | Scored]:
        for entry in (choice.get("logprobs") or {}).get("content") or ():
            yield _scored(entry, tuple(_scored(other) for other in entry.get("top_logprobs") or ()))
        delta = choice.get("delta") or {}
        text = delta.get("content") or ""
        if text:
            self.content += text
            if not self._told:
                self.usage += Usage(completion_tokens=1)
            yield Text(text)
        for piece in delta.get("tool_calls") or ():
            call = self._calls.setdefault(int(piece.get("index", len(self._calls))), _Call())
            function = piece.get("function") or {}
            call.id = call.id or piece.get("id") or ""
            call.name += function.get("name") or ""
            call.arguments += function.get("arguments") or ""
        if choice.get("finish_reason"):
            reason = choice["finish_reason"]
            self.reason = reason if reason in ("length", "tool_calls") else "stop"

    def _count(self, usage: dict[str, Any] | None) -> None:
        if usage:
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            self._told = True
            self.usage = Usage(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0, cached)


def _scored(entry: dict[str, Any], top: tuple[Scored, ...] = ()) -> Scored:
    text = entry["token"]
    given = entry.get("bytes")
    return Scored(text, bytes(given) if given is not None else text.encode(), float(entry["logprob"]), top)


def message_in(body: Any) -> str:
    """What an error's body says, in any of the layouts that servers have."""
    for key in ("error", "detail", "message"):
        if isinstance(body, dict) and body.get(key):
            return message_in(body[key])
    return str(body)[:500]


def error_of(status: int, body: bytes, where: str) -> PenjingError:
    """The error that an answer other than 200 is."""
    try:
        message = message_in(json.loads(body))
    except (ValueError, RecursionError):
        message = body[:200].decode("utf-8", "replace").strip() or "no reason given"
    words = message.lower()
    if status in (400, 413, 422) and ("context" in words or "too long" in words or "too many tokens" in words):
        return RemoteTooLongError(f"{where}: {message}")
    advice = {
        401: "; is the API key right?",
        403: "; may this API key do that?",
        404: "; is the address right (it mostly ends in /v1), and is the model one that it serves?",
        429: "; it is busy, or the key's limit is used up",
    }.get(status, "")
    return RemoteError(f"{where} answered {status}: {message}{advice}", status)

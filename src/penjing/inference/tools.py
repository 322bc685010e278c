"""Tool calls: a model asks for something to be done by writing JSON between two tags, and is told the result.

    assistant   <tool_call>{"name": "calculator", "arguments": {"expression": "37*48"}}</tool_call>
    tool        1776
    assistant   37 times 48 is 1776.

What a model writes is not trusted: the JSON must be exactly an object with a `name` and an object of `arguments`,
only tools that the caller gave can be called, and whatever goes wrong is told to the model as a result that starts
with `error:`. When an answer with calls in it is over, `why_over` says, for chats and batches alike.
"""

import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from penjing.errors import nearest
from penjing.inference.text import overlap, writable

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"

ROUNDS = 4
"""How many times in one answer a model may call tools, where nothing else is said."""
LONGEST_CALL = 1 << 16
"""Characters of a call's JSON; a longer one is refused."""
LONGEST_RESULT = 1 << 16
"""Characters of a result; a longer one is cut."""


@dataclass(frozen=True)
class Tool:
    """Something that a model may call."""

    name: str
    description: str = ""
    """What it does, for the model."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """A JSON schema of its arguments, for the model."""
    run: Callable[..., object] | None = None
    """What is called with the arguments; None: the caller of the model runs it (the answer ends with the call)."""

    def to_dict(self) -> dict[str, Any]:
        """As chat templates and OpenAI's API want it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolCall:
    """What a model asked for."""

    id: str
    """Names the call within its conversation."""
    name: str
    arguments: Mapping[str, Any]
    error: str = ""
    """Why the call cannot be run, when what the model wrote is not a call."""


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered."""

    id: str
    """The call's."""
    name: str
    content: str


def read_call(text: str, id: str) -> ToolCall:
    """The call that the text between the tags asks for; `error` says what is wrong with it.

    >>> read_call('{"name": "clock", "arguments": {}}', "call-1")
    ToolCall(id='call-1', name='clock', arguments={}, error='')
    """
    try:
        if len(text) > LONGEST_CALL:
            raise ValueError(f"it is longer than {LONGEST_CALL} characters")
        call = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repeats)
        if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
            raise ValueError('it must be {"name": ..., "arguments": {...}}')
        if not isinstance(call["name"], str) or not isinstance(call["arguments"], dict):
            raise ValueError("name must be a string and arguments an object")
        if not writable(json.dumps(call, ensure_ascii=False)):
            raise ValueError("it holds half a surrogate pair, which is no character")
    except (ValueError, RecursionError) as fault:
        reason = fault.msg if isinstance(fault, json.JSONDecodeError) else str(fault)
        return ToolCall(id, "", {}, f"not a valid tool call: {reason}")
    return ToolCall(id, call["name"], call["arguments"])


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def why_over(
    calls: Sequence[ToolCall], reason: Literal["stop", "length"], rounds_left: int, theirs: Collection[str] = ()
) -> Literal["stop", "length", "tool_calls"] | None:
    """Why an answer is over after a turn with these calls; None: they are run, and the model goes on.

    Calls are run only where the model may read their results. So an answer always ends with the assistant's turn,
    which holds calls when the rounds were used up.

    Args:
        calls: what the turn calls.
        reason: why the turn ended.
        rounds_left: how many more times tools may be called in this answer.
        theirs: the names of tools that only the application can run.
    """
    if not calls:
        return reason
    if any(call.name in theirs for call in calls):
        return "tool_calls"
    return None if rounds_left > 0 else "length"


def run_call(call: ToolCall, tools: Mapping[str, Callable[..., object]]) -> ToolResult:
    """Runs a call; whatever goes wrong becomes a result that starts with `error:`."""
    content = _answer(call, tools)[:LONGEST_RESULT]
    return ToolResult(call.id, call.name, content.encode("utf-8", "replace").decode())


def _answer(call: ToolCall, tools: Mapping[str, Callable[..., object]]) -> str:
    if call.error:
        return f"error: {call.error}"
    if call.name not in tools:
        return f"error: there is no tool '{call.name}'{nearest(call.name, tools)}"
    tool = tools[call.name]
    try:
        inspect.signature(tool).bind(**call.arguments)
    except TypeError as fault:
        return f"error: {call.name}: {fault}"
    except ValueError:
        pass  # a built-in that does not tell its arguments
    try:
        return str(tool(**call.arguments))
    except Exception as fault:  # a tool's failure is the model's to handle, not the end of the conversation
        return f"error: {call.name} failed: {fault or type(fault).__name__}"


class CallSplitter:
    """Tells calls from text in an answer that comes in pieces; a tag that comes in parts is never shown as text.

    >>> splitter = CallSplitter()
    >>> [*splitter.push("Let me see. <tool"), *splitter.push('_call>{"a": 1}</tool_call>')]
    [('text', 'Let me see. '), ('call', '{"a": 1}')]
    """

    def __init__(self) -> None:
        self._held = ""
        self._inside = False

    def push(self, text: str) -> Iterator[tuple[str, str]]:
        """What is now certain: pairs of "text" and what may be shown, or "call" and what stood between the tags."""
        if not self._inside and not self._held and "<" not in text:  # as nearly always
            if text:
                yield ("text", text)
            return
        self._held += text
        while True:
            tag = CALL_CLOSE if self._inside else CALL_OPEN
            before, found, after = self._held.partition(tag)
            if not found:
                break
            if before or self._inside:
                yield ("call" if self._inside else "text", before)
            self._held, self._inside = after, not self._inside
        if not self._inside:
            certain = len(self._held) - overlap(self._held, CALL_OPEN)
            shown, self._held = self._held[:certain], self._held[certain:]
            if shown:
                yield ("text", shown)

    def flush(self) -> Iterator[tuple[str, str]]:
        """What is left at the end; a call that was never closed is text."""
        rest = CALL_OPEN + self._held if self._inside else self._held
        self._held, self._inside = "", False
        if rest:
            yield ("text", rest)

"""Replies with calls of tools, as one message of the tree and as the model's own messages.

The model speaks of a tool in several messages (its call, the tool's result, its answer); who reads the conversation
sees one reply. Here is how the one becomes the other, and both become ShareGPT's turns.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from penjing.inference.tools import CallSplitter, read_call
from penjing.serving.conversations.errors import ConversationError
from penjing.serving.conversations.records import Message

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message as Spoken

_SHAREGPT = {"user": "human", "assistant": "gpt", "tool": "observation"}


@dataclass(frozen=True)
class Said:
    """What one message of the tree is made of."""

    role: Literal["user", "assistant"]
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    turn: tuple[dict[str, Any], ...] = ()


def spoken(message: Message) -> "list[Spoken]":
    """A message as the model takes it: nothing where nothing was said, several where tools were called."""
    if message.turn:
        return [cast("Spoken", dict(one)) for one in message.turn]
    return [{"role": message.role, "content": message.content}] if message.content.strip() else []


def from_spoken(several: "Sequence[Spoken]", where: str) -> list[Said]:
    """A model's messages as those of a tree: calls of tools, their results and what follows are one reply.

    Raises:
        ConversationError: a system message after the first ones, or a tool's that no reply is before.
    """
    groups: list[list[Spoken]] = []
    for number, one in enumerate(several, 1):
        before = groups[-1][-1] if groups else None
        if one["role"] == "system":
            raise ConversationError(f"{where}, message {number}: a system message in the middle, which we cannot keep")
        goes_on = before is not None and (before["role"] == "tool" or bool(before.get("tool_calls")))
        if one["role"] == "tool" and (before is None or before["role"] == "user"):
            raise ConversationError(f"{where}, message {number}: a tool's result without a call before it")
        if one["role"] == "tool" or (one["role"] == "assistant" and goes_on):
            groups[-1].append(one)
        else:
            groups.append([one])
    return [_said(group) for group in groups]


def to_sharegpt(message: Message) -> list[dict[str, str]]:
    """A message as turns of ShareGPT."""
    turns = []
    for one in spoken(message) or [cast("Spoken", {"role": message.role, "content": message.content})]:
        calls = one.get("tool_calls") or []
        if one["content"] or not calls:
            turns.append({"from": _SHAREGPT[one["role"]], "value": one["content"]})
        for call in calls:
            function = call["function"]
            named = {"name": function["name"], "arguments": function["arguments"]}
            turns.append({"from": "function_call", "value": json.dumps(named, ensure_ascii=False)})
    return turns


def _said(group: "list[Spoken]") -> Said:
    first = group[0]
    if len(group) == 1 and not first.get("tool_calls"):
        return Said("user" if first["role"] == "user" else "assistant", first["content"])
    text, results = "", []
    calls: list[dict[str, Any]] = []
    for one in group:
        if one["role"] == "tool":
            results.append(one["content"])
            continue
        shown, called = _parts(one)
        text += shown
        calls += called
    for place, call in enumerate(calls):
        call["result"] = results[place] if place < len(results) else None
    return Said("assistant", text, tuple(calls), tuple(cast("dict[str, Any]", dict(one)) for one in group))


def _parts(one: "Spoken") -> tuple[str, list[dict[str, Any]]]:
    """The text of an assistant's message that is shown, and its calls: those written in it, and those beside it."""
    splitter, text = CallSplitter(), ""
    calls: list[dict[str, Any]] = []
    for kind, content in [*splitter.push(one["content"]), *splitter.flush()]:
        if kind == "text":
            text += content
        else:
            call = read_call(content, f"call-{len(calls)}")
            calls.append({"id": call.id, "name": call.name, "arguments": dict(call.arguments), "result": None})
    for given in one.get("tool_calls") or []:
        function: Mapping[str, Any] = given["function"]
        id = given.get("id", f"call-{len(calls)}")
        calls.append({"id": id, "name": function["name"], "arguments": function["arguments"], "result": None})
    return text, calls

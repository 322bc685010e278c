"""Conversations out of the layouts in which instruction data is published.

    Alpaca      {"instruction": "Add.", "input": "2 and 3", "output": "5"}
                The input, if there is one, follows the instruction after an empty line. Also read: `system`, and
                `history`, a list of [user, assistant] pairs that came before.
    ShareGPT    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
                Roles human, gpt, system, function_call, observation and their synonyms; also `system` and `tools`.
    messages    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
                As in OpenAI's API, `tool_calls` and content in text parts included; also `tools`.

A call of a tool becomes text of the assistant: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.

The first record decides a file's layout. Every fault is a `DataError` with the file and the line or record.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from penjing.data import places, records, streams
from penjing.data.places import File
from penjing.errors import DataError, nearest

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
}
"""Which of our four roles each name in the wild stands for."""


@dataclass(frozen=True)
class Conversation:
    """Messages that follow one another, and where they came from."""

    messages: "tuple[Message, ...]"
    origin: str = ""
    tools: tuple[dict[str, Any], ...] = field(default=())
    """Descriptions of the tools that the assistant may call, as in OpenAI's API."""


def read(path: str | Path) -> Iterator[Conversation]:
    """The conversations of a .json, .jsonl or .parquet file (or .gz, .zst of the JSON ones), or of a folder of them.

    The path may be an address or a pattern, too; see `penjing.data.places`.

    Raises:
        DataError: it is missing, unreadable, empty, of unknown layout, or a record is not of its layout.
    """
    empty = True
    for file in places.files_at(path, lambda file: records.kind_of(file) in records.KINDS, ", ".join(records.KINDS)):
        for conversation in _read_file(file):
            empty = False
            yield conversation
    if empty:
        raise DataError(f"there are no conversations in {path}")


def _read_file(path: File) -> Iterator[Conversation]:
    parse: Callable[[dict[str, Any], str], Conversation] | None = None
    for record in records.read(path):
        if not isinstance(record.value, dict):
            raise DataError(f"{record.where}: a {type(record.value).__name__}, where a record {{...}} is expected")
        parse = parse or _layout(record.value, record.where)
        yield parse(record.value, record.where)


def _layout(record: dict[str, Any], where: str) -> Callable[[dict[str, Any], str], Conversation]:
    if "messages" in record:
        return _turns("messages")
    if "conversations" in record:
        return _turns("conversations")
    if "instruction" in record and "output" in record:
        return _alpaca
    raise DataError(
        f"{where}: neither Alpaca (instruction, output) nor ShareGPT (conversations) nor messages; "
        f"this record has: {', '.join(record) or 'no fields'}"
    )


def _alpaca(record: dict[str, Any], where: str) -> Conversation:
    messages = _system(record, where)
    history = record.get("history") or []
    if not isinstance(history, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in history):
        raise DataError(f"{where}: 'history' is not a list of [user, assistant] pairs")
    for user, assistant in history:
        messages += [_message("user", user, where, "history"), _message("assistant", assistant, where, "history")]
    prompt = _text(_field(record, "instruction", where), where, "instruction")
    if extra := _text(record.get("input") or "", where, "input"):
        prompt = f"{prompt}\n\n{extra}"
    messages.append(_message("user", prompt, where, "instruction"))
    messages.append(_message("assistant", _field(record, "output", where), where, "output"))
    return Conversation(tuple(messages), where, _tools(record, where))


def _turns(name: str) -> Callable[[dict[str, Any], str], Conversation]:
    def parse(record: dict[str, Any], where: str) -> Conversation:
        turns = _field(record, name, where)
        if not isinstance(turns, list) or not turns:
            raise DataError(f"{where}: '{name}' is not a list of messages")
        messages = [*_system(record, where), *(_turn(turn, f"{where}, message {i}") for i, turn in enumerate(turns, 1))]
        return Conversation(tuple(messages), where, _tools(record, where))

    return parse


def _turn(turn: Any, where: str) -> "Message":
    """A message in either spelling: role and content, or from and value."""
    if not isinstance(turn, dict):
        raise DataError(f"{where}: a {type(turn).__name__}, where {{role, content}} or {{from, value}} is expected")
    role_name, content_name = ("from", "value") if "from" in turn else ("role", "content")
    role = _field(turn, role_name, where)
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"{where}: unknown {role_name} '{role}'{nearest(str(role), ROLES)}")
    calls = turn.get("tool_calls")
    content = turn.get(content_name) if calls else _field(turn, content_name, where)
    if role == "function_call":
        calls, content = content, None
    text = "" if calls and content is None else _text(content, where, content_name)
    if calls:
        text = "\n".join(part for part in (text, _calls(calls, where)) if part)
    return _message(ROLES[role], text, where, content_name)


def _message(role: str, content: Any, where: str, name: str) -> "Message":
    return cast("Message", {"role": role, "content": _text(content, where, name)})


def _system(record: dict[str, Any], where: str) -> "list[Message]":
    return [_message("system", record["system"], where, "system")] if record.get("system") else []


def _field(record: dict[str, Any], name: str, where: str) -> Any:
    if name not in record:
        raise DataError(f"{where}: no field '{name}'; there is: {', '.join(record) or 'nothing'}")
    return record[name]


def _text(value: Any, where: str, name: str) -> str:
    """A text, or the texts of a list of parts `{"type": "text", "text": ...}`."""
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in value]
        if not all(isinstance(part, str) for part in parts):
            raise DataError(f"{where}: '{name}' has parts that are not text")
        value = "".join(cast(list[str], parts))
    if not isinstance(value, str):
        raise DataError(f"{where}: '{name}' is of type {type(value).__name__}, not a text")
    return streams.whole_characters(value, where)


def _calls(value: Any, where: str) -> str:
    """Tool calls, as text of the assistant: from JSON text or values, bare or as OpenAI's `function`."""
    calls = _json(value, where, "the call of a tool")
    lines = []
    for call in calls if isinstance(calls, list) else [calls]:
        call = call.get("function", call) if isinstance(call, dict) else call
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise DataError(f"{where}: the call of a tool is not {{name, arguments}}")
        arguments = _json(call.get("arguments", {}), where, "the arguments of a tool")
        canonical = json.dumps({"name": call["name"], "arguments": arguments}, ensure_ascii=False)
        lines.append(f"<tool_call>{canonical}</tool_call>")
    return "\n".join(lines)


def _tools(record: dict[str, Any], where: str) -> tuple[dict[str, Any], ...]:
    tools = _json(record.get("tools") or [], where, "'tools'")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{where}: 'tools' is not a list of descriptions")
    return tuple(tools)


def _json(value: Any, where: str, what: str) -> Any:
    """A value that may be given as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: {what} is not valid JSON") from None

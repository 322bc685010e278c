"""Messages out of the spellings in which they are published, for whatever is made of messages.

    {"role": "user", "content": "Hi"}        {"from": "human", "value": "Hi"}        {"instruction": "Hi", "input": ""}

All become `{"role": "user", "content": "Hi"}`, with one of four roles. Calls of tools become `tool_calls` in OpenAI's
layout, with `arguments` as an object, for the chat template to write as its model does; what a model thought before its
answer (`reasoning_content`) becomes a block of its text, `<think>...</think>`. Every fault is a `DataError` that begins
with `where`, the file and the line or record.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from penjing.data import places, records, streams
from penjing.errors import DataError, nearest

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message

T = TypeVar("T")
Record = dict[str, Any]
Parse = Callable[[Record, str], T]
"""Makes something of a record; the text says where the record is from."""

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


def parsed(
    path: str | Path, layout: Callable[[Record, str], Parse[T]], fault: Callable[[DataError], None] | None = None
) -> Iterator[T]:
    """What is made of each record of a .json, .jsonl or .parquet file (or .gz, .zst of the JSON ones), or of a folder.

    The path may be an address or a pattern, too; see `penjing.data.places`.

    Args:
        path: where the records are.
        layout: says, by a file's first record, what makes something of all of them.
        fault: is told what is wrong with a record that is then left out; None: it is raised.

    Raises:
        DataError: it is missing, unreadable, or a record is no object; and what `layout` and its choice raise.
    """
    for file in places.files_at(path, lambda file: records.kind_of(file) in records.KINDS, ", ".join(records.KINDS)):
        parse: Parse[T] | None = None
        for record in records.read(file):
            if not isinstance(record.value, dict):
                raise DataError(f"{record.where}: a {type(record.value).__name__}, where a record {{...}} is expected")
            parse = parse or layout(record.value, record.where)
            try:
                made = parse(record.value, record.where)
            except DataError as error:
                if fault is None:
                    raise
                fault(error)
                continue
            yield made


def turns(value: Any, where: str, name: str) -> "list[Message]":
    """The messages of a list in either spelling, of which there must be one; `name` is the field's."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: '{name}' is not a list of messages")
    return [turn(one, f"{where}, message {number}") for number, one in enumerate(value, 1)]


def turn(value: Any, where: str) -> "Message":
    """A message in either spelling: role and content, or from and value."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: a {type(value).__name__}, where {{role, content}} or {{from, value}} is expected")
    role_name, content_name = ("from", "value") if "from" in value else ("role", "content")
    role = field(value, role_name, where)
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"{where}: unknown {role_name} '{role}'{nearest(str(role), ROLES)}")
    calls = value.get("tool_calls")
    content = value.get(content_name) if calls else field(value, content_name, where)
    if role == "function_call":
        calls, content = content, None
    said = "" if calls and content is None else text(content, where, content_name)
    made = message(ROLES[role], said, where, content_name)
    if made["role"] == "assistant" and (thought := value.get("reasoning_content")):
        made["content"] = f"<think>\n{text(thought, where, 'reasoning_content').strip()}\n</think>\n\n{said}"
    if calls:
        made["tool_calls"] = _calls(calls, where)
    if made["role"] == "tool":
        named = {key: value[key] for key in ("name", "tool_call_id") if isinstance(value.get(key), str)}
        made = cast("Message", {**made, **named})
    if "weight" in value:
        if value["weight"] not in (0, 1):
            raise DataError(f"{where}: 'weight' is {value['weight']!r}; it is 0 for what is not to be learned, or 1")
        made["weight"] = int(value["weight"])
    return made


def question(record: Record, where: str) -> "list[Message]":
    """What precedes the answer in an Alpaca record: system, history, and the instruction with its input."""
    messages = system(record, where)
    history = record.get("history") or []
    if not isinstance(history, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in history):
        raise DataError(f"{where}: 'history' is not a list of [user, assistant] pairs")
    for user, assistant in history:
        messages += [message("user", user, where, "history"), message("assistant", assistant, where, "history")]
    prompt = text(field(record, "instruction", where), where, "instruction")
    if extra := text(record.get("input") or "", where, "input"):
        prompt = f"{prompt}\n\n{extra}"
    return [*messages, message("user", prompt, where, "instruction")]


def system(record: Record, where: str) -> "list[Message]":
    """The system message that a record has beside its turns, if it has one."""
    return [message("system", record["system"], where, "system")] if record.get("system") else []


def message(role: str, content: Any, where: str, name: str) -> "Message":
    """A message of a role of ours; `name` is the field that its content is from."""
    return cast("Message", {"role": role, "content": text(content, where, name)})


def field(record: Record, name: str, where: str) -> Any:
    """A field that must be there."""
    if name not in record:
        raise DataError(f"{where}: no field '{name}'; there is: {', '.join(record) or 'nothing'}")
    return record[name]


def text(value: Any, where: str, name: str) -> str:
    """A text, or the texts of a list of parts `{"type": "text", "text": ...}`."""
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in value]
        if not all(isinstance(part, str) for part in parts):
            raise DataError(f"{where}: '{name}' has parts that are not text")
        value = "".join(cast(list[str], parts))
    if not isinstance(value, str):
        raise DataError(f"{where}: '{name}' is of type {type(value).__name__}, not a text")
    return streams.whole_characters(value, where)


def tools(record: Record, where: str) -> tuple[dict[str, Any], ...]:
    """The descriptions of tools that a record has beside its turns."""
    found = _json(record.get("tools") or [], where, "'tools'")
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise DataError(f"{where}: 'tools' is not a list of descriptions")
    return tuple(found)


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Calls in OpenAI's layout: from JSON text or values, one or several, bare or as OpenAI's `function`."""
    calls = _json(value, where, "the call of a tool")
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else call
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise DataError(f"{where}: the call of a tool is not {{name, arguments}}")
        arguments = _json(function.get("arguments") or {}, where, "the arguments of a tool")
        if not isinstance(arguments, dict):
            raise DataError(f"{where}: the arguments of the call of {function['name']} are not an object")
        named = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        found.append({**named, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return found


def _json(value: Any, where: str, what: str) -> Any:
    """A value that may be given as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: {what} is not valid JSON") from None

r"""Conversations as files, out and in again: what is exported and imported exports the same again.

    json       the whole tree with everything that is kept of it; messages are named by their number
               {"format": "penjing.conversations", "version": 1, "conversations": [{"title", "settings", "leaf",
                "messages": [{"id": 1, "parent": null, "role": "user", "content": "Hi"}, ...]}]}
    sharegpt   the branch that is shown, as datasets for training are published, and as `penjing.data` reads it
               {"title": ..., "system": ..., "conversations": [{"from": "human", "value": "Hi"}, ...]}
    markdown   the branch that is shown, to be read; comments tell where messages begin, and whose they are. A line of
               a message that looks like such a comment gets a backslash in front

Read are also a list of ShareGPT's objects, JSON lines of them, and OpenAI's `messages`. What is imported is a
stranger's: sizes, depth and types are checked before anything is stored, and all of a file is stored or nothing.
"""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from penjing.data.messages import turns as read_turns
from penjing.errors import DataError
from penjing.serving.conversations.errors import ConversationError, TooLargeError
from penjing.serving.conversations.records import (
    LONGEST_CONTENT,
    LONGEST_NAME,
    LONGEST_NOTE,
    MOST_MESSAGES,
    STATUSES,
    Conversation,
    Message,
    Settings,
    checked_text,
    checked_title,
    title_of,
)
from penjing.serving.conversations.spoken import from_spoken, to_sharegpt
from penjing.serving.conversations.tree import Tree
from penjing.serving.json_text import fault_in

Format = Literal["json", "sharegpt", "markdown"]
FORMATS: tuple[Format, ...] = ("json", "sharegpt", "markdown")
ENDINGS: dict[Format, str] = {"json": ".json", "sharegpt": ".sharegpt.json", "markdown": ".md"}
TYPES: dict[Format, str] = {
    "json": "application/json",
    "sharegpt": "application/json",
    "markdown": "text/markdown; charset=utf-8",
}

LONGEST_FILE = 32 << 20
"""Bytes of a file that is imported."""
DEEPEST = 32
"""How deep its JSON may be nested."""
MOST_CONVERSATIONS = 10_000
"""Conversations in one file."""

_NAME, _VERSION = "penjing.conversations", 1
_COMMENT = re.compile(r"<!-- penjing:(conversation|message) (\{.*\}) -->")
_LIKE_COMMENT = re.compile(r"^(\\*)(<!-- penjing:)", re.MULTILINE)
_ESCAPED = re.compile(r"^\\(\\*<!-- penjing:)", re.MULTILINE)
_HEADINGS = {"user": "## User", "assistant": "## Assistant"}
_FACTS: dict[str, Any] = {
    "status": "done",
    "model": None,
    "usage": None,
    "feedback": None,
    "note": "",
    "pinned": False,
    "tool_calls": (),
    "turn": (),
    "notice": None,
    "error": None,
}
"""What a message has beside its text, and what it is where nothing is written."""


def write(several: Sequence[Conversation], form: Format) -> str:
    """Conversations as the text of a file; Markdown takes one.

    Raises:
        ConversationError: several as Markdown.
    """
    if form == "json":
        return _dump({"format": _NAME, "version": _VERSION, "conversations": [_to_dict(one) for one in several]})
    if form == "sharegpt":
        written = [_to_sharegpt(one) for one in several]
        return _dump(written[0] if len(written) == 1 else written)
    if len(several) != 1:
        raise ConversationError("Markdown holds one conversation; export several as json or sharegpt")
    return _to_markdown(several[0])


def read(data: bytes, form: Format | Literal["auto"] = "auto") -> list[Conversation]:
    """The conversations of a file, to be stored under new ids.

    Raises:
        TooLargeError: the file, or something in it, is larger than its limit.
        ConversationError: it is not of that form, or something in it is not what it should be; the message says what.
    """
    if len(data) > LONGEST_FILE:
        raise TooLargeError(f"the file has {len(data):,} bytes; {LONGEST_FILE:,} is the most")
    text = data.decode("utf-8-sig", errors="replace")
    if form == "markdown" or (form == "auto" and text.lstrip().startswith("<!-- penjing:")):
        if (fault := fault_in(data, LONGEST_FILE)) is not None and "UTF-8" in fault:
            raise ConversationError(f"the file is no text: {fault}")
        return [_from_markdown(text)]
    values = _parsed(data, text)
    if isinstance(values, dict) and values.get("format") == _NAME:
        if form == "sharegpt":
            raise ConversationError("this is Penjing's own JSON, not ShareGPT: import it as json")
        return _from_json(values)
    if form == "json":
        raise ConversationError(f'this is not Penjing\'s JSON: it has no "format": "{_NAME}"')
    several = values if isinstance(values, list) else [values]
    if not several:
        raise ConversationError("there are no conversations in the file")
    _check_count(several)
    return [_from_sharegpt(value, f"conversation {number}") for number, value in enumerate(several, 1)]


def file_name(whole: Conversation, form: Format) -> str:
    """A name for a file, of letters that every system takes.

    >>> from dataclasses import replace
    >>> file_name(Conversation("x", "Why? / 为什么", Settings(), None, 0, 0), "markdown")
    'Why-为什么.md'
    """
    name = "-".join(re.findall(r"\w+", whole.title))[:60] or "conversation"
    return name + ENDINGS[form]


# json


def _to_dict(whole: Conversation) -> dict[str, Any]:
    numbers = {message.id: number for number, message in enumerate(whole.messages, 1)}
    return {
        "title": whole.title,
        "settings": whole.settings.to_dict(),
        "created": whole.created,
        "updated": whole.updated,
        "leaf": None if whole.leaf is None else numbers[whole.leaf],
        "messages": [
            {
                "id": numbers[message.id],
                "parent": None if message.parent is None else numbers[message.parent],
                "role": message.role,
                "content": message.content,
                "created": message.created,
            }
            | _facts(message)
            for message in whole.messages
        ],
    }


def _from_json(value: Mapping[str, Any]) -> list[Conversation]:
    if value.get("version") != _VERSION:
        raise ConversationError(f"the file is of version {value.get('version')!r}; this Penjing reads {_VERSION}")
    several = value.get("conversations")
    if not isinstance(several, list) or not several:
        raise ConversationError("there are no conversations in the file")
    _check_count(several)
    return [_from_dict(one, f"conversation {number}") for number, one in enumerate(several, 1)]


def _from_dict(value: Any, where: str) -> Conversation:
    value = _object(value, where)
    given = value.get("messages")
    if not isinstance(given, list):
        raise ConversationError(f"{where}: 'messages' is not a list")
    if len(given) > MOST_MESSAGES:
        raise TooLargeError(f"{where}: it has {len(given):,} messages; {MOST_MESSAGES:,} is the most")
    messages: list[Message] = []
    parents: dict[str, str | None] = {}
    for number, one in enumerate(given, 1):
        place = f"{where}, message {number}"
        message = _message(_object(one, place), place)
        if message.id in parents:
            raise ConversationError(f"{place}: the id {message.id} is given twice")
        if message.parent is not None and message.parent not in parents:
            raise ConversationError(f"{place}: its parent {message.parent} is not among the messages before it")
        parents[message.id] = message.parent
        messages.append(message)
    leaf = value.get("leaf")
    if leaf is not None and _id(leaf, where) not in parents:
        raise ConversationError(f"{where}: its leaf {str(leaf)[:40]} is none of its messages")
    now = time.time()
    return Conversation(
        id="",
        title=_within(checked_title, value.get("title") or "", where),
        settings=_settings(value.get("settings") or {}, where),
        leaf=Tree(parents).newest_leaf(None if leaf is None else _id(leaf, where)),
        created=_seconds(value.get("created", now), where),
        updated=_seconds(value.get("updated", now), where),
        messages=tuple(messages),
    )


def _message(value: Mapping[str, Any], where: str) -> Message:
    role = value.get("role")
    if role not in ("user", "assistant"):
        raise ConversationError(f"{where}: its role is {str(role)[:40]!r}; it must be 'user' or 'assistant'")
    facts = {name: value.get(name, usual) for name, usual in _FACTS.items()}
    wrong = {
        "status": facts["status"] not in STATUSES or facts["status"] == "running",
        "model": not isinstance(facts["model"], str | None),
        "usage": not isinstance(facts["usage"], dict | None),
        "feedback": facts["feedback"] not in (1, -1, None) or (facts["feedback"] is not None and role == "user"),
        "pinned": not isinstance(facts["pinned"], bool),
        "tool_calls": not _objects(facts["tool_calls"]),
        "turn": not _objects(facts["turn"]),
        "notice": not isinstance(facts["notice"], dict | None),
        "error": not isinstance(facts["error"], str | None),
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise ConversationError(f"{where}: its '{name}' cannot be {str(facts[name])[:40]!r}")
    if facts["turn"]:
        _within(lambda turn: read_turns(turn, where, "turn"), facts["turn"], where)
    for name, longest in (("model", LONGEST_NAME), ("note", LONGEST_NOTE), ("error", LONGEST_NOTE)):
        if facts[name] is not None:
            _within(lambda text, name=name, longest=longest: checked_text(text, name, longest), facts[name], where)
    content = _within(lambda text: checked_text(text, "its content", LONGEST_CONTENT), value.get("content"), where)
    return Message(
        id=_id(value.get("id"), where),
        conversation="",
        parent=None if value.get("parent") is None else _id(value["parent"], where),
        role=role,
        content=content,
        created=_seconds(value.get("created", time.time()), where),
        **facts | {"tool_calls": tuple(facts["tool_calls"]), "turn": tuple(facts["turn"])},
    )


# sharegpt


def _to_sharegpt(whole: Conversation) -> dict[str, Any]:
    head = {"title": whole.title, "system": whole.settings.system}
    said = [line for message in whole.path() if message.status != "blocked" for line in to_sharegpt(message)]
    return {name: value for name, value in head.items() if value} | {"conversations": said}


def _from_sharegpt(value: Any, where: str) -> Conversation:
    value = _object(value, where)
    name = "conversations" if "conversations" in value else "messages"
    if name not in value:
        raise ConversationError(
            f"{where}: neither Penjing's JSON nor ShareGPT (conversations) nor OpenAI's messages; it has: "
            f"{', '.join(str(key)[:40] for key in list(value)[:8]) or 'no fields'}"
        )
    if isinstance(value[name], list) and len(value[name]) > MOST_MESSAGES:
        raise TooLargeError(f"{where}: it has {len(value[name]):,} messages; {MOST_MESSAGES:,} is the most")
    said = [] if value[name] == [] else _within(lambda turns: read_turns(turns, where, name), value[name], where)
    system = [value["system"]] if value.get("system") else []
    while said and said[0]["role"] == "system":
        system.append(said.pop(0)["content"])
    settings = _settings({"system": "\n\n".join(str(one) for one in system)}, where)
    messages: list[Message] = []
    now = time.time()
    for place, group in enumerate(from_spoken(said, where), 1):
        _within(lambda text: checked_text(text, "a message", LONGEST_CONTENT), group.content, where)
        parent = messages[-1].id if messages else None
        messages.append(
            Message(
                id=str(place),
                conversation="",
                parent=parent,
                role=group.role,
                content=group.content,
                created=now,
                tool_calls=group.tool_calls,
                turn=group.turn,
            )
        )
    title = _within(checked_title, value.get("title") or title_of(messages[0].content if messages else ""), where)
    leaf = messages[-1].id if messages else None
    return Conversation("", title, settings, leaf, now, now, tuple(messages))


# markdown


def _to_markdown(whole: Conversation) -> str:
    about = {
        "version": _VERSION,
        "settings": whole.settings.to_dict(),
        "created": whole.created,
        "updated": whole.updated,
    }
    parts = [_comment("conversation", about)]
    if whole.title:
        parts.append(f"# {whole.title}")
    for message in whole.path():
        facts = {"role": message.role, "created": message.created} | _facts(message)
        content = _LIKE_COMMENT.sub(r"\\\1\2", message.content)
        parts.append(f"{_comment('message', facts)}\n{_HEADINGS[message.role]}\n\n{content}")
    return "\n\n".join(parts) + "\n"


def _from_markdown(text: str) -> Conversation:
    if "\r\n" in text and "\n" not in text.replace("\r\n", ""):
        text = text.replace("\r\n", "\n")  # an editor's work
    parts: list[tuple[str, dict[str, Any], list[str]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if (found := _COMMENT.fullmatch(line.rstrip())) is not None:
            parts.append((found[1], _facts_in(found[2], f"line {number}"), []))
        elif parts:
            parts[-1][2].append(line)
        elif line.strip():
            break
    if not parts or parts[0][0] != "conversation" or any(kind == "conversation" for kind, _, _ in parts[1:]):
        raise ConversationError("this Markdown is no conversation that Penjing wrote: it begins with no such comment")
    about, head = parts[0][1], [line for line in parts[0][2] if line.startswith("# ")]
    messages = []
    for number, (_, facts, lines) in enumerate(parts[1:], 1):
        content = _ESCAPED.sub(r"\1", _body(lines, number == len(parts) - 1))
        parent = number - 1 or None
        messages.append(facts | {"id": number, "parent": parent, "content": content})
    leaf = len(messages) or None
    whole = about | {"title": head[0][2:] if head else "", "messages": messages, "leaf": leaf}
    if about.get("version") != _VERSION:
        raise ConversationError(f"the file is of version {about.get('version')!r}; this Penjing reads {_VERSION}")
    return _from_dict(whole, "the conversation")


def _body(lines: list[str], last: bool) -> str:
    """A message's text out of the lines after its comment: without its heading, and the empty lines that we put."""
    if lines and lines[0].strip() in _HEADINGS.values():
        lines = lines[1:]
    if lines and not lines[0]:
        lines = lines[1:]
    # between messages an empty line ends the text, at the end of the file the last line's end does
    for _ in range(1 if last else 2):
        if lines and not lines[-1]:
            lines = lines[:-1]
    return "\n".join(lines)


def _comment(kind: str, facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")
    return f"<!-- penjing:{kind} {text} -->"


def _facts_in(text: str, where: str) -> dict[str, Any]:
    data = text.encode()
    return dict(_object(_parsed(data, text, where), where))


# parts of all of them


def _facts(message: Message) -> dict[str, Any]:
    """What is not as usual."""
    status = "interrupted" if message.status == "running" else message.status
    found = {name: getattr(message, name) for name in _FACTS} | {"status": status}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if value != _FACTS[name]
    }


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _parsed(data: bytes, text: str, where: str = "the file") -> Any:
    """A JSON value, or those of JSON lines."""
    lines = [line for line in data.splitlines() if line.strip()]
    try:
        if len(lines) > 1 and all(line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}") for line in lines):
            for line in lines:
                _refuse(fault_in(line, DEEPEST), where)
            return [json.loads(line) for line in lines]
        _refuse(fault_in(data, DEEPEST), where)
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        if isinstance(fault, json.JSONDecodeError):
            raise ConversationError(f"{where}, line {fault.lineno}: not valid JSON ({fault.msg})") from None
        raise ConversationError(f"{where}: not valid JSON ({str(fault)[:100]})") from None


def _refuse(fault: str | None, where: str) -> None:
    if fault is not None:
        raise ConversationError(f"{where} cannot be read: {fault}")


def _check_count(several: Sequence[Any]) -> None:
    if len(several) > MOST_CONVERSATIONS:
        raise TooLargeError(f"the file has {len(several):,} conversations; {MOST_CONVERSATIONS:,} is the most")


def _within(check: Any, value: Any, where: str) -> Any:
    """What a check makes of a value; its fault says where."""
    try:
        return check(value)
    except DataError as fault:
        raise ConversationError(str(fault)) from None
    except ConversationError as fault:
        raise type(fault)(f"{where}: {fault}") from None


def _settings(value: Any, where: str) -> Settings:
    return _within(Settings.of, _object(value, where), where)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConversationError(f"{where}: a {type(value).__name__}, where an object {{...}} is expected")
    return value


def _objects(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, dict) for one in value)


def _id(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or len(str(value)) > LONGEST_NAME:
        raise ConversationError(f"{where}: {str(value)[:40]!r} is no id of a message")
    return str(value)


def _seconds(value: Any, where: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < 1e12
        or not math.isfinite(value)
    ):
        raise ConversationError(f"{where}: {str(value)[:40]!r} is no time in seconds since 1970")
    return float(value)

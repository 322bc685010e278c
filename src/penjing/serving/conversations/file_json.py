"""Conversations in JSON of our own: the whole tree, with everything that is kept of it, and back.

Messages are named by their number, so that what is exported, imported and exported again is the same, byte for byte.
"""

import time
from collections.abc import Mapping
from typing import Any

from penjing.data.messages import turns as read_turns
from penjing.serving.conversations.errors import ConversationError, TooLargeError
from penjing.serving.conversations.file_checks import (
    an_id,
    an_object,
    are_objects,
    check_count,
    seconds_of,
    settings_of,
    within,
)
from penjing.serving.conversations.records import (
    LONGEST_CONTENT,
    LONGEST_NAME,
    LONGEST_NOTE,
    MOST_MESSAGES,
    STATUSES,
    Conversation,
    Message,
    checked_text,
    checked_title,
)
from penjing.serving.conversations.tree import Tree

NAME, VERSION = "penjing.conversations", 1
"""What a file says that it is."""

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


def to_dict(whole: Conversation) -> dict[str, Any]:
    """A conversation as JSON."""
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
            | facts_of(message)
            for message in whole.messages
        ],
    }


def from_json(value: Mapping[str, Any]) -> list[Conversation]:
    """The conversations of a file."""
    if value.get("version") != VERSION:
        raise ConversationError(f"the file is of version {value.get('version')!r}; this Penjing reads {VERSION}")
    several = value.get("conversations")
    if not isinstance(several, list) or not several:
        raise ConversationError("there are no conversations in the file")
    check_count(several)
    return [from_dict(one, f"conversation {number}") for number, one in enumerate(several, 1)]


def from_dict(value: Any, where: str) -> Conversation:
    """A conversation out of JSON."""
    value = an_object(value, where)
    given = value.get("messages")
    if not isinstance(given, list):
        raise ConversationError(f"{where}: 'messages' is not a list")
    if len(given) > MOST_MESSAGES:
        raise TooLargeError(f"{where}: it has {len(given):,} messages; {MOST_MESSAGES:,} is the most")
    messages: list[Message] = []
    parents: dict[str, str | None] = {}
    for number, one in enumerate(given, 1):
        place = f"{where}, message {number}"
        message = _message(an_object(one, place), place)
        if message.id in parents:
            raise ConversationError(f"{place}: the id {message.id} is given twice")
        if message.parent is not None and message.parent not in parents:
            raise ConversationError(f"{place}: its parent {message.parent} is not among the messages before it")
        parents[message.id] = message.parent
        messages.append(message)
    leaf = value.get("leaf")
    if leaf is not None and an_id(leaf, where) not in parents:
        raise ConversationError(f"{where}: its leaf {str(leaf)[:40]} is none of its messages")
    now = time.time()
    return Conversation(
        id="",
        title=within(checked_title, value.get("title") or "", where),
        settings=settings_of(value.get("settings") or {}, where),
        leaf=Tree(parents).newest_leaf(None if leaf is None else an_id(leaf, where)),
        created=seconds_of(value.get("created", now), where),
        updated=seconds_of(value.get("updated", now), where),
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
        "feedback": not _is_thumb(facts["feedback"]) or (facts["feedback"] is not None and role == "user"),
        "pinned": not isinstance(facts["pinned"], bool),
        "tool_calls": not are_objects(facts["tool_calls"]) or not all(map(_is_call, facts["tool_calls"])),
        "turn": not are_objects(facts["turn"]),
        "notice": facts["notice"] is not None and not _is_notice(facts["notice"]),
        "error": not isinstance(facts["error"], str | None),
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise ConversationError(f"{where}: its '{name}' cannot be {str(facts[name])[:40]!r}")
    if facts["turn"]:
        facts["turn"] = within(lambda turn: read_turns(turn, where, "turn"), facts["turn"], where)
    for name, longest in (("model", LONGEST_NAME), ("note", LONGEST_NOTE), ("error", LONGEST_NOTE)):
        if facts[name] is not None:
            within(lambda text, name=name, longest=longest: checked_text(text, name, longest), facts[name], where)
    content = within(lambda text: checked_text(text, "its content", LONGEST_CONTENT), value.get("content"), where)
    return Message(
        id=an_id(value.get("id"), where),
        conversation="",
        parent=None if value.get("parent") is None else an_id(value["parent"], where),
        role=role,
        content=content,
        created=seconds_of(value.get("created", time.time()), where),
        **facts | {"tool_calls": tuple(facts["tool_calls"]), "turn": tuple(facts["turn"])},
    )


def facts_of(message: Message) -> dict[str, Any]:
    """What is not as usual."""
    status = "interrupted" if message.status == "running" else message.status
    found = {name: getattr(message, name) for name in _FACTS} | {"status": status}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if value != _FACTS[name]
    }


def _is_thumb(value: Any) -> bool:
    return value is None or (type(value) is int and value in (1, -1))


def _is_call(value: Mapping[str, Any]) -> bool:
    return set(value) == {"id", "name", "arguments", "result"} and isinstance(value["name"], str)


def _is_notice(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"action", "reasons", "help", "message"}
        and value["action"] in ("warn", "redact", "block")
        and isinstance(value["reasons"], list)
        and all(isinstance(reason, str) for reason in value["reasons"])
        and isinstance(value["help"], str | None)
        and isinstance(value["message"], str)
    )

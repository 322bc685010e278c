"""Conversations as ShareGPT publishes them, or as OpenAI's messages, and back: the branch that is shown."""

import time
from typing import Any

from penjing.data.messages import turns as read_turns
from penjing.serving.conversations.errors import ConversationError, TooLargeError
from penjing.serving.conversations.file_checks import an_object, settings_of, within
from penjing.serving.conversations.records import (
    LONGEST_CONTENT,
    MOST_MESSAGES,
    Conversation,
    Message,
    checked_text,
    checked_title,
    title_of,
)
from penjing.serving.conversations.spoken import from_spoken, to_sharegpt


def to_file(whole: Conversation) -> dict[str, Any]:
    """A conversation's branch as ShareGPT's object."""
    head = {"title": whole.title, "system": whole.settings.system}
    said = [line for message in whole.path() if message.status != "blocked" for line in to_sharegpt(message)]
    return {name: value for name, value in head.items() if value} | {"conversations": said}


def from_file(value: Any, where: str) -> Conversation:
    """A conversation out of ShareGPT's or OpenAI's object."""
    value = an_object(value, where)
    name = "conversations" if "conversations" in value else "messages"
    if name not in value:
        raise ConversationError(
            f"{where}: neither Penjing's JSON nor ShareGPT (conversations) nor OpenAI's messages; it has: "
            f"{', '.join(str(key)[:40] for key in list(value)[:8]) or 'no fields'}"
        )
    if isinstance(value[name], list) and len(value[name]) > MOST_MESSAGES:
        raise TooLargeError(f"{where}: it has {len(value[name]):,} messages; {MOST_MESSAGES:,} is the most")
    said = [] if value[name] == [] else within(lambda turns: read_turns(turns, where, name), value[name], where)
    system = [value["system"]] if value.get("system") else []
    while said and said[0]["role"] == "system":
        system.append(said.pop(0)["content"])
    settings = settings_of({"system": "\n\n".join(str(one) for one in system)}, where)
    messages: list[Message] = []
    now = time.time()
    for place, group in enumerate(from_spoken(said, where), 1):
        within(lambda text: checked_text(text, "a message", LONGEST_CONTENT), group.content, where)
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
    title = within(checked_title, value.get("title") or title_of(messages[0].content if messages else ""), where)
    leaf = messages[-1].id if messages else None
    return Conversation("", title, settings, leaf, now, now, tuple(messages))

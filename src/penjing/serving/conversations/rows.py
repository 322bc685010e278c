"""Rows of the tables as values, and the few questions about them that several parts ask."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping, Select, func, select

from penjing.serving.conversations.errors import ConversationError, NotFoundError
from penjing.serving.conversations.records import MOST_MESSAGES, Conversation, Message, Settings
from penjing.serving.conversations.schema import conversations, messages, pieces

T = TypeVar("T")
_MANY = 500


def new_id() -> str:
    """A name that nobody guesses and nothing else has."""
    return secrets.token_hex(16)


def owned(connection: Connection, user: str, id: str, *, lock: bool = False) -> RowMapping:
    """The row of a user's conversation; locked, no other transaction changes its tree before this one ends.

    Raises:
        NotFoundError: there is none, or it is another user's.
    """
    asked: Select[Any] = select(conversations).where(conversations.c.id == id, conversations.c.owner == user)
    found = connection.execute(asked.with_for_update() if lock else asked).mappings().first()
    if found is None:
        raise NotFoundError("there is no such conversation")
    return found


def messages_of(connection: Connection, conversation: str) -> tuple[Message, ...]:
    """All messages of a conversation, in order; a running one with what it has said so far."""
    rows = connection.execute(
        select(messages).where(messages.c.conversation == conversation).order_by(messages.c.position)
    ).mappings()
    return tuple(message_of(connection, row) for row in rows.all())


def one_message(connection: Connection, conversation: str, id: str) -> Message:
    """A message of a conversation.

    Raises:
        NotFoundError: there is none.
    """
    row = (
        connection.execute(select(messages).where(messages.c.conversation == conversation, messages.c.id == id))
        .mappings()
        .first()
    )
    if row is None:
        raise NotFoundError("there is no such message in this conversation")
    return message_of(connection, row)


def message_of(connection: Connection, row: RowMapping) -> Message:
    """A row of `messages` as a value."""
    details = row["details"] or {}
    return Message(
        id=row["id"],
        conversation=row["conversation"],
        parent=row["parent"],
        role=row["role"],
        content=said_so_far(connection, row["id"]) if row["status"] == "running" else row["content"],
        status=row["status"],
        model=row["model"],
        usage=row["usage"],
        feedback=row["feedback"],
        note=row["note"],
        pinned=bool(row["pinned"]),
        created=row["created"],
        tool_calls=tuple(details.get("tool_calls", ())),
        turn=tuple(details.get("turn", ())),
        notice=details.get("notice"),
        error=details.get("error"),
    )


def row_of(message: Message) -> dict[str, Any]:
    """The other way round, without its place in the order."""
    return {
        "id": message.id,
        "conversation": message.conversation,
        "parent": message.parent,
        "role": message.role,
        "content": message.content,
        "status": message.status,
        "server": None,
        "model": message.model,
        "usage": None if message.usage is None else dict(message.usage),
        "feedback": message.feedback,
        "note": message.note,
        "pinned": int(message.pinned),
        "created": message.created,
        "details": details_of(message.tool_calls, message.turn, message.notice, message.error),
    }


def details_of(
    tool_calls: Sequence[Mapping[str, Any]],
    turn: Sequence[Mapping[str, Any]],
    notice: Mapping[str, Any] | None,
    error: str | None,
) -> dict[str, Any] | None:
    """What few messages have, as one value; None where there is nothing."""
    found = {"tool_calls": list(tool_calls), "turn": list(turn), "notice": notice, "error": error}
    return {key: value for key, value in found.items() if value} or None


def conversation_of(row: RowMapping, found: Sequence[Message] = ()) -> Conversation:
    """A row of `conversations` as a value."""
    return Conversation(
        id=row["id"],
        title=row["title"],
        settings=Settings(**row["settings"]),
        leaf=row["leaf"],
        created=row["created"],
        updated=row["updated"],
        messages=tuple(found),
    )


def said_so_far(connection: Connection, message: str) -> str:
    """The pieces of a running reply, joined."""
    found = select(pieces.c.text).where(pieces.c.message == message).order_by(pieces.c.position)
    return "".join(connection.execute(found).scalars())


def check_room(connection: Connection, conversation: str, more: int) -> None:
    """Refuses messages beyond the most that a conversation may have.

    Raises:
        ConversationError: there would be too many.
    """
    asked = select(func.count()).select_from(messages).where(messages.c.conversation == conversation)
    if connection.execute(asked).scalar_one() + more > MOST_MESSAGES:
        raise ConversationError(f"a conversation has {MOST_MESSAGES:,} messages at most; begin a new one, or fork it")


def in_parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Values in parts that fit into one statement."""
    for start in range(0, len(values), _MANY):
        yield values[start : start + _MANY]

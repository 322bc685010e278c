"""The store of conversations: everything that is kept of them, for each user by itself.

    store = Store.open("chats.db", serve=True)
    chat = store.create("mei", Settings(system="Be brief."))
    question, reply = store.ask("mei", chat.id, "What is a penjing?")    # the reply is running, and empty
    store.replies.append({reply.id: "A landscape "})                     # safe from here on, piece by piece
    store.replies.finish(reply.id, content="A landscape in a tray.")
    store.page("mei", query="landscape")

Each call is one transaction: it is stored as a whole or not at all. What belongs to another user does not exist.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, and_, delete, func, insert, or_, select, update

from penjing.serving.conversations import search
from penjing.serving.conversations.database import PATIENCE, Database
from penjing.serving.conversations.errors import ConflictError, ConversationError, NotFoundError
from penjing.serving.conversations.presets import Presets
from penjing.serving.conversations.records import (
    LONGEST_CONTENT,
    LONGEST_NOTE,
    Conversation,
    Message,
    Settings,
    checked_text,
    checked_title,
    title_of,
)
from penjing.serving.conversations.rows import (
    check_room,
    conversation_of,
    in_parts,
    messages_of,
    new_id,
    one_message,
    owned,
    row_of,
)
from penjing.serving.conversations.schema import conversations, messages, summaries, texts
from penjing.serving.conversations.stored_replies import StoredReplies, refuse_within
from penjing.serving.conversations.tree import Tree

MOST_LISTED = 200
_PREVIEW = 120


@dataclass(frozen=True)
class Listed:
    """A conversation in a list."""

    id: str
    title: str
    updated: float
    preview: str
    """The beginning of its last message; in a search, the place that was found."""
    model: str | None


class _Leaf:
    """That the current leaf is meant, where None means that there is no parent."""


LEAF = _Leaf()


class Store:
    """What is kept of conversations. Make one with `open`; it may be used by several threads."""

    def __init__(self, database: Database):
        self.database = database
        self.replies = StoredReplies(database)
        self.presets = Presets(database)

    @classmethod
    def open(cls, place: str | Path, *, serve: bool = False, patience: float = PATIENCE) -> "Store":
        """Opens or makes a store; see `Database.open`. One that serves first sees to replies that a crash broke off.

        Raises:
            StorageError: it cannot be used; the message says why and what to do.
        """
        store = cls(Database.open(place, serve=serve, patience=patience))
        if serve:
            try:
                store.replies.recover()
            except BaseException:
                store.close()
                raise
        return store

    def close(self) -> None:
        """Lets go of the database."""
        self.database.close()

    # conversations

    def create(self, user: str, settings: Settings | None = None, title: str = "") -> Conversation:
        """A new, empty conversation. Without a title it takes one from its first message."""
        now = time.time()
        made = Conversation(new_id(), checked_title(title), settings or Settings(), None, now, now)
        with self.database.writing() as connection:
            _insert(connection, user, made)
        return made

    def page(
        self, user: str, *, query: str = "", limit: int = 50, before: str | None = None
    ) -> tuple[list[Listed], bool]:
        """The user's conversations, those last changed first, and whether there are more.

        Args:
            user: whose.
            query: words, each of which must be in the title or in a message (any branch).
            limit: how many at most.
            before: go on after this conversation.
        """
        words = search.words_of(query)
        limit = max(1, min(limit, MOST_LISTED))
        with self.database.reading() as connection:
            asked: Select[Any] = (
                select(conversations, func.substr(messages.c.content, 1, 4 * _PREVIEW).label("said"))
                .outerjoin(messages, messages.c.id == conversations.c.leaf)
                .where(conversations.c.owner == user, *search.condition(connection, words))
                .order_by(conversations.c.updated.desc(), conversations.c.id.desc())
                .limit(limit + 1)
            )
            if before is not None:
                last = owned(connection, user, before)
                updated, id = conversations.c.updated, conversations.c.id
                asked = asked.where(or_(updated < last["updated"], and_(updated == last["updated"], id < last["id"])))
            rows = connection.execute(asked).mappings().all()
            listed = []
            for row in rows[:limit]:
                found = search.snippet(connection, row["id"], words)
                preview = found or " ".join((row["said"] or "").split())[:_PREVIEW]
                model = row["settings"]["model"]
                listed.append(Listed(row["id"], row["title"], row["updated"], preview, model))
        return listed, len(rows) > limit

    def get(self, user: str, id: str) -> Conversation:
        """A conversation with all its messages.

        Raises:
            NotFoundError: the user has no such conversation.
        """
        with self.database.reading() as connection:
            row = owned(connection, user, id)
            return conversation_of(row, messages_of(connection, id))

    def message(self, user: str, id: str, message: str) -> Message:
        """One message of a conversation.

        Raises:
            NotFoundError: the user has no such conversation, or it no such message.
        """
        with self.database.reading() as connection:
            owned(connection, user, id)
            return one_message(connection, id, message)

    def change(
        self,
        user: str,
        id: str,
        *,
        title: str | None = None,
        leaf: str | None = None,
        settings: Settings | None = None,
    ) -> Conversation:
        """Renames a conversation, shows another branch (the newest below the message `leaf`), or sets how to answer.

        Raises:
            NotFoundError: there is no such conversation or message.
        """
        new: dict[str, Any] = {}
        if title is not None:
            new["title"] = title = checked_title(title)
        if settings is not None:
            new["settings"] = settings.to_dict()
        with self.database.writing() as connection:
            owned(connection, user, id, lock=True)
            if leaf is not None:
                new["leaf"] = Tree.of(connection, id).newest_leaf(leaf)
            if new:
                connection.execute(update(conversations).where(conversations.c.id == id).values(**new))
            if title is not None:
                _title(connection, id, title)
            return conversation_of(owned(connection, user, id), messages_of(connection, id))

    def delete(self, user: str, id: str) -> None:
        """Deletes a conversation with everything in it; a reply that is being written to it ends.

        Raises:
            NotFoundError: the user has no such conversation.
        """
        with self.database.writing() as connection:
            owned(connection, user, id, lock=True)
            search.remove(connection, texts.c.conversation == id)
            connection.execute(delete(messages).where(messages.c.conversation == id))
            connection.execute(delete(conversations).where(conversations.c.id == id))

    def fork(self, user: str, id: str, message: str) -> Conversation:
        """A new conversation that is the branch up to and with `message`.

        Raises:
            NotFoundError: there is no such conversation or message.
            ConflictError: the message is still being written.
        """
        source = self.get(user, id)
        if all(message != one.id for one in source.messages):
            raise NotFoundError("there is no such message in this conversation")
        path = source.path(message)
        if path[-1].status == "running":
            raise ConflictError("this reply is still being written; fork when it is done")
        now = time.time()
        return self.add(user, replace(source, leaf=message, created=now, updated=now, messages=tuple(path)))

    def add(self, user: str, whole: Conversation) -> Conversation:
        """Stores a conversation that comes with its messages, under new ids."""
        return self.add_all(user, [whole])[0]

    def add_all(self, user: str, several: Sequence[Conversation]) -> list[Conversation]:
        """Stores conversations that come with their messages, under new ids: all of them, or on a fault none."""
        made = [_renamed(whole) for whole in several]
        with self.database.writing() as connection:
            for whole in made:
                check_room(connection, whole.id, len(whole.messages))
                _insert(connection, user, whole)
        return made

    def all_of(self, user: str) -> list[Conversation]:
        """All conversations of a user with all their messages, the oldest first."""
        with self.database.reading() as connection:
            mine = conversations.c.owner == user
            asked = select(conversations).where(mine).order_by(conversations.c.created, conversations.c.id)
            rows = connection.execute(asked).mappings().all()
            return [conversation_of(row, messages_of(connection, row["id"])) for row in rows]

    # messages

    def ask(
        self,
        user: str,
        id: str,
        content: str,
        parent: str | _Leaf | None = LEAF,
        *,
        notice: Mapping[str, Any] | None = None,
    ) -> tuple[Message, Message]:
        """Adds a message of the user and begins the reply to it; their branch is then the one shown.

        Args:
            user: whose conversation it is.
            id: the conversation.
            content: what the user says.
            parent: the message that it follows; None: it is a first one; by default the leaf.
            notice: what the policy said, `{"action", "reasons", "help", "message"}`; with the action "block" the reply
                is the policy's, and over.

        Returns:
            The message, and the reply.

        Raises:
            NotFoundError: there is no such conversation or parent.
            ConflictError: the parent is still being written.
            ConversationError: there is nothing in it, too much, or too many messages.
        """
        if not checked_text(content, "the message", LONGEST_CONTENT).strip():
            raise ConversationError("the message is empty")
        with self.database.writing() as connection:
            row = owned(connection, user, id, lock=True)
            check_room(connection, id, 1)
            after = row["leaf"] if isinstance(parent, _Leaf) else parent
            if after is not None and one_message(connection, id, after).status == "running":
                raise ConflictError("the reply before it is still being written: wait for it, or stop it")
            blocked = notice is not None and notice["action"] == "block"
            asked = Message(
                new_id(),
                id,
                after,
                "user",
                content,
                "blocked" if blocked else "done",
                created=time.time(),
                notice=notice,
            )
            connection.execute(insert(messages).values(**row_of(asked)))
            search.add(connection, id, {asked.id: content})
            title = row["title"] or title_of(content)
            if title != row["title"]:
                _title(connection, id, title)
            connection.execute(update(conversations).where(conversations.c.id == id).values(title=title))
            if blocked and notice is not None:
                return asked, refuse_within(connection, asked, notice)
            model = row["settings"]["model"]
            return asked, self.replies.begin_within(connection, id, asked.id, model)

    def mark(self, user: str, id: str, message: str, **new: Any) -> Message:
        """Sets `feedback` (1, -1 or None), `note` or `pinned` of a message.

        Raises:
            NotFoundError: there is no such conversation or message.
            ConversationError: a value that is none of these, or feedback on what is no reply.
        """
        if new.get("feedback") not in (1, -1, None):
            raise ConversationError(f"feedback is {new['feedback']!r}; it must be 1, -1 or null")
        if "note" in new:
            checked_text(new["note"], "the note", LONGEST_NOTE)
        if "pinned" in new:
            new["pinned"] = int(bool(new["pinned"]))
        with self.database.writing() as connection:
            owned(connection, user, id, lock=True)
            if one_message(connection, id, message).role != "assistant" and new.get("feedback") is not None:
                raise ConversationError("feedback is about replies; this message is the user's")
            if new:
                connection.execute(update(messages).where(messages.c.id == message).values(**new))
            return one_message(connection, id, message)

    def remove(self, user: str, id: str, message: str) -> tuple[list[str], str | None]:
        """Deletes a message and all that follow it.

        Returns:
            The ids of what was deleted, and the leaf that is shown now: where it was deleted, the newest beside it.

        Raises:
            NotFoundError: there is no such conversation or message.
        """
        with self.database.writing() as connection:
            row = owned(connection, user, id, lock=True)
            tree = Tree.of(connection, id)
            gone, leaf = tree.below(message), row["leaf"]
            left = tree.without(gone)
            if leaf in set(gone):
                leaf = left.newest_leaf(tree.parents[message])
                connection.execute(update(conversations).where(conversations.c.id == id).values(leaf=leaf))
            for part in in_parts(gone[::-1]):  # the youngest first: no message is without its parent at any moment
                search.remove(connection, texts.c.message.in_(part))
                connection.execute(delete(messages).where(messages.c.id.in_(part)))
        return gone, leaf

    # summaries

    def summaries(self, path: Sequence[Message]) -> dict[str, str]:
        """The summaries there are of the conversation up to messages of this path, by the message."""
        found: dict[str, str] = {}
        with self.database.reading() as connection:
            for part in in_parts([message.id for message in path]):
                asked = select(summaries.c.message, summaries.c.text).where(summaries.c.message.in_(part))
                found |= {row.message: row.text for row in connection.execute(asked)}
        return found

    def summarize(self, user: str, id: str, message: str, summary: str, model: str) -> None:
        """Keeps a summary of the conversation up to and with a message.

        Raises:
            NotFoundError: there is no such conversation or message any more.
        """
        with self.database.writing() as connection:
            owned(connection, user, id, lock=True)
            one_message(connection, id, message)
            connection.execute(delete(summaries).where(summaries.c.message == message))
            row = {"message": message, "text": summary, "model": model, "created": time.time()}
            connection.execute(insert(summaries).values(**row))


def _insert(connection: Connection, user: str, whole: Conversation) -> None:
    connection.execute(
        insert(conversations).values(
            id=whole.id,
            owner=user,
            title=whole.title,
            settings=whole.settings.to_dict(),
            leaf=whole.leaf,
            created=whole.created,
            updated=whole.updated,
        )
    )
    if whole.title:
        search.add(connection, whole.id, {None: whole.title})
    for part in in_parts(whole.messages):
        connection.execute(insert(messages), [row_of(message) for message in part])
        search.add(connection, whole.id, {message.id: message.content for message in part})


def _renamed(whole: Conversation) -> Conversation:
    """The same under new ids; a reply that was being written is a broken-off one in the copy."""
    id, names = new_id(), {message.id: new_id() for message in whole.messages}
    copies = [
        replace(
            message,
            id=names[message.id],
            conversation=id,
            parent=None if message.parent is None else names[message.parent],
            status="interrupted" if message.status == "running" else message.status,
        )
        for message in whole.messages
    ]
    return replace(whole, id=id, leaf=None if whole.leaf is None else names[whole.leaf], messages=tuple(copies))


def _title(connection: Connection, id: str, title: str) -> None:
    search.remove(connection, and_(texts.c.conversation == id, texts.c.message.is_(None)))
    if title:
        search.add(connection, id, {None: title})

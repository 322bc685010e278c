"""Replies while they are written: every piece is stored before it is shown, so that a crash loses none that was seen.

A reply begins as an empty message with the status "running" and the number of the process that writes it. Pieces are
rows of their own (a growing text would be written anew with each of them) until the end joins them into the message.
What is left of a dead process, `recover` joins: such a reply is "interrupted", and keeps all it had said.

Whoever deletes a running reply, or ends it from another process, needs to tell nobody: the writer finds at its next
piece that the reply is no longer its own (`append`), and stops.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from penjing.serving.conversations import search
from penjing.serving.conversations.database import Database
from penjing.serving.conversations.errors import ConflictError, ConversationError
from penjing.serving.conversations.records import Message, Status
from penjing.serving.conversations.rows import check_room, details_of, new_id, one_message, owned, row_of, said_so_far
from penjing.serving.conversations.schema import conversations, messages, pieces

MOST_RUNNING = 4
"""Replies that may be written to one conversation at once."""


class StoredReplies:
    """What is kept of replies that are being written."""

    def __init__(self, database: Database):
        self._database = database

    def begin(self, user: str, id: str, parent: str, model: str | None) -> Message:
        """A new, empty reply to the message `parent`; its branch is then the one shown.

        Raises:
            NotFoundError: there is no such conversation or message.
            ConflictError: too many replies are being written to this conversation, or `parent` is one of them.
            ConversationError: `parent` is a reply, or there are too many messages.
        """
        self._database.renew()
        with self._database.writing() as connection:
            owned(connection, user, id, lock=True)
            return self.begin_within(connection, id, parent, model)

    def begin_within(self, connection: Connection, id: str, parent: str, model: str | None) -> Message:
        """As `begin`, in a transaction that has locked the conversation."""
        question = one_message(connection, id, parent)
        if question.role != "user":
            raise ConversationError("only the user's messages are replied to")
        if question.status == "blocked":
            raise ConflictError("this message was blocked; say it in another way")
        check_room(connection, id, 1)
        running = select(messages.c.id).where(messages.c.conversation == id, messages.c.status == "running")
        if len(connection.execute(running).all()) >= MOST_RUNNING:
            raise ConflictError(f"{MOST_RUNNING} replies are being written to this conversation: wait, or stop one")
        reply = Message(new_id(), id, parent, "assistant", "", "running", model, created=time.time())
        _put(connection, reply, self._database.server)
        return reply

    def append(self, said: Mapping[str, str]) -> set[str]:
        """Adds pieces to replies that this process writes.

        Args:
            said: what each of them said, by its id.

        Returns:
            Those that are still running here; the others were ended or deleted by someone, and get nothing more.
        """
        with self._database.writing(durable=False) as connection:
            ours = select(messages.c.id).where(
                messages.c.id.in_(list(said)),
                messages.c.status == "running",
                messages.c.server == self._database.server,
            )
            running = set(connection.execute(ours.with_for_update(read=True, key_share=True)).scalars())
            rows = [{"message": id, "text": text} for id, text in said.items() if id in running and text]
            if rows:
                connection.execute(insert(pieces), rows)
        return running

    def finish(
        self,
        id: str,
        *,
        content: str,
        status: Status = "done",
        model: str | None = None,
        usage: Mapping[str, Any] | None = None,
        tool_calls: Sequence[Mapping[str, Any]] = (),
        turn: Sequence[Mapping[str, Any]] = (),
        notice: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> Message | None:
        """Ends a reply of this process.

        Returns:
            It as it is stored, or None where someone else ended or deleted it before.
        """
        with self._database.writing() as connection:
            new: dict[str, Any] = {
                "content": content,
                "status": status,
                "server": None,
                "usage": None if usage is None else dict(usage),
                "details": details_of(tool_calls, turn, notice, error),
            }
            if model is not None:
                new["model"] = model
            return _end(connection, id, self._database.server, new)

    def interrupt(self, user: str, id: str, message: str, why: str | None = None) -> Message:
        """Ends a reply that another process writes, or that nobody does; it keeps what it has said.

        Raises:
            NotFoundError: there is no such conversation or message.
        """
        with self._database.writing() as connection:
            owned(connection, user, id)
            _end(connection, message, None, {"status": "interrupted", "server": None, "details": _why(why)})
            return one_message(connection, id, message)

    def recover(self, also: Sequence[str] = ()) -> int:
        """Ends the replies of processes that are no more; returns how many.

        Args:
            also: replies of this process that it does not write any more: their end could not be stored.
        """
        with self._database.reading() as connection:
            asked = select(messages.c.id, messages.c.server).where(messages.c.status == "running")
            running = connection.execute(asked).all()
        dead = {server for server in {server for _, server in running} if not self._database.alive(server)}
        ended = 0
        for id, server in running:
            if server in dead or (id in also and server == self._database.server):
                why = "the server stopped" if server in dead else "its end could not be stored"
                with self._database.writing() as connection:
                    new = {"status": "interrupted", "server": None, "details": _why(why)}
                    ended += _end(connection, id, server, new) is not None
        return ended


def _end(connection: Connection, id: str, server: int | None, new: dict[str, Any]) -> Message | None:
    """Ends a running reply (of this server, where one is named); None where there is none."""
    which = [messages.c.id == id, messages.c.status == "running"]
    if server is not None:
        which.append(messages.c.server == server)
    found = connection.execute(select(messages.c.conversation).where(*which)).scalar()
    if found is None:
        return None
    # the conversation first, as everyone does: two who wait for one another's row would wait for ever
    connection.execute(select(conversations.c.id).where(conversations.c.id == found).with_for_update())
    if connection.execute(select(messages.c.id).where(*which).with_for_update()).first() is None:
        return None
    content = new.get("content")
    if content is None:
        content = said_so_far(connection, id)
    connection.execute(update(messages).where(messages.c.id == id).values(**new | {"content": content}))
    connection.execute(delete(pieces).where(pieces.c.message == id))
    connection.execute(update(conversations).where(conversations.c.id == found).values(updated=time.time()))
    search.add(connection, found, {id: content})
    return one_message(connection, found, id)


def _put(connection: Connection, reply: Message, server: int | None) -> None:
    """A new reply; its branch is then the one shown."""
    connection.execute(insert(messages).values(**row_of(reply) | {"server": server}))
    shown = {"leaf": reply.id, "updated": reply.created}
    connection.execute(update(conversations).where(conversations.c.id == reply.conversation).values(**shown))


def refuse_within(connection: Connection, question: Message, notice: Mapping[str, Any]) -> Message:
    """A reply to a blocked message: what the policy says, in a transaction that has locked the conversation."""
    said = notice["message"] or notice["help"] or ""
    reply = Message(
        new_id(),
        question.conversation,
        question.id,
        "assistant",
        said,
        "blocked",
        created=time.time(),
        notice=notice,
    )
    _put(connection, reply, None)
    search.add(connection, question.conversation, {reply.id: said})
    return reply


def _why(reason: str | None) -> dict[str, Any] | None:
    return details_of((), (), None, reason)

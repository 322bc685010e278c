"""Thumbs as data that a model learns from: `penjing.data.preferences` reads what is written here.

    pairs     {"prompt": [...], "chosen": [...], "rejected": [...]}
              of two replies to one message, one liked and one not: for a reward model, DPO, PPO
    judged    {"messages": [..., the reply], "label": true}
              each reply by itself: for KTO

Only what the user said counts: a reply without a thumb is not taken for a worse one. Replies that broke off or were
blocked are left out; they say nothing about the model.
"""

from collections.abc import Iterator
from typing import Any, Literal

from sqlalchemy import select

from penjing.serving.conversations.errors import NotFoundError
from penjing.serving.conversations.records import Conversation, Message
from penjing.serving.conversations.schema import conversations, messages
from penjing.serving.conversations.spoken import spoken
from penjing.serving.conversations.store import Store

Kind = Literal["pairs", "judged"]


def exported(store: Store, user: str, kind: Kind = "pairs") -> Iterator[dict[str, Any]]:
    """The preferences of a user, a conversation at a time, the oldest first."""
    with store.database.reading() as connection:
        asked = (
            select(conversations.c.id)
            .join(messages, messages.c.conversation == conversations.c.id)
            .where(conversations.c.owner == user, messages.c.feedback.is_not(None))
            .group_by(conversations.c.id, conversations.c.created)
            .order_by(conversations.c.created, conversations.c.id)
        )
        ids = list(connection.execute(asked).scalars())
    for id in ids:
        try:
            whole = store.get(user, id)
        except NotFoundError:  # deleted meanwhile
            continue
        yield from _pairs(whole) if kind == "pairs" else _judged(whole)


def _pairs(whole: Conversation) -> Iterator[dict[str, Any]]:
    rated = _rated(whole)
    for good in rated:
        for bad in rated:
            if good.feedback == 1 and bad.feedback == -1 and good.parent == bad.parent:
                yield {"prompt": _prompt(whole, good), "chosen": spoken(good), "rejected": spoken(bad)}


def _judged(whole: Conversation) -> Iterator[dict[str, Any]]:
    for reply in _rated(whole):
        yield {"messages": [*_prompt(whole, reply), *spoken(reply)], "label": reply.feedback == 1}


def _rated(whole: Conversation) -> list[Message]:
    return [one for one in whole.messages if one.feedback is not None and one.status == "done" and spoken(one)]


def _prompt(whole: Conversation, reply: Message) -> list[Any]:
    system = [{"role": "system", "content": whole.settings.system}] if whole.settings.system else []
    before = [one for one in whole.path(reply.id)[:-1] if one.status != "blocked"]
    return [*system, *(said for message in before for said in spoken(message))]

"""A conversation is a tree: what is above a message, what is below it, and which branch is shown.

    question ── reply ── question ── reply          editing a message or asking for another reply makes a sibling,
             └─ reply    └─ question (edited)       so nothing that was said is ever overwritten

The branch that is shown is named by its last message, the leaf. Nodes come with a position, which grows with age; a
child is always younger than its parent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from penjing.serving.conversations.errors import NotFoundError
from penjing.serving.conversations.schema import messages


@dataclass(frozen=True)
class Tree:
    """Which message follows which; `parents` in the order of their age."""

    parents: dict[str, str | None]

    @classmethod
    def of(cls, connection: Connection, conversation: str) -> "Tree":
        """The tree of a conversation."""
        rows = connection.execute(
            select(messages.c.id, messages.c.parent)
            .where(messages.c.conversation == conversation)
            .order_by(messages.c.position)
        )
        return cls({row.id: row.parent for row in rows})

    def below(self, top: str) -> list[str]:
        """A message and all that follow it, the oldest first.

        Raises:
            NotFoundError: it is not of this tree.
        """
        if top not in self.parents:
            raise NotFoundError("there is no such message in this conversation")
        found = {top}
        for id, parent in self.parents.items():  # in order of age: a parent is seen before its children
            if parent in found:
                found.add(id)
        return [id for id in self.parents if id in found]

    def above(self, id: str) -> list[str]:
        """The messages from the first one to this one.

        Raises:
            NotFoundError: it is not of this tree.
        """
        if id not in self.parents:
            raise NotFoundError("there is no such message in this conversation")
        path = [id]
        while (parent := self.parents[path[-1]]) is not None:
            path.append(parent)
        return path[::-1]

    def newest_leaf(self, top: str | None = None) -> str | None:
        """The youngest message without children at or below `top` (None: of all); None where there is no message."""
        having = set(self.parents.values())
        among: Sequence[str] = list(self.parents) if top is None else self.below(top)
        return next((id for id in reversed(among) if id not in having), None)

    def without(self, gone: Sequence[str]) -> "Tree":
        """The tree without these messages."""
        out = set(gone)
        return Tree({id: parent for id, parent in self.parents.items() if id not in out})

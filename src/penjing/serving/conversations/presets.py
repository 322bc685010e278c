"""Presets: a user's named system prompts and settings, for new conversations to begin with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, insert, select

from penjing.serving.conversations.database import Database
from penjing.serving.conversations.errors import ConversationError, NotFoundError
from penjing.serving.conversations.records import (
    LONGEST_NAME,
    LONGEST_SYSTEM,
    MOST_PRESETS,
    checked_sampling,
    checked_text,
)
from penjing.serving.conversations.schema import presets


@dataclass(frozen=True)
class Preset:
    """A system prompt and settings under a name."""

    name: str
    system: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"name": self.name, "system": self.system, "sampling": dict(self.sampling)}


class Presets:
    """The presets of all users."""

    def __init__(self, database: Database):
        self._database = database

    def of(self, user: str) -> list[Preset]:
        """A user's presets, in the order in which they were put."""
        with self._database.reading() as connection:
            asked = select(presets.c.name, presets.c.body).where(presets.c.owner == user).order_by(presets.c.place)
            return [Preset(name, body["system"], body["sampling"]) for name, body in connection.execute(asked)]

    def get(self, user: str, name: str) -> Preset:
        """A user's preset of that name.

        Raises:
            NotFoundError: there is none.
        """
        for preset in self.of(user):
            if preset.name == name:
                return preset
        raise NotFoundError(f"there is no preset '{name[:LONGEST_NAME]}'")

    def put(self, user: str, new: Sequence[Preset]) -> list[Preset]:
        """Replaces all presets of a user.

        Raises:
            ConversationError: there are too many, two of one name, or one that cannot be used; then nothing changes.
        """
        if len(new) > MOST_PRESETS:
            raise ConversationError(f"there are {len(new)} presets; {MOST_PRESETS} is the most")
        for preset in new:
            if not checked_text(preset.name, "a preset's name", LONGEST_NAME).strip():
                raise ConversationError("a preset has no name")
            checked_text(preset.system, f"the system prompt of preset '{preset.name}'", LONGEST_SYSTEM)
        if len({preset.name for preset in new}) < len(new):
            raise ConversationError("two presets have the same name")
        rows = [
            {
                "owner": user,
                "name": preset.name,
                "place": place,
                "body": {"system": preset.system, "sampling": dict(checked_sampling(preset.sampling))},
            }
            for place, preset in enumerate(new)
        ]
        with self._database.writing() as connection:
            connection.execute(delete(presets).where(presets.c.owner == user))
            if rows:
                connection.execute(insert(presets), rows)
        return self.of(user)

"""The skills of the world: one module each, which makes quizzes and may have a checker of its own."""

from functools import cache
from importlib import import_module
from typing import Protocol

from penjing.data.world.items import Item, Skill
from penjing.data.world.quiz import Quiz
from penjing.data.world.scene import Scene
from penjing.errors import DataError, nearest

_EASY = ("facts", "reading", "location", "dialogue", "compare", "sequence", "tools", "refusal")
_HARD = ("arithmetic", "translation", "counting", "objects", "deduction", "words", "calendar", "instructions")


class SkillModule(Protocol):
    """What a skill's module offers."""

    SKILL: Skill

    def quiz(self, scene: Scene, questions: int) -> Quiz:
        """Something told and up to `questions` questions about it (at least one)."""

    def check(self, item: Item, answer: str) -> bool:
        """Only where answers are open: whether this one obeys the item's rule."""


@cache
def modules() -> dict[str, SkillModule]:
    """Every skill's module by its name, the easier half first."""
    return {name: import_module(f"{__name__}.{name}") for name in _EASY + _HARD}


def module(name: str) -> SkillModule:
    """The module of one skill, or a DataError that suggests the nearest name."""
    found = modules().get(name)
    if found is None:
        raise DataError(f"the world has no skill '{name}'{nearest(name, modules())}")
    return found

"""A quiz: something told, and questions about it with their exact answers.

Each skill makes quizzes; from the same quiz comes a dialogue (told by the user, answered by the assistant) or a
piece of running text, so what is read in pretraining is what is asked later.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from penjing.data.world.items import Message


@dataclass(slots=True)
class Question:
    """A question, its right answers (the canonical one first) and the candidates that a guesser would draw from."""

    text: str
    accepts: tuple[str, ...]
    options: tuple[str, ...] = ()
    difficulty: int = 1
    rule: dict[str, str] = field(default_factory=dict)
    before: tuple[Message, ...] = ()
    """Turns between this question and its answer: a tool call and its result."""
    steps: tuple[str, ...] = ()
    """Sentences that lead to the answer, said before it. Each follows from what stands just before it, so that whoever
    writes them down never has to go two ways at once in the head (Wei et al., 2022, arXiv:2201.11903)."""

    def worked(self, space: str) -> str:
        """The canonical answer with its steps; `space` is what stands between sentences."""
        return space.join([*self.steps, self.accepts[0]])


@dataclass(slots=True)
class Quiz:
    """What is told first (may be empty) and the questions in order."""

    told: str
    questions: list[Question]
    together: bool = True
    """Whether the told text and the first question are one message (else the told text gets a reply of its own)."""
    reply: str = ""
    """The reply to what is told, where it stands alone."""


def different(make: Callable[[], Question | None], count: int) -> list[Question]:
    """At least one and up to `count` questions with different answers; fewer where no more are found soon."""
    found: dict[str, Question] = {}
    tries = 0
    while len(found) < count and (not found or tries < 3 * count):
        tries += 1
        question = make()
        if question is not None:
            found.setdefault(question.accepts[0], question)
    return list(found.values())

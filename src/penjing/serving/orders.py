"""What a server asks of an engine, and what the engine tells it; the same whether it is in a thread or in a process.

    asked     Ask(key, question)   Cancel(key)   Do(key, work, arguments)        lists of these, in their order
    told      (key, Begun)   (key, Token) ...   (key, Done)   (key, exception)   lists of these, one a pass

A key is a number that the server gives; a token with a reason, `Done` or an exception is the last that is told of it.
All of it can be written as JSON (`wire`): no function but by its name, no object of the model's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from penjing.inference.engine.request import Token
from penjing.inference.sampling import Sampling
from penjing.serving.constraints import Shape

CLOSED = "the model is being closed"

Scores = Sequence[tuple[float, tuple[tuple[int, float], ...]]]


@dataclass(frozen=True)
class Question:
    """A request for text, as of `Engine.add`."""

    prompt: tuple[int, ...]
    sampling: Sampling
    stop_ids: frozenset[int] = frozenset()
    shape: Shape | None = None
    """What the text must be."""
    sample: int = 0
    prompt_logprobs: bool = False


@dataclass(frozen=True)
class Ask:
    """Asks for text."""

    key: int
    question: Question


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for it any more."""

    key: int


@dataclass(frozen=True)
class Do:
    """Asks for other work with the model, between two passes: `work(model, tokenizer, **arguments)`."""

    key: int
    work: Callable[..., Any]
    """A function at the top of one of Penjing's modules; what it gives can be written as JSON."""
    arguments: Mapping[str, Any]


Order = Ask | Cancel | Do


@dataclass(frozen=True)
class Begun:
    """That a text's first token comes next, and what is known of its prompt."""

    cached: int
    """Tokens of the prompt that were remembered."""
    prompt_logprobs: Scores | None = None


@dataclass(frozen=True)
class Done:
    """What some work gave."""

    result: Any


Item = Begun | Token | Done | BaseException
News = Sequence[tuple[int, Item]]
Tell = Callable[[News], None]
"""Is called in the engine's own thread, or one that reads from its process."""


class Host(Protocol):
    """Where an engine is."""

    def send(self, orders: Sequence[Order]) -> None:
        """Asks; never waits.

        Raises:
            BackendError: it is closed, or cannot serve any more.
        """

    @property
    def fault(self) -> str | None:
        """Why it cannot serve any more, or None."""

    def figures(self) -> dict[str, float]:
        """What is known of the engine now, by name; empty where there is none."""

    def close(self) -> None:
        """Ends it; whoever still waits is told so."""


def last(item: Item) -> bool:
    """Whether nothing follows it."""
    return not isinstance(item, Begun) and (not isinstance(item, Token) or item.reason is not None)

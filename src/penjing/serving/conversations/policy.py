"""What conversations ask of a safety policy (`penjing.serving.safety`), where the server has one."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol


class Decision(Protocol):
    """What a policy says about a text."""

    @property
    def action(self) -> Literal["allow", "log", "warn", "redact", "block"]:
        """What is to be done."""

    @property
    def text(self) -> str:
        """The text, what must not be told taken out."""

    @property
    def reasons(self) -> Sequence[Any]:
        """Why."""

    @property
    def help(self) -> str | None:
        """What the user should be told."""


class Filter(Protocol):
    """Checks a text that comes in pieces."""

    def push(self, piece: str) -> Iterable[Any]:
        """What may be shown now (texts), and what was decided on the way (`Decision`)."""

    def flush(self) -> Iterable[Any]:
        """The same, at the end."""


class Policy(Protocol):
    """What may be said."""

    def check(
        self, text: str, where: Literal["input", "output", "tool"], *, user: str = "", context: str = ""
    ) -> Decision:
        """Decides on a whole text."""

    def stream(self, *, user: str = "") -> Filter:
        """Decides on a reply while it comes."""


class _Unfiltered:
    def push(self, piece: str) -> Iterable[Any]:
        return (piece,)

    def flush(self) -> Iterable[Any]:
        return ()


def unfiltered() -> Filter:
    """Lets everything pass."""
    return _Unfiltered()


def notice_of(decision: Decision) -> dict[str, Any] | None:
    """A decision as the page shows it; None where there is nothing to show."""
    if decision.action in ("allow", "log"):
        return None
    return {
        "action": decision.action,
        "reasons": [str(reason) for reason in decision.reasons],
        "help": decision.help,
    }

"""What conversations ask of a safety policy (`penjing.serving.safety`), where the server has one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

from penjing.serving.conversations.errors import ConversationError
from penjing.serving.conversations.records import Conversation, Settings


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
        """Whom someone who may hurt themselves can turn to."""

    @property
    def message(self) -> str:
        """What the user is told where a text is blocked."""


class Filter(Protocol):
    """Checks a text that comes in pieces."""

    def push(self, piece: str) -> Iterable[Any]:
        """What may be shown now (texts), and what was decided on the way (`Decision`)."""

    def flush(self) -> Iterable[Any]:
        """The same, at the end."""


class Policy(Protocol):
    """What may be said."""

    @property
    def moderator(self) -> object | None:
        """A classifier, with which a check takes its time."""

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
        "message": decision.message,
    }


def checked(policy: Policy | None, text: str, user: str) -> tuple[str, dict[str, Any] | None]:
    """What a user says without what must not be told, and what the policy says to it; a blocked text stays as it is."""
    if policy is None or not text:
        return text, None
    decision = policy.check(text, "input", user=user)
    return decision.text if decision.action == "redact" else text, notice_of(decision)


def checked_settings(policy: Policy | None, settings: Settings, user: str) -> Settings:
    """Settings whose system prompt the policy has seen: it is the user's word to the model, too.

    Raises:
        ConversationError: it is blocked.
    """
    system, notice = checked(policy, settings.system, user)
    if notice is not None and notice["action"] == "block":
        raise ConversationError(f"the system prompt is refused: {notice['message'] or ', '.join(notice['reasons'])}")
    return replace(settings, system=system)


def checked_whole(policy: Policy | None, whole: Conversation, user: str) -> Conversation:
    """A conversation that comes from elsewhere, as if its user's messages had been said here.

    Raises:
        ConversationError: its system prompt is blocked.
    """
    if policy is None:
        return whole
    messages = []
    for message in whole.messages:
        if message.role == "user":
            content, notice = checked(policy, message.content, user)
            blocked = notice is not None and notice["action"] == "block"
            status = "blocked" if blocked else message.status
            message = replace(message, content=content, status=status, notice=notice or message.notice)
        messages.append(message)
    return replace(whole, settings=checked_settings(policy, whole.settings, user), messages=tuple(messages))

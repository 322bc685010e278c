"""Conversations and messages as values, and how large each part of them may be."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from penjing.errors import GenerationError, nearest
from penjing.inference.sampling import Sampling
from penjing.serving.conversations.errors import ConversationError, TooLargeError

LONGEST_CONTENT = 1 << 18
"""Characters of a message; a reply that grows longer is stopped."""
LONGEST_TITLE = 200
LONGEST_NOTE = 2_000
LONGEST_SYSTEM = 1 << 15
LONGEST_NAME = 100
"""Characters of a model's or preset's name."""
MOST_MESSAGES = 10_000
"""Messages of one conversation, all branches together."""
MOST_PRESETS = 100

_SHORT_TITLE = 60
_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_new_tokens",
    "stop",
    "seed",
)

Status = Literal["done", "running", "interrupted", "blocked"]
"""running: a reply is being written; interrupted: it broke off or was stopped; blocked: the policy refused it."""
STATUSES: tuple[Status, ...] = ("done", "running", "interrupted", "blocked")


@dataclass(frozen=True)
class Settings:
    """How the model is to answer in a conversation."""

    model: str | None = None
    """Its name; None: the server's default."""
    system: str = ""
    """What the model is told before the first message."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `Sampling`, by name."""
    context: Literal["trim", "summary"] = "trim"
    """What becomes of turns for which there is no more room: they are left out, or summarized by the model."""

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "Settings":
        """Settings out of JSON.

        Raises:
            ConversationError: a key or value that is not known; the message names it.
        """
        known = [setting.name for setting in fields(cls)]
        for key in value:
            if key not in known:
                raise ConversationError(f"there is no setting '{key}'{nearest(key, known)}")
        made = cls(
            model=value.get("model"),
            system=value.get("system") or "",
            sampling=dict(checked_sampling(value.get("sampling") or {})),
            context=value.get("context") or "trim",
        )
        if made.model is not None:
            checked_text(made.model, "the model's name", LONGEST_NAME)
        checked_text(made.system, "the system prompt", LONGEST_SYSTEM)
        if made.context not in ("trim", "summary"):
            raise ConversationError(f"context is {made.context!r}; it must be 'trim' or 'summary'")
        return made

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "model": self.model,
            "system": self.system,
            "sampling": dict(self.sampling),
            "context": self.context,
        }

    def how(self, defaults: Sampling) -> Sampling:
        """As the engine takes it; what is left open is as the model prefers."""
        return Sampling.of(defaults, **self.sampling)


@dataclass(frozen=True)
class Message:
    """A message in the tree of a conversation."""

    id: str
    conversation: str
    parent: str | None
    """The message that it answers or follows; None: it is a first one."""
    role: Literal["user", "assistant"]
    content: str
    status: Status = "done"
    model: str | None = None
    """Which model wrote it."""
    usage: Mapping[str, Any] | None = None
    """What it cost: tokens and seconds."""
    feedback: Literal[1, -1] | None = None
    note: str = ""
    """What the user wrote about it."""
    pinned: bool = False
    """Whether its turn stays in the model's context when older ones are left out."""
    created: float = 0.0
    """Seconds since 1970."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """`{"id", "name", "arguments", "result"}` of each call of a tool, in order."""
    turn: tuple[Mapping[str, Any], ...] = ()
    """The reply as the model's messages, where tools were called in it."""
    notice: Mapping[str, Any] | None = None
    """What the policy said: `{"action", "reasons", "help", "message"}`."""
    error: str | None = None
    """Why the reply broke off."""

    def to_dict(self) -> dict[str, Any]:
        """As the page gets it, but for `html`."""
        value = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        del value["conversation"], value["turn"]
        return value | {"tool_calls": [dict(call) for call in self.tool_calls]}


@dataclass(frozen=True)
class Conversation:
    """A conversation with all branches of its tree."""

    id: str
    title: str
    settings: Settings
    leaf: str | None
    """The last message of the branch that is shown; it has no children."""
    created: float
    updated: float
    messages: tuple[Message, ...] = ()
    """In the order in which they came; a parent is before its children."""

    def path(self, to: str | None = None) -> list[Message]:
        """The messages from the first one to `to` (by default to the leaf)."""
        by_id = {message.id: message for message in self.messages}
        found: list[Message] = []
        place = to or self.leaf
        while place is not None:
            found.append(by_id[place])
            place = by_id[place].parent
        return found[::-1]


def title_of(content: str) -> str:
    r"""A title for a conversation that begins with this: its first line, cut at a word.

    >>> title_of("\n  How do magnets work?\nThanks")
    'How do magnets work?'
    """
    line = next((line.strip() for line in content.splitlines() if line.strip()), "")
    if len(line) <= _SHORT_TITLE:
        return line
    cut = line[:_SHORT_TITLE]
    return (cut.rsplit(" ", 1)[0] if " " in cut[_SHORT_TITLE // 2 :] else cut) + "…"


def checked_title(title: Any) -> str:
    """A title as it is kept: one line.

    Raises:
        ConversationError: as of `checked_text`.
    """
    return " ".join(checked_text(title, "the title", LONGEST_TITLE).split())


def checked_text(text: Any, what: str, longest: int) -> str:
    """A text that any database can store.

    Raises:
        TooLargeError: it is longer than `longest` characters.
        ConversationError: it is no text, or holds a NUL or half a surrogate pair.
    """
    if not isinstance(text, str):
        raise ConversationError(f"{what} is of type {type(text).__name__}, not a text")
    if len(text) > longest:
        raise TooLargeError(f"{what} has {len(text):,} characters; {longest:,} is the most")
    if "\0" in text:
        raise ConversationError(f"{what} holds a NUL character (at {text.index(chr(0)):,}), which is no text")
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise ConversationError(f"{what} holds half a surrogate pair (at {fault.start:,}), which is no text") from None
    return text


def storable(text: str) -> str:
    """What a model wrote, without what no database takes: NULs and half surrogates become U+FFFD."""
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def checked_sampling(value: Any) -> Mapping[str, Any]:
    """Settings of `Sampling` that a user may choose; those that are null are left out.

    Raises:
        ConversationError: one is unknown or out of its range; the message names it.
    """
    if not isinstance(value, Mapping):
        raise ConversationError(f"sampling is of type {type(value).__name__}, not an object")
    for key in value:
        if key not in _SAMPLING:
            raise ConversationError(f"there is no setting '{key}' of sampling{nearest(str(key), _SAMPLING)}")
    chosen = {key: given for key, given in value.items() if given is not None}
    for text in [chosen["stop"]] if isinstance(chosen.get("stop"), str) else chosen.get("stop") or []:
        checked_text(text, "a stop string", LONGEST_TITLE)
    try:
        Sampling.of(**chosen)
    except (GenerationError, TypeError, OverflowError) as fault:
        raise ConversationError(f"sampling: {fault}") from None
    return chosen


def folded(text: str) -> str:
    """A text as it is searched: without regard to case and to full or half width.

    >>> folded("Ｓtraße")
    'strasse'
    """
    return unicodedata.normalize("NFKC", text).casefold()

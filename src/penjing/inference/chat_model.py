"""ChatModel: the one door between applications and models. Messages in, a stream of pieces out.

    for piece in model.stream([{"role": "user", "content": "What is 37 * 48?"}], Sampling(temperature=0)):
        match piece:
            case Text(text): print(text, end="")           # shown as it comes
            case ToolCall(): ...                           # the model asked for a tool
            case ToolResult(): ...                         # and was told this
            case End(reason, usage, messages): ...         # always the last piece

An application knows nothing of how the answer is made: by a model in this process (`LocalChatModel`), by an engine that
serves many conversations, or by a server elsewhere. What they share is these types, and these promises:

- text pieces joined are the text of the answer; no piece holds half a character or part of a tag or stop string;
- every `ToolCall` that the model's owner can run is followed by its `ToolResult`; the answer then goes on by itself;
- a call that only the application can run (`Tool.run` is None) ends the answer with the reason "tool_calls";
- `End.messages` are what to append to the conversation, so that the next request goes on from here;
- closing the iterator stops the work.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from penjing.errors import GenerationError, nearest
from penjing.inference.sampling import Sampling
from penjing.inference.tools import Tool, ToolCall, ToolResult

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message

__all__ = ["ROLES", "ChatModel", "End", "Piece", "Text", "Tool", "ToolCall", "ToolResult", "Usage", "check_messages"]

ROLES = ("system", "user", "assistant", "tool")
"""Who may speak in a conversation."""


@dataclass(frozen=True)
class Text:
    """Some more of the answer, to be shown."""

    text: str


@dataclass(frozen=True)
class Usage:
    """What an answer cost, in tokens; rounds of tool calls add up."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """How many of the prompt's tokens were remembered from an earlier request and not processed again."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True)
class End:
    """The end of an answer."""

    reason: Literal["stop", "length", "tool_calls"]
    """"stop": the model ended its turn, or a stop string came; "length": max_new_tokens, the context, or the rounds of
    tool calls are used up; "tool_calls": the application has to run the calls and tell their results."""
    usage: Usage
    messages: "tuple[Message, ...]"
    """The answer as messages: the assistant's, with any tool's between them."""


Piece = Text | ToolCall | ToolResult | End


class ChatModel(Protocol):
    """Anything that answers conversations."""

    @property
    def name(self) -> str:
        """What the model is called."""

    def stream(
        self, messages: "Sequence[Message]", sampling: Sampling = ..., tools: Sequence[Tool] | None = None
    ) -> Iterator[Piece]:
        """Answers a conversation.

        Args:
            messages: the conversation, its last message the user's or a tool's.
            sampling: how tokens are chosen, and how many at most.
            tools: what the model may call; it is told of them.

        Raises:
            GenerationError: the conversation cannot be answered (the last message alone is longer than the context, a
                role is unknown, the model knows no chat); raised by the call, not by the iterator.
        """


def check_messages(messages: "Sequence[Message]") -> None:
    """Refuses what is no conversation, for every `ChatModel.stream` to begin with.

    Raises:
        GenerationError: there is no message, or one has no role or none that is known.
    """
    if not messages:
        raise GenerationError("there is no message to answer")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message:
            raise GenerationError(f"message {number} is not an object with a role: {str(message)[:80]!r}")
        if message["role"] not in ROLES:
            raise GenerationError(
                f"message {number} has the role {message['role']!r}{nearest(str(message['role']), ROLES)}"
            )

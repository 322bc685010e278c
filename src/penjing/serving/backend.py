"""What the server's parts ask of a model, wherever it runs: here, or behind another server's API.

    backend = await backends.get("tiny-chat")
    pieces = backend.answer(Ask([{"role": "user", "content": "Hi"}], Sampling(temperature=0)))
    async for piece in pieces:
        match piece:
            case Text(text): ...                    # some more of the answer
            case Chosen(): ...                      # what the next text was chosen from, where that was asked for
            case ToolCall() | ToolResult(): ...     # as of `inference.chat_model`
            case End(reason, usage, messages): ...  # always the last
    await pieces.aclose()                           # at any moment: the work stops and its memory is free

The pieces are those of `ChatModel`; here they come asynchronously, so that one thread serves every client. Nothing has
begun before the first step of the iterator: whatever is wrong with the question is raised there, before any piece.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from penjing.errors import GenerationError, PenjingError
from penjing.inference.chat_model import End, Text, Tool, ToolCall, ToolResult, Usage
from penjing.inference.sampling import DEFAULT, Sampling

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message

__all__ = [
    "Alternative",
    "Ask",
    "Backend",
    "BackendError",
    "Backends",
    "Chosen",
    "Continuation",
    "Embedder",
    "End",
    "JsonShape",
    "Named",
    "Piece",
    "ShapeError",
    "Text",
    "TextBackend",
    "TooLongError",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolResult",
    "UnknownModelError",
    "Usage",
]


class UnknownModelError(PenjingError):
    """No model of that name is served."""


class BackendError(PenjingError):
    """The model cannot answer now, through no fault of the question: its engine failed, or its server is away."""


class TooLongError(GenerationError):
    """The question does not fit into the model's context, or leaves no room for an answer."""


class ShapeError(GenerationError):
    """What the answer must be (a JSON Schema, calls of tools) cannot be enforced."""


@dataclass(frozen=True)
class Alternative:
    """A token that might have been chosen."""

    id: int | None
    """None where the model runs elsewhere and does not tell."""
    text: str
    """What it writes; a piece of a character is shown as U+FFFD, and `bytes` has it."""
    bytes: bytes
    logprob: float


@dataclass(frozen=True)
class Chosen:
    """The token that the following text comes from, when `Sampling.logprobs` or `Ask.look` is set.

    It precedes the `Text` that it makes certain; several can come before a `Text` (a character of several tokens, a
    possible beginning of a stop string). Tokens whose text is never shown (a stop string's, a tool call's) do not come.
    """

    id: int | None
    text: str
    bytes: bytes
    logprob: float
    """In nats, under the model's own distribution."""
    top: tuple[Alternative, ...] = ()
    """The most probable tokens at this place, the most probable first."""


Piece = Text | ToolCall | ToolResult | Chosen | End


@dataclass(frozen=True)
class JsonShape:
    """That an answer's text must be JSON."""

    schema: "Mapping[str, Any] | None" = None
    """The JSON Schema that it satisfies; None: any object."""
    name: str = "answer"
    """What the schema is called, for backends elsewhere."""


@dataclass(frozen=True)
class Named:
    """That exactly this tool must be called."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | Named
"""Whether tools may be called ("auto"), must not be ("none"), must be ("required"), or which one must."""


@dataclass(frozen=True)
class Ask:
    """What one answer is asked for."""

    messages: "Sequence[Message]"
    """The conversation, the last message the user's or a tool's; it is not shortened: `TooLongError` if too long."""
    sampling: Sampling = DEFAULT
    tools: Sequence[Tool] = ()
    """What the model is told it may call. One without `run` ends the answer with the reason "tool_calls"; the others
    are run here and the answer goes on."""
    constraint: JsonShape | None = None
    """What the text must be."""
    tool_choice: ToolChoice = "auto"
    parallel: bool = True
    """Whether one turn may call more than one tool."""
    strict: frozenset[str] = frozenset()
    """The names of tools whose arguments must satisfy their schemas; those of the others do as far as that is possible
    without refusing a schema, where a call must be made."""
    look: bool = False
    """Whether `Chosen` pieces are wanted with some alternatives each, whatever `sampling.logprobs` says."""
    sample: int = 0
    """Which of several answers to the same question; each draws its own random numbers from the same seed."""


@dataclass(frozen=True)
class Continuation:
    """What one continuation of a text is asked for."""

    prompt: str | tuple[int, ...]
    """The text, or its token ids."""
    sampling: Sampling = DEFAULT
    echo: bool = False
    """Whether the prompt comes first, as a `Text` and, where `sampling.logprobs` is set, as `Chosen` pieces (the first
    token's logprob is NaN: nothing predicts it)."""
    only_echo: bool = False
    """Whether nothing is to be added to the prompt: it is only scored."""
    sample: int = 0
    """As of `Ask`."""


class Backend(Protocol):
    """A model that answers conversations."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def context(self) -> int:
        """How many tokens a conversation and its answer may have together."""

    @property
    def defaults(self) -> Sampling:
        """The settings that the model prefers, for what a request leaves open."""

    def answer(self, ask: Ask) -> "AsyncGenerator[Piece]":
        """Answers; the last piece is `End`. Closing the generator, or cancelling its task, stops the work at once.

        Raises (at the first step):
            TooLongError: the conversation does not fit.
            GenerationError: it cannot be answered as asked; the message says why.
            BackendError: it cannot be answered now (also raised later, when an answer breaks off).
        """

    def count(self, messages: "Sequence[Message]", tools: Sequence[Tool] = ()) -> int:
        """How many tokens the prompt of this conversation has (an estimate where the model runs elsewhere).

        Raises:
            GenerationError: the messages are no conversation that the model's chat template takes.
        """


@runtime_checkable
class TextBackend(Backend, Protocol):
    """A model that continues texts too, and shows its tokens: one of this server's."""

    def complete(self, ask: Continuation) -> "AsyncGenerator[Piece]":
        """Continues a text, as `answer` answers a conversation."""

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """A text's token ids, after those that begin a text unless `begin` is False."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out.

        Raises:
            GenerationError: an id that the model does not have.
        """


@runtime_checkable
class Embedder(Protocol):
    """A model that turns texts into vectors."""

    async def embed(self, texts: "Sequence[str | Sequence[int]]") -> "tuple[list[list[float]], int]":
        """A vector of length 1 for each text (or its token ids), and how many tokens were read.

        A model that was made for this has its own way; of any other it is the mean of what its head would read.

        Raises:
            TooLongError: a text does not fit.
            GenerationError: a text is empty.
        """


class Backends(Protocol):
    """The models that are served, by name."""

    def names(self) -> list[str]:
        """Their names, the default's first."""

    async def get(self, name: str | None) -> Backend:
        """The model of that name, or the default; loaded if need be.

        Raises:
            UnknownModelError: there is none of that name; the message lists those there are.
            PenjingError: it cannot be loaded.
        """

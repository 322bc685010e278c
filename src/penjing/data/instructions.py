"""Instruction tuning's batches: conversations whose loss covers exactly the assistant's tokens and its end-of-turn.

    conversations = instructions.read("alpaca.jsonl")
    loader = InstructionLoader.Config(batch=16, context=512).build(conversations, tokenizer)
    print(loader.rendering)      # how many are used, were cut, were left out

A chat template turns a conversation into ids and a mask of the assistant's tokens; rows are packed as documents are,
and a position counts in the loss when the token that it predicts is the assistant's. A conversation longer than a row
is cut after the last answer that still fits. If none does, it is left out, and so is one without an answer: a row in
which nothing counts teaches nothing, and the mean of its loss is 0 / 0. An empty answer among others is read, and not
learned: it would teach to say nothing.

Several sources are mixed by weights, as shards are in pretraining.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from penjing.data.conversations import Conversation, read
from penjing.data.loader import Loader, LoaderConfig
from penjing.errors import ConfigError, DataError, TokenizerError
from penjing.workers import in_order

__all__ = ["Conversation", "InstructionLoader", "RenderedConversations", "Rendering", "read", "to_be_learned"]

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message
    from penjing.tokenizer.tokenizer import Tokenizer

Turns = Literal["all", "last"]
"""Which of the assistant's turns are learned."""

UNANSWERED, TOO_LONG, REFUSED = "unanswered", "too long", "refused"
_TASK = 500


@dataclass(frozen=True)
class Rendering:
    """What became of the conversations."""

    conversations: int = 0
    """How many are used, those cut short included."""
    cut: int = 0
    """How many of them lost turns at the end."""
    too_long: int = 0
    """How many were left out because no answer ends within a row."""
    unanswered: int = 0
    """How many were left out because the assistant says nothing in them that is to be learned."""
    refused: int = 0
    """How many were left out because the chat template cannot write them."""
    empty: int = 0
    """How many empty answers are read, but not learned, in those that are used."""
    tokens: int = 0
    counted: int = 0
    """How many tokens count in the loss."""

    def __add__(self, other: "Rendering") -> "Rendering":
        return Rendering(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        told = (
            f"{self.conversations:,} conversations ({self.cut:,} cut to the context), {self.tokens:,} tokens "
            f"({self.counted:,} of the assistant's); left out: {self.too_long:,} too long, "
            f"{self.unanswered:,} without an answer"
        )
        told += f", {self.refused:,} refused by the chat template" if self.refused else ""
        return told + (f"; {self.empty:,} empty answers not learned" if self.empty else "")


def to_be_learned(messages: "Sequence[Message]", turns: Turns = "all") -> list[int]:
    """The numbers of the assistant's messages that are learned: not empty, not of weight 0, in the turns asked for.

    The last turn is all that follows the last message of the user, calls of tools included.

    >>> to_be_learned([{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}])
    [1]
    """
    first = 0
    if turns == "last":
        first = max((number for number, message in enumerate(messages) if message["role"] == "user"), default=0)
    return [
        number
        for number, message in enumerate(messages)
        if number >= first and message["role"] == "assistant" and not is_empty(message) and message.get("weight", 1)
    ]


def is_empty(message: "Message") -> bool:
    """Whether nothing is said and nothing called."""
    return not (message["content"].strip() or message.get("tool_calls"))


@dataclass(frozen=True)
class _Kept:
    """A conversation that can be learned from."""

    ids: NDArray[Any]
    mask: NDArray[np.bool_]
    origin: str
    cut: bool
    empty: int


@dataclass(frozen=True)
class _LeftOut:
    """Why one cannot."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class _Renderer:
    """Renders conversations; those that cannot be used become the reason."""

    tokenizer: "Tokenizer"
    context: int
    turns: Turns

    def __call__(self, conversations: list[Conversation]) -> list[_Kept | _LeftOut]:
        return [self._render(conversation) for conversation in conversations]

    def _render(self, conversation: Conversation) -> _Kept | _LeftOut:
        wanted = to_be_learned(conversation.messages, self.turns)
        if not wanted:
            return _LeftOut(UNANSWERED)
        chat = self.tokenizer.chat
        assert chat
        try:
            rendered = chat.render(conversation.messages, tools=list(conversation.tools) or None, learned=wanted)
        except TokenizerError as fault:
            return _LeftOut(REFUSED, f"{conversation.origin}: {fault}")
        ids, marks = rendered.ids, rendered.mask
        if chat.end_of_turn_id is None and self.tokenizer.eos_id is not None:  # what ends a turn begins the next one
            last = wanted[-1] == len(conversation.messages) - 1
            ids, marks = [*ids, self.tokenizer.eos_id], [*marks, last]
        mask = np.array(marks, dtype=np.bool_)
        length = _fitting(mask, self.context + 1)
        if not length:
            return _LeftOut(TOO_LONG)
        if not mask[1:length].any():
            return _LeftOut(UNANSWERED)
        dtype = np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.uint32
        empty = sum(m["role"] == "assistant" and is_empty(m) for m in conversation.messages)
        return _Kept(
            np.array(ids[:length], dtype=dtype), mask[:length], conversation.origin, bool(mask[length:].any()), empty
        )


class RenderedConversations:
    """Conversations as tokens in memory, in the form that `packing` reads.

    Args:
        conversations: what is said.
        tokenizer: has the chat template.
        context: input tokens of a row.
        turns: which of the assistant's turns are learned: "all", or the "last" of each conversation.
        workers: processes that render. The result does not depend on it.
        progress: called now and then with how many conversations are done.

    Raises:
        ConfigError: the tokenizer has no chat template, or one in which nothing ends an answer.
        DataError: no conversation can be used.
    """

    def __init__(
        self,
        conversations: Iterable[Conversation],
        tokenizer: "Tokenizer",
        context: int,
        *,
        turns: Turns = "all",
        workers: int = 1,
        progress: Callable[[int], None] | None = None,
    ):
        _check_template(tokenizer)
        kept: list[_Kept] = []
        left_out = Counter[str]()
        refusal = ""
        renderer = _Renderer(tokenizer, context, turns)
        for rendered in in_order(renderer, _tasks(conversations), workers, processes=True):
            for one in rendered:
                if isinstance(one, _Kept):
                    kept.append(one)
                else:
                    left_out[one.reason] += 1
                    refusal = refusal or one.detail
            if progress is not None:
                progress(len(kept) + left_out.total())
        if not kept:
            why = f", {left_out[REFUSED]} are refused by the chat template ({refusal})" if refusal else ""
            raise DataError(
                f"no conversation can be used: {left_out[TOO_LONG]} are longer than the context of {context}, "
                f"{left_out[UNANSWERED]} have no answer{why}"
            )
        self._origins = [one.origin for one in kept]
        self._ids = np.concatenate([one.ids for one in kept])
        self.counts: NDArray[np.bool_] | None = np.concatenate([one.mask for one in kept])
        self.ends: NDArray[np.int64] = np.cumsum([len(one.ids) for one in kept], dtype=np.int64)
        self.documents, self.tokens = len(kept), len(self._ids)
        digest = sha256(self._ids.astype("<u4").tobytes() + self.counts.tobytes() + self.ends.astype("<i8").tobytes())
        self.fingerprint = digest.hexdigest()[:32]
        self.rendering = Rendering(
            conversations=len(kept),
            cut=sum(one.cut for one in kept),
            too_long=left_out[TOO_LONG],
            unanswered=left_out[UNANSWERED],
            refused=left_out[REFUSED],
            empty=sum(one.empty for one in kept),
            tokens=self.tokens,
            counted=int(self.counts.sum()),
        )
        self.refusal = refusal
        """Where the first conversation is that the template cannot write, and why; empty where there is none."""

    def read(self, start: int, stop: int) -> NDArray[np.integer[Any]]:
        """Tokens start .. stop - 1 of all conversations in a row."""
        return self._ids[start:stop]

    def place(self, token: int) -> str:
        """Which conversation a token is of."""
        return self._origins[int(np.searchsorted(self.ends, token, side="right"))]


class InstructionLoader(Loader):
    """Batches of conversations.

    Attributes:
        rendering: how many conversations are used, were cut and were left out.
    """

    @dataclass(frozen=True)
    class Config(LoaderConfig):
        """The rows' shape and order; `packing` is "best_fit", "padded" or "grouped"."""

        weights: tuple[float, ...] = ()
        """Each source's share of the rows; empty: by size."""

        def build(
            self, conversations: Iterable[Conversation], tokenizer: "Tokenizer", **rendering: Any
        ) -> "InstructionLoader":
            """The loader over conversations, rendered once, into memory; `rendering` as in `RenderedConversations`."""
            return self.over([RenderedConversations(conversations, tokenizer, self.context, **rendering)])

        def over(self, sources: "Sequence[RenderedConversations]") -> "InstructionLoader":
            """The loader over one or more sets of conversations."""
            return InstructionLoader(self, sources, self.weights)

    def __init__(self, config: LoaderConfig, sources: "Sequence[RenderedConversations]", weights: Sequence[float] = ()):
        if config.packing in ("stream", "random"):
            raise ConfigError(f"{config.packing} packing cuts conversations anywhere; use best_fit, padded or grouped")
        super().__init__(config, sources, weights)
        self.rendering = sum((source.rendering for source in sources), Rendering())


def _check_template(tokenizer: "Tokenizer") -> None:
    if tokenizer.chat is None:
        raise ConfigError("the tokenizer has no chat template; instruction tuning needs one")
    if tokenizer.chat.end_of_turn_id is None and (not tokenizer.chat.stop_ids or tokenizer.eos_id is None):
        raise ConfigError(
            "the chat template ends the assistant's turns with no special token, so a model could not learn to stop: "
            "let it write one there (<|im_end|> in ChatML), which the tokenizer must have"
        )


def _tasks(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    """Groups of conversations that are worth a process's while."""
    left = iter(conversations)
    while task := list(islice(left, _TASK)):
        yield task


def _fitting(mask: NDArray[np.bool_], limit: int) -> int:
    """How many tokens to keep: all, or up to the end of the last answer within `limit`; 0 if no answer ends there."""
    if len(mask) <= limit:
        return len(mask)
    ends = np.flatnonzero(mask[:limit] & ~mask[1 : limit + 1]) + 1
    return int(ends[-1]) if ends.size else 0

"""Instruction tuning's batches: conversations whose loss covers exactly the assistant's tokens and its end-of-turn.

    conversations = instructions.read("alpaca.jsonl")
    loader = InstructionLoader.Config(batch=16, context=512).build(conversations, tokenizer)
    print(loader.rendering)      # how many are used, were cut, were left out

A chat template turns a conversation into ids and a mask of the assistant's tokens; rows are packed as documents are,
and a position counts in the loss when the token that it predicts is the assistant's. A conversation longer than a row
is cut after the last answer that still fits. If none does, it is left out, and so is one without an answer: a row in
which nothing counts teaches nothing, and the mean of its loss is 0 / 0.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penjing.data.conversations import Conversation, read
from penjing.data.loader import Loader, LoaderConfig
from penjing.errors import ConfigError, DataError
from penjing.workers import in_order

__all__ = ["Conversation", "InstructionLoader", "RenderedConversations", "Rendering", "read"]

if TYPE_CHECKING:
    from penjing.tokenizer.tokenizer import Tokenizer


UNANSWERED, TOO_LONG = "unanswered", "too long"
_TASK = 500


@dataclass(frozen=True)
class Rendering:
    """What became of the conversations."""

    conversations: int
    """How many are used, those cut short included."""
    cut: int
    """How many of them lost turns at the end."""
    too_long: int
    """How many were left out because no answer ends within a row."""
    unanswered: int
    """How many were left out because the assistant says nothing in them."""
    tokens: int
    counted: int
    """How many tokens count in the loss."""

    def __str__(self) -> str:
        return (
            f"{self.conversations:,} conversations ({self.cut:,} cut to the context), {self.tokens:,} tokens "
            f"({self.counted:,} of the assistant's); left out: {self.too_long:,} too long, "
            f"{self.unanswered:,} without an answer"
        )


@dataclass(frozen=True)
class _Kept:
    """A conversation that can be learned from."""

    ids: NDArray[Any]
    mask: NDArray[np.bool_]
    origin: str
    cut: bool


@dataclass(frozen=True)
class _Renderer:
    """Renders conversations; those that cannot be used become the reason."""

    tokenizer: "Tokenizer"
    context: int

    def __call__(self, conversations: list[Conversation]) -> list[_Kept | str]:
        return [self._render(conversation) for conversation in conversations]

    def _render(self, conversation: Conversation) -> _Kept | str:
        if not any(m["role"] == "assistant" and m["content"].strip() for m in conversation.messages):
            return UNANSWERED
        assert self.tokenizer.chat
        rendered = self.tokenizer.chat.render(list(conversation.messages), tools=list(conversation.tools) or None)
        mask = np.array(rendered.mask, dtype=np.bool_)
        length = _fitting(mask, self.context + 1)
        if not length:
            return TOO_LONG
        if not mask[1:length].any():
            return UNANSWERED
        dtype = np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.uint32
        ids = np.array(rendered.ids[:length], dtype=dtype)
        return _Kept(ids, mask[:length], conversation.origin, bool(mask[length:].any()))


class RenderedConversations:
    """Conversations as tokens in memory, in the form that `packing` reads.

    Args:
        conversations: what is said.
        tokenizer: has the chat template.
        context: input tokens of a row.
        workers: processes that render. The result does not depend on it.
        progress: called now and then with how many conversations are done.

    Raises:
        ConfigError: the tokenizer has no chat template.
        DataError: no conversation can be used.
    """

    def __init__(
        self,
        conversations: Iterable[Conversation],
        tokenizer: "Tokenizer",
        context: int,
        *,
        workers: int = 1,
        progress: Callable[[int], None] | None = None,
    ):
        if tokenizer.chat is None:
            raise ConfigError("the tokenizer has no chat template; instruction tuning needs one")
        kept: list[_Kept] = []
        left_out = Counter[str]()
        for rendered in in_order(_Renderer(tokenizer, context), _tasks(conversations), workers, processes=True):
            kept += [one for one in rendered if isinstance(one, _Kept)]
            left_out.update(one for one in rendered if isinstance(one, str))
            if progress is not None:
                progress(len(kept) + left_out.total())
        if not kept:
            raise DataError(
                f"no conversation can be used: {left_out[TOO_LONG]} are longer than the context of {context}, "
                f"{left_out[UNANSWERED]} have no answer"
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
            tokens=self.tokens,
            counted=int(self.counts.sum()),
        )

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
        """The rows' shape and order; `packing` is "best_fit" or "padded"."""

        def build(
            self, conversations: Iterable[Conversation], tokenizer: "Tokenizer", **rendering: Any
        ) -> "InstructionLoader":
            """The loader over conversations, rendered once, into memory; `rendering` as in `RenderedConversations`."""
            return InstructionLoader(self, RenderedConversations(conversations, tokenizer, self.context, **rendering))

    def __init__(self, config: LoaderConfig, conversations: RenderedConversations):
        if config.packing in ("stream", "random"):
            raise ConfigError(f"{config.packing} packing cuts conversations anywhere; use best_fit or padded")
        super().__init__(config, [conversations])
        self.rendering = conversations.rendering


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

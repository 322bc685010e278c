"""The safety policy between a client and a model: what is asked is checked before, what is answered while it comes.

    asked     blocked   the answer is the policy's message (for someone who may hurt themselves: help), and the model
                        is not asked; finish_reason "content_filter"
              redacted  the model reads the redacted text
    answered  blocked   the answer ends before the sentence; finish_reason "content_filter"
              redacted  the client reads the redacted text
              a call    is blocked as a whole

Only what is new is checked: the messages after the assistant's last one.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Request

from penjing.inference.chat_model import End, Text, ToolCall, Usage
from penjing.serving.backend import Chosen, Piece
from penjing.serving.safety.policy import Decision, Policy

if TYPE_CHECKING:
    from penjing.serving.safety.settings import Where
    from penjing.tokenizer.chat import Message


@dataclass(frozen=True)
class Filtered:
    """That the policy ended an answer; `End` follows."""

    message: str
    """What it says to that."""


class Guarded:
    """The policy of one request; without a policy everything passes.

    Args:
        request: whose application has the policy.
        user: on whose behalf, as the request says.
    """

    def __init__(self, request: Request, user: str | None = None):
        self.policy: Policy | None = request.app.state.policy
        who = str(getattr(request.state, "user", "local"))
        self.user = f"{who}/{user}" if user else who

    async def messages(self, messages: "Sequence[Message]") -> "tuple[list[Message], Decision | None]":
        """The messages as the model may read them, or the decision that it must not."""
        checked = list(messages)
        said = [number for number, message in enumerate(checked) if message["role"] == "assistant"]
        for number in range(said[-1] + 1 if said else 0, len(checked)):
            message = checked[number]
            if message["role"] in ("user", "tool"):
                text, blocked = await self.text(message["content"], "tool" if message["role"] == "tool" else "input")
                if blocked is not None:
                    return checked, blocked
                checked[number] = {**message, "content": text}
        return checked, None

    async def text(self, text: str, where: "Where") -> tuple[str, Decision | None]:
        """A text as it may pass, or the decision that it may not."""
        if self.policy is None:
            return text, None
        decision = await asyncio.to_thread(self.policy.check, text, where, user=self.user)
        return decision.text, decision if decision.action == "block" else None

    async def answer(
        self, pieces: AsyncGenerator[Piece], count: Callable[[str], int]
    ) -> AsyncGenerator[Piece | Filtered]:
        """The pieces as they may be shown; what comes before a whole sentence is known waits for it.

        Args:
            pieces: the model's.
            count: how many tokens a text has, for what an answer that is cut has cost.
        """
        if self.policy is None:
            try:
                async for piece in pieces:
                    yield piece
            finally:
                await pieces.aclose()
            return
        output, waiting, said = self.policy.stream(user=self.user), _Waiting(), ""
        try:
            async for piece in pieces:
                if isinstance(piece, Chosen):
                    waiting.chosen(piece)
                    continue
                if isinstance(piece, Text):
                    said += piece.text
                    waiting.text(piece.text)
                    if output.waits(piece.text):
                        shown = list(output.push(piece.text))
                    else:
                        shown = await asyncio.to_thread(list, output.push(piece.text))
                else:
                    shown = await asyncio.to_thread(list, output.flush())
                for item in self._shown(shown, waiting):
                    yield item
                if output.blocked is None and isinstance(piece, ToolCall):
                    blocked = await self._call(piece)
                    if blocked is not None:
                        yield Filtered(blocked.message)
                        yield End("stop", Usage(0, await asyncio.to_thread(count, said)), ())
                        return
                if output.blocked is not None:
                    yield Filtered(output.blocked.message)
                    cost = piece.usage if isinstance(piece, End) else Usage(0, await asyncio.to_thread(count, said))
                    yield End("stop", cost, ())
                    return
                if not isinstance(piece, Text):
                    yield piece
        finally:
            await pieces.aclose()

    async def _call(self, call: ToolCall) -> Decision | None:
        """The decision that a call may not be made."""
        written = json.dumps(dict(call.arguments), ensure_ascii=False)
        text, blocked = await self.text(written, "output")
        if blocked is None and text != written:  # what is redacted is no call any more
            return Decision("block", "", message="A call of a tool was stopped by the server's safety rules.")
        return blocked

    def _shown(self, found: Sequence[str | Decision], waiting: "_Waiting") -> Iterator[Piece]:
        for item in found:
            if isinstance(item, str):
                yield from waiting.shown(item)
                yield Text(item)


class _Waiting:
    """The tokens whose text has not been shown yet; those of text that is shown otherwise are left out."""

    def __init__(self) -> None:
        self._tokens: list[tuple[Chosen, int]] = []
        self._raw = ""
        self._end = 0
        self._begin = 0

    def chosen(self, token: Chosen) -> None:
        """A token, before the text that it makes certain."""
        self._tokens.append((token, -1))

    def text(self, text: str) -> None:
        """Some text; the tokens before it end with it."""
        self._raw += text
        self._end += len(text)
        self._tokens = [(token, self._end if end < 0 else end) for token, end in self._tokens]

    def shown(self, text: str) -> Iterator[Chosen]:
        """The tokens of a text that is shown now."""
        if not self._raw.startswith(text):
            self._tokens, self._raw, self._begin = [], "", self._end
            return
        self._raw = self._raw[len(text) :]
        self._begin += len(text)
        while self._tokens and 0 <= self._tokens[0][1] <= self._begin:
            yield self._tokens.pop(0)[0]


def refused(decision: Decision, prompt: int) -> list[Any]:
    """The pieces of an answer that the model was not asked for."""
    return [Filtered(decision.message), End("stop", Usage(prompt), ())]


async def said(pieces: Sequence[Piece | Filtered]) -> AsyncGenerator[Piece | Filtered]:
    """Pieces that are known already, as a model's."""
    for piece in pieces:
        yield piece

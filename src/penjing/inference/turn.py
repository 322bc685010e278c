"""One turn of the assistant, from tokens to pieces: its text, the calls in it, and why it ended.

    turn = Turn(decoder, stop=("END",), id="call-1")
    for token in tokens:
        for piece in turn.push(token): ...      # Text and ToolCall, as soon as they are certain
        if turn.over: break                     # the model's end, a stop string, or no room: no more tokens are wanted

It asks nobody for tokens, so whoever has them, in whatever thread or loop, makes the same turn of them.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from penjing.inference.chat_model import Text
from penjing.inference.text import Decoder, TextStream
from penjing.inference.tools import CallSplitter, ToolCall, read_call

if TYPE_CHECKING:
    from penjing.inference.engine.request import Token


class Turn:
    """A turn that grows token by token.

    Args:
        decoder: turns ids into text.
        stop: strings that end the turn.
        id: begins the names of its calls, which are numbered from 0.
        calls: whether what stands between the tags of a call is one; if not, all is text.
    """

    def __init__(self, decoder: Decoder, stop: Sequence[str] = (), *, id: str = "call", calls: bool = True):
        self._text = TextStream(decoder, stop)
        self._splitter = CallSplitter() if calls else None
        self._id = id
        self.content = ""
        """All that was said, calls and their tags too."""
        self.calls: list[ToolCall] = []
        self.reason: Literal["stop", "length"] = "length"
        """Why it ended; "length" until that is known."""
        self.over = False

    def push(self, token: "Token") -> Iterator[Text | ToolCall]:
        """What this token makes certain."""
        if token.reason == "stop":
            self.reason = "stop"
        text = self._text.push(token)
        self.content += text
        if self._text.stopped_by is not None:
            self.reason = "stop"
        self.over = token.reason is not None or self._text.stopped_by is not None
        if self._splitter is None:
            if text:
                yield Text(text)
            return
        yield from self._pieces(self._splitter.push(text))
        if self.over:
            yield from self._pieces(self._splitter.flush())

    def _pieces(self, parts: Iterator[tuple[str, str]]) -> Iterator[Text | ToolCall]:
        for kind, content in parts:
            if kind == "text":
                yield Text(content)
            else:
                call = read_call(content, f"{self._id}-{len(self.calls)}")
                self.calls.append(call)
                yield call

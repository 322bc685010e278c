"""A reply that is being written, and those who watch it.

The writer changes the run's state; each watcher has its own place in it and is told what is new since then. So a slow
watcher gets larger steps, never a queue that grows; and one that comes late, or comes back, begins with all there is.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from penjing.serving.conversations.events import Event
from penjing.serving.conversations.html import GrowingText, Html
from penjing.serving.conversations.records import Message

KEEP_ALIVE = 15.0
"""Seconds of silence after which a watcher is sent a sign of life."""


class Run:
    """The state of one reply that is being written.

    Args:
        user: whose it is.
        reply: the message, empty.
        html: draws it.
    """

    def __init__(self, user: str, reply: Message, html: Html):
        self.user = user
        self.reply = reply
        self.said = ""
        """All that the model said and the policy let out; the end of it may not be stored yet."""
        self.stored = 0
        """How many of its characters are stored, and shown."""
        self.tools: list[dict[str, Any]] = []
        self.notice: dict[str, Any] | None = None
        self.over = False
        """Whether nothing more will come; `reply` is then as it is stored."""
        self.fault: str | None = None
        self.failed: str | None = None
        """Why its pieces cannot be stored any more."""
        self.lost = False
        """Whether someone else ended or deleted the reply."""
        self.started = time.monotonic()
        self._html = html
        self._growing: GrowingText = html.growing()
        self._blocks: list[tuple[int, str]] = []  # (when it changed, how it looks)
        self._called: list[int] = []  # when each call of a tool changed
        self._time = 0
        self._changed = asyncio.Event()

    @property
    def id(self) -> str:
        """The message's."""
        return self.reply.id

    @property
    def unstored(self) -> str:
        """What is to be stored next."""
        return self.said[self.stored :]

    def drawn(self, text: str, last: bool = False) -> list[tuple[int, str]]:
        """Draws more of the reply; takes its time, so it may be called in another thread (one at a time)."""
        changed = [*self._growing.push(text)] if text else []
        if last:
            changed += self._growing.flush()
        return [(block.index, block.html) for block in changed]

    def show(self, characters: int, blocks: list[tuple[int, str]]) -> None:
        """Lets watchers see so many more characters, and the blocks drawn of them."""
        self.stored += characters
        self._time += 1
        for index, html in blocks:
            while len(self._blocks) <= index:
                self._blocks.append((self._time, ""))
            self._blocks[index] = (self._time, html)
        self._tell()

    def call(self, call: Mapping[str, Any]) -> None:
        """Lets watchers see a call of a tool, or its result, by its id."""
        self._time += 1
        for place, known in enumerate(self.tools):
            if known["id"] == call["id"]:
                known.update(call)
                self._called[place] = self._time
                break
        else:
            self.tools.append(dict(call))
            self._called.append(self._time)
        self._tell()

    def remark(self, notice: dict[str, Any]) -> None:
        """Lets watchers see what the policy says."""
        self.notice = notice
        self._time += 1
        self._tell()

    def end(self, reply: Message, fault: str | None) -> None:
        """It is over."""
        self.reply, self.fault, self.over = reply, fault, True
        self._tell()

    def record(self) -> dict[str, Any]:
        """The message as it is now, for the page."""
        if self.over:
            return self._html.record(self.reply)
        now = replace(
            self.reply,
            content=self.said[: self.stored],
            tool_calls=tuple(dict(call) for call in self.tools),
            notice=self.notice,
        )
        return now.to_dict() | {"html": "\n".join(html for _, html in self._blocks if html)}

    async def watch(self, keep_alive: float = KEEP_ALIVE) -> AsyncIterator[Event]:
        """What there is, then what comes, until the reply is over. May be left at any moment."""
        # what changes while this is sent is sent once more
        seen, shown, noticed, blocks = self._time, self.stored, self.notice, list(self._blocks)
        yield Event("message", self.record())
        for index, (_, html) in enumerate(blocks):
            yield Event("block", {"index": index, "html": html})
        while True:
            changed = self._changed
            now = self._time
            if self.stored > shown:
                text, shown = self.said[shown : self.stored], self.stored
                yield Event("text", {"text": text})
            for index, (when, html) in enumerate(self._blocks):
                if seen < when <= now:
                    yield Event("block", {"index": index, "html": html})
            for place, when in enumerate(self._called):
                if seen < when <= now:
                    yield Event("tool", dict(self.tools[place]))
            if self.notice is not noticed and self.notice is not None:
                noticed = self.notice
                yield Event("blocked" if noticed["action"] == "block" else "notice", noticed)
            seen = now
            if self._time > now:
                continue  # more came while that was sent
            if self.over:
                break
            try:
                await asyncio.wait_for(changed.wait(), keep_alive)
            except TimeoutError:
                yield Event()
        if self.fault is not None:
            yield Event("error", {"message": self.fault})
        yield Event("done", self.record())

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

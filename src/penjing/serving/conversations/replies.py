"""Replies are written in the background: no page that is closed, and no connection that breaks, ends one.

    run = await replies.begin(user, conversation, lambda: store.ask(user, conversation, "Hi")[1], backends, policy)
    async for event in run.watch(): ...               # as many watchers as like to, from any moment on

Between the model and the watchers is the store: what is new of all replies is stored in one transaction, in a thread of
its own, and shown after that. So a crash loses nothing that anyone saw, and many replies cost little more than one.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from penjing.errors import PenjingError
from penjing.serving.backend import Ask, Backend, Backends, End, Text, ToolCall, ToolResult, Usage
from penjing.serving.conversations.context import prepare
from penjing.serving.conversations.errors import BusyError, TooManyError
from penjing.serving.conversations.html import Html
from penjing.serving.conversations.policy import Filter, Policy, notice_of, unfiltered
from penjing.serving.conversations.records import LONGEST_CONTENT, Conversation, Message, Status, storable
from penjing.serving.conversations.run import Run
from penjing.serving.conversations.store import Store

T = TypeVar("T")
_LOG = logging.getLogger("penjing.serving.conversations")
_PACE = 0.04
"""Seconds between two pieces that are stored and shown: often enough for the eye."""
_PATIENCE = 60.0
"""Seconds that a reply waits for a locked database before it gives up."""
_AGAIN = 0.2
MOST_OF_A_USER = 32
"""Replies that may be written for one user at once: a page that is closed does not end its own."""
MOST_AT_ONCE = 1024
"""Replies that may be written at once, of all users."""


@dataclass
class _Answer:
    """What became of asking the model."""

    model: str | None = None
    reason: str | None = None
    usage: Usage | None = None
    messages: Sequence[Any] = ()
    first: float | None = None
    """When the first of its text came."""
    blocked: bool = False
    touched: bool = False
    """Whether the policy changed what it said."""
    too_long: bool = False

    def cost(self, started: float) -> dict[str, Any] | None:
        """Tokens and seconds, where the model told."""
        if self.usage is None:
            return None
        now = time.monotonic()
        first = now if self.first is None else self.first
        later = self.usage.completion_tokens - 1
        return {
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "cached_tokens": self.usage.cached_tokens,
            "reason": self.reason,
            "seconds": round(now - started, 3),
            "first_token_seconds": round(first - started, 3),
            "tokens_per_second": round(later / (now - first), 2) if later > 0 and now > first else None,
        }


class Replies:
    """The replies that this process writes.

    Args:
        store: where they are kept.
        html: draws them.
        patience: seconds to wait for a locked database while a reply is written.
    """

    def __init__(self, store: Store, html: Html, patience: float = _PATIENCE):
        self._store = store
        self._html = html
        self._patience = patience
        self._runs: dict[str, Run] = {}
        self._models: dict[str, asyncio.Task[None]] = {}
        self._writers: set[asyncio.Task[None]] = set()
        self._beginning: Counter[str] = Counter()
        self._thread = ThreadPoolExecutor(1, "replies")
        self._wake = asyncio.Event()
        self._storing: asyncio.Task[None] | None = None
        self._stored = asyncio.Lock()
        self._closing = False

    async def begin(
        self, user: str, conversation: str, made: Callable[[], Message], backends: Backends, policy: Policy | None
    ) -> Run:
        """Begins to write a reply.

        Args:
            user: whose it is.
            conversation: where it belongs.
            made: makes it in the store, running and empty.
            backends: the models.
            policy: what may be said.

        Raises:
            TooManyError: so many are being written; then nothing has begun.
            ConversationError: as of `made`; likewise.
        """
        if len(self._runs) >= MOST_AT_ONCE or sum(run.user == user for run in self._runs.values()) >= MOST_OF_A_USER:
            raise TooManyError("too many replies are being written at once: wait for some, or stop them")
        self._beginning[conversation] += 1
        try:
            reply = await asyncio.to_thread(made)
            run = Run(user, reply, self._html)
            self._runs[run.id] = run
        finally:
            self._beginning[conversation] -= 1
        if self._storing is None:
            self._storing = asyncio.create_task(self._keep_storing())
        answer = _Answer()
        model = self._models[run.id] = asyncio.create_task(self._ask(run, answer, backends, policy))
        writer = asyncio.create_task(self._write(run, answer, model))
        self._writers.add(writer)
        writer.add_done_callback(self._writers.discard)
        return run

    def running(self, message: str) -> Run | None:
        """A reply that is being written here."""
        return self._runs.get(message)

    async def stop(self, message: str) -> None:
        """Ends a reply that is being written here; it keeps what it has said. Returns when that is stored."""
        run = self._runs.get(message)
        if run is None:
            return
        self._cancel(run)
        async for _ in run.watch():
            pass

    async def settle(self, conversation: Conversation) -> bool:
        """Ends replies that are running in the store, and that nobody writes any more.

        Such are those of a process that died, and those whose end could not be stored when it came.

        Returns:
            Whether there were any; the conversation is then to be read again.
        """
        stray = [one.id for one in conversation.messages if one.status == "running" and one.id not in self._runs]
        if not stray or self._beginning[conversation.id]:
            return False
        return await asyncio.to_thread(self._store.replies.recover, stray) > 0

    async def close(self) -> None:
        """Ends all replies in an orderly way: what they have said is stored, and that the server stopped."""
        self._closing = True
        for run in list(self._runs.values()):
            self._cancel(run)
        while self._writers:
            await asyncio.wait(set(self._writers))
        if self._storing is not None:
            self._storing.cancel()
            with suppress(asyncio.CancelledError):
                await self._storing
        self._thread.shutdown()

    def _cancel(self, run: Run) -> None:
        model = self._models.get(run.id)
        if model is not None:
            model.cancel()

    # one reply

    async def _write(self, run: Run, answer: "_Answer", model: "asyncio.Task[None]") -> None:
        """A reply from its beginning to its end in the store."""
        await asyncio.wait({model})
        status: Status = "done"
        error = fault = None
        if run.failed is not None:
            status, error, fault = "interrupted", run.failed, run.failed
        elif model.cancelled():
            status, error = "interrupted", "the server stopped" if self._closing else None
        elif (raised := model.exception()) is not None:
            status = "interrupted"
            error = fault = self._reason(raised)
        elif answer.blocked:
            status = "blocked"
        elif answer.too_long:
            status, error = "interrupted", f"it grew longer than {LONGEST_CONTENT:,} characters"
        try:
            await self._end(run, answer, status, error, fault)
        except Exception as failed:  # it stays as running in the store, with all that was shown: `settle` ends it
            reason = error or self._reason(failed)
            shown = replace(run.reply, content=run.said[: run.stored], status="interrupted", error=reason)
            run.end(shown, reason)
        finally:
            self._models.pop(run.id, None)
            self._runs.pop(run.id, None)

    async def _ask(self, run: Run, answer: "_Answer", backends: Backends, policy: Policy | None) -> None:
        """Lets the model answer, as far as the policy allows."""
        conversation = await asyncio.to_thread(self._store.get, run.user, run.reply.conversation)
        settings, path = conversation.settings, conversation.path(run.reply.parent)
        backend = await backends.get(settings.model)
        answer.model = backend.name
        known = await asyncio.to_thread(self._store.summaries, path)
        new: dict[str, str] = {}
        plan = await prepare(backend, settings, path, known, new.__setitem__)
        for message, summary in new.items():
            await asyncio.to_thread(self._store.summarize, run.user, conversation.id, message, summary, backend.name)
        passed = policy.stream(user=run.user) if policy is not None else unfiltered()
        slow = policy is not None and policy.moderator is not None
        await self._listen(run, answer, backend, Ask(plan.messages, settings.how(backend.defaults)), passed, slow)

    async def _listen(
        self, run: Run, answer: "_Answer", backend: Backend, ask: Ask, passed: Filter, slow: bool
    ) -> None:
        async with aclosing(backend.answer(ask)) as pieces:
            async for piece in pieces:
                match piece:
                    case Text(text):
                        answer.first = answer.first or time.monotonic()
                        # a classifier takes its time, and all replies share this thread
                        heard = await asyncio.to_thread(_all, passed, text) if slow else passed.push(text)
                        self._hear(run, answer, heard)
                    case ToolCall():
                        call = {
                            "id": piece.id,
                            "name": piece.name,
                            "arguments": _clean(piece.arguments),
                            "result": None,
                        }
                        run.call(call | ({"result": f"error: {storable(piece.error)}"} if piece.error else {}))
                    case ToolResult():
                        run.call({"id": piece.id, "name": piece.name, "result": storable(piece.content)})
                    case End(reason, usage, messages):
                        answer.reason, answer.usage, answer.messages = reason, usage, messages
                if answer.blocked or answer.too_long:
                    return
        self._hear(run, answer, await asyncio.to_thread(_all, passed, None))

    def _hear(self, run: Run, answer: "_Answer", heard: Any) -> None:
        """Takes what the policy let out, or what it said."""
        for part in heard:
            if isinstance(part, str):
                room = LONGEST_CONTENT - len(run.said)
                run.said += storable(part)[:room]
                answer.too_long = answer.too_long or len(part) > room
                self._wake.set()
                continue
            notice = notice_of(part)
            if notice is not None:
                answer.touched = True
                run.remark(notice)
            if part.action == "block":
                answer.blocked = True
                return

    async def _end(self, run: Run, answer: "_Answer", status: Status, error: str | None, fault: str | None) -> None:
        """Stores the end of a reply and shows it."""
        async with self._stored:  # no piece is on its way any more
            content, usage = run.said, answer.cost(run.started)
            keep = status == "done" and bool(run.tools) and not answer.touched

            def finish() -> Message | None:
                return self._store.replies.finish(
                    run.id,
                    content=content,
                    status=status,
                    model=answer.model,
                    usage=usage,
                    tool_calls=run.tools,
                    turn=_clean(answer.messages) if keep else (),
                    notice=run.notice,
                    error=error,
                )

            reply = None if run.lost else await self._patiently(finish)
            last = await self._in_thread(run.drawn, run.unstored, True)
            run.show(len(run.said) - run.stored, last)
        if reply is None:  # it was deleted, or ended by another process
            reply = await self._as_it_is(run)
        await self._in_thread(self._html.of, reply.content)
        run.end(reply, fault)

    async def _as_it_is(self, run: Run) -> Message:
        try:
            return await asyncio.to_thread(self._store.message, run.user, run.reply.conversation, run.id)
        except PenjingError:
            return replace(run.reply, status="interrupted", content=run.said, error="it was deleted")

    async def _patiently(self, work: Callable[[], T]) -> T:
        """Does something with the database; while that is locked, again."""
        until = time.monotonic() + self._patience
        while True:
            try:
                return await self._in_thread(work)
            except BusyError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(_AGAIN)

    def _reason(self, raised: BaseException) -> str:
        """What the user is told of a fault."""
        if isinstance(raised, PenjingError):
            return str(raised)
        _LOG.error("a reply failed", exc_info=raised)
        return "the model failed; the server's log says why"

    # all replies

    async def _keep_storing(self) -> None:
        """Stores what is new of all replies, then shows it."""
        last = 0.0
        while True:
            await self._wake.wait()
            await asyncio.sleep(max(0.0, last + _PACE - time.monotonic()))
            last = time.monotonic()
            self._wake.clear()
            async with self._stored:
                await self._store_pieces()

    async def _store_pieces(self) -> None:
        new = {id: run.unstored for id, run in self._runs.items() if run.unstored and not run.lost and not run.failed}
        if not new:
            return
        try:
            running = await self._patiently(lambda: self._store.replies.append(new))
            drawn = await self._in_thread(lambda: {id: self._runs[id].drawn(new[id]) for id in running})
        except Exception as fault:
            for id in new:
                self._runs[id].failed = self._reason(fault)
                self._cancel(self._runs[id])
            return
        for id, text in new.items():
            if id in running:
                self._runs[id].show(len(text), drawn[id])
            else:
                self._runs[id].lost = True
                self._cancel(self._runs[id])

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def _all(passed: Filter, text: str | None) -> list[Any]:
    """What a filter lets out of a piece, or with None at the end."""
    return list(passed.flush() if text is None else passed.push(text))


def _clean(value: Any) -> Any:
    """What a model or tool said, as JSON that any database takes."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(str(key)): _clean(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(one) for one in value]
    return value

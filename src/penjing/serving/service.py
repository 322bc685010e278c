"""An engine, asked from asyncio: passes of the model never hold up the server's event loop.

    service = in_thread(lambda: Engine(model))              or process.in_process("runs/tiny-chat/chat/model")
    async for token in service.stream(prompt, sampling, stop_ids={2}):
        ...
    service.close()

The engine is in a thread of this process (`engine_thread`) or in a process of its own (`process`). In a thread it and
the server take turns at Python's lock, so that each waits for the other; in a process neither does, for the price of
another process' memory. What is asked and told is the same (`orders`).

What is asked in one turn of the loop goes to the engine together; what comes of one pass comes back together, and wakes
the loop once. Whoever could not keep up finds several tokens waiting, and takes them at once.
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from penjing.inference.engine.engine import Engine
from penjing.inference.engine.request import Token
from penjing.inference.sampling import Sampling
from penjing.serving.backend import BackendError
from penjing.serving.constraints import Shape
from penjing.serving.engine_thread import EngineThread
from penjing.serving.orders import (
    CLOSED,
    Ask,
    Begun,
    Cancel,
    Do,
    Done,
    Host,
    Item,
    News,
    Order,
    Question,
    Scores,
    Tell,
    last,
)

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer


class Job:
    """Something that was asked for, and who waits for it."""

    def __init__(self, key: int):
        self.key = key
        self.loop = asyncio.get_running_loop()
        self.cached = 0
        """Tokens of the prompt that were remembered; known with the first token, as the next."""
        self.prompt_logprobs: Scores | None = None
        """As of `engine.request.Request`."""
        self._items: list[Item] = []
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: Item) -> None:
        """Takes what was told of it, in its loop."""
        if isinstance(item, Begun):
            self.cached, self.prompt_logprobs = item.cached, item.prompt_logprobs
            return
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> list[Item]:
        """What was told since the last time; waits until something was."""
        while not self._items:
            self._waiter = self.loop.create_future()
            await self._waiter
        items, self._items = self._items, []
        return items


class EngineService:
    """Serves one engine to any number of tasks.

    Args:
        start: starts the engine, which will tell what comes to the function that it is given.
        name: the model's, for the log.
    """

    def __init__(self, start: Callable[[Tell], Host], *, name: str = "model"):
        self.name = name
        self._keys = itertools.count()
        self._jobs: dict[int, Job] = {}
        self._orders: list[Order] = []
        self._lock = threading.Lock()
        self._over = False
        self.host = start(self._tell)

    @property
    def busy(self) -> bool:
        """Whether anyone waits for it."""
        return bool(self._jobs)

    @property
    def fault(self) -> str | None:
        """Why it cannot serve any more, or None."""
        return self.host.fault

    def figures(self) -> dict[str, float]:
        """What is known of the engine now, by name."""
        return self.host.figures()

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        stop_ids: Collection[int] = (),
        shape: Shape | None = None,
        sample: int = 0,
        prompt_logprobs: bool = False,
    ) -> Job:
        """Puts a request in; arguments as of `Engine.add`. Whoever does so reads `tokens_of` it to its end.

        Raises:
            BackendError: the service is closed, or its engine failed for good.
        """
        job = self._job()
        question = Question(tuple(prompt), sampling, frozenset(stop_ids), shape, sample, prompt_logprobs)
        self._put(Ask(job.key, question), job)
        return job

    async def tokens_of(self, job: Job) -> AsyncGenerator[list[Token]]:
        """A request's tokens as they come, all that wait at once. Leaving it early, or cancelling the task, cancels the
        request.

        Raises:
            GenerationError: the engine does not take the request.
            ShapeError: it cannot be held to the shape.
            BackendError: the engine failed.
        """
        over = False
        try:
            while not over:
                items = await job.get()
                over = last(items[-1])
                tokens = [item for item in items if isinstance(item, Token)]
                if tokens:
                    yield tokens
                if isinstance(items[-1], BaseException):
                    raise items[-1]
        finally:
            self._forget(job, cancel=not over)

    async def stream(self, prompt: Sequence[int], sampling: Sampling, **options: Any) -> AsyncGenerator[Token]:
        """`submit` and `tokens_of` together, token by token."""
        batches = self.tokens_of(self.submit(prompt, sampling, **options))
        try:
            async for tokens in batches:
                for token in tokens:
                    yield token
        finally:
            await batches.aclose()

    async def run(self, work: Callable[..., Any], **arguments: Any) -> Any:
        """`work(model, tokenizer, **arguments)` between two passes, when no one else uses the model.

        Args:
            work: a function at the top of one of Penjing's modules.
            arguments: what can be written as JSON; so must be what it gives.

        Raises:
            BackendError: the service is closed, or its engine failed.
            PenjingError: as the work.
        """
        job = self._job()
        self._put(Do(job.key, work, arguments), job)
        try:
            (item,) = await job.get()
        finally:
            self._forget(job, cancel=False)
        if isinstance(item, Done):
            return item.result
        assert isinstance(item, BaseException)
        raise item

    def close(self) -> None:
        """Ends the engine; whoever still waits is told so."""
        self._over = True
        self.host.close()
        self._tell([(key, BackendError(CLOSED)) for key in list(self._jobs)])

    def _job(self) -> Job:
        if self._over or self.fault is not None:
            raise BackendError(CLOSED if self._over else self.fault or CLOSED)
        return Job(next(self._keys))

    def _put(self, order: Order, job: Job) -> None:
        self._jobs[job.key] = job
        with self._lock:
            self._orders.append(order)
            first = len(self._orders) == 1
        if first:
            job.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Sends what was asked in this turn of the loop."""
        with self._lock:
            orders, self._orders = self._orders, []
        if orders:
            try:
                self.host.send(orders)
            except Exception as error:  # closed, or what cannot be sent
                self._tell([(order.key, error) for order in orders])

    def _forget(self, job: Job, *, cancel: bool) -> None:
        self._jobs.pop(job.key, None)
        if cancel:
            self._flush()  # the loop may end with this turn
            with suppress(BackendError):
                self.host.send([Cancel(job.key)])

    def _tell(self, news: News) -> None:
        """Hands what comes over to the loops where it is waited for, all of it at once."""
        for_loops: dict[asyncio.AbstractEventLoop, list[tuple[Job, Item]]] = {}
        for key, item in news:
            job = self._jobs.get(key)
            if job is not None:
                for_loops.setdefault(job.loop, []).append((job, item))
        for loop, items in for_loops.items():
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_hand_over, items)


def in_thread(
    build: Callable[[], Engine], *, tokenizer: "Tokenizer | None" = None, name: str = "model"
) -> EngineService:
    """A service whose engine is in a thread of this process. Arguments and errors as of `EngineThread`."""
    return EngineService(lambda tell: EngineThread(build, tell, tokenizer=tokenizer, name=name), name=name)


def _hand_over(items: list[tuple[Job, Item]]) -> None:
    for job, item in items:
        job.put(item)

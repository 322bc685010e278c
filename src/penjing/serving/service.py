"""An engine in a thread of its own, asked from asyncio: passes of the model never hold up the server's event loop.

    service = EngineService(lambda: Engine(model))
    async for token in service.stream(prompt, sampling, stop_ids={2}):
        ...
    service.close()

Between two passes the thread does what came in meanwhile: it adds requests, drops those that nobody waits for any
more, and does other work with the model that was asked for (`run`). So a request is stopped, and its memory free,
after the pass that runs. Questions that came together and differ in nothing but their random numbers (`n` answers)
read their prompt once.

When the engine fails, the requests that it had fail, and a new engine takes its place. When that cannot be made, the
service is dead, and says so to whoever asks.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from penjing.errors import PenjingError
from penjing.inference.engine.engine import Engine, Metrics
from penjing.inference.engine.request import Request, Token
from penjing.inference.sampling import Sampling
from penjing.serving.backend import BackendError
from penjing.serving.logs import event

if TYPE_CHECKING:
    from penjing.inference.constrained import Constraint

Result = TypeVar("Result")

_CLOSED = "the model is being closed"


@dataclass(eq=False)
class Job:
    """A request on its way: what was asked, and who waits for its tokens."""

    prompt: tuple[int, ...]
    sampling: Sampling
    stop_ids: frozenset[int]
    constraint: "Constraint[Any] | None"
    sample: int
    prompt_logprobs: bool
    loop: asyncio.AbstractEventLoop
    tokens: "asyncio.Queue[Token | BaseException]" = field(default_factory=asyncio.Queue)
    request: Request | None = None
    """The engine's, once it has it."""

    @property
    def alike(self) -> tuple[object, ...]:
        """What requests have in common whose prompt is read once."""
        return self.prompt, self.sampling, self.stop_ids, self.constraint, self.loop


@dataclass(frozen=True)
class _Cancel:
    job: Job


@dataclass(frozen=True)
class _Work:
    work: Callable[[], Any]
    result: "Future[Any]"


class EngineService:
    """Serves one engine to any number of tasks.

    Args:
        build: makes the engine, in its thread; called again after a failure.
        name: the model's, for the log.
    """

    def __init__(self, build: Callable[[], Engine], *, name: str = "model"):
        self.name = name
        self._build = build
        self._inbox: queue.SimpleQueue[Job | _Cancel | _Work | None] = queue.SimpleQueue()
        self._jobs: dict[Request, Job] = {}
        self._engine: Engine | None = None
        self._past = Metrics()  # of engines that failed
        self._dead: str | None = None
        self._over = False
        self._lock = threading.Lock()
        self._users = 0
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, args=(ready,), name=f"engine of {name}", daemon=True)
        self._thread.start()
        ready.result()

    @property
    def busy(self) -> bool:
        """Whether anyone waits for it."""
        return self._users > 0

    @property
    def fault(self) -> str | None:
        """Why it cannot serve any more, or None."""
        if self._dead is None and not self._thread.is_alive():
            return "its thread has ended"
        return self._dead

    @property
    def longest(self) -> int:
        """How many tokens a text may have."""
        engine = self._engine
        return 0 if engine is None else engine.longest

    def figures(self) -> dict[str, float]:
        """What is known of the engine now, by name."""
        engine = self._engine
        if engine is None:
            return {}
        scheduler, metrics = engine._scheduler, engine.metrics
        used = sum(engine.cache.used.values())
        return {
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "cache_used": used / max(1, sum(engine.cache.sizes.values())),
            "passes": self._past.passes + metrics.passes,
            "tokens_per_second": metrics.tokens_per_second,
            "preempted": self._past.preempted + metrics.preempted,
        }

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        stop_ids: Collection[int] = (),
        constraint: "Constraint[Any] | None" = None,
        sample: int = 0,
        prompt_logprobs: bool = False,
    ) -> Job:
        """Puts a request in; arguments as of `Engine.add`. Whoever does so reads `tokens_of` it to its end."""
        loop = asyncio.get_running_loop()
        job = Job(tuple(prompt), sampling, frozenset(stop_ids), constraint, sample, prompt_logprobs, loop)
        with self._lock:
            if self._over or self._dead is not None:
                raise BackendError(self._dead or _CLOSED)
            self._users += 1
            self._inbox.put(job)
        return job

    async def tokens_of(self, job: Job) -> AsyncGenerator[Token]:
        """A request's tokens as they come. Leaving it early, or cancelling the task, cancels the request.

        Raises:
            GenerationError: the engine does not take the request.
            BackendError: the engine failed.
        """
        try:
            while True:
                item = await job.tokens.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item.reason is not None:
                    return
        finally:
            self._users -= 1
            self._inbox.put(_Cancel(job))

    async def stream(self, prompt: Sequence[int], sampling: Sampling, **options: Any) -> AsyncGenerator[Token]:
        """`submit` and `tokens_of` together."""
        tokens = self.tokens_of(self.submit(prompt, sampling, **options))
        try:
            async for token in tokens:
                yield token
        finally:
            await tokens.aclose()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Does some work in the engine's thread, between two passes, when no one else uses the model.

        Raises:
            BackendError: the service is closed.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._over or self._dead is not None:
                raise BackendError(self._dead or _CLOSED)
            self._users += 1
            self._inbox.put(_Work(work, future))
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._users -= 1

    def close(self) -> None:
        """Ends the thread; whoever still waits is told so."""
        with self._lock:
            self._over = True
            self._inbox.put(None)
        self._thread.join()

    # the thread

    def _main(self, ready: "Future[None]") -> None:
        try:
            self._engine = self._build()
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        while self._obey():
            try:
                self._step()
            except Exception as error:
                self._recover(error)
        self._fail(BackendError(_CLOSED))
        self._turn_away(BackendError(_CLOSED))
        self._engine = None

    def _obey(self) -> bool:
        """Does what came in; waits for something if there is nothing to do. False: it is over."""
        assert self._engine is not None or self._dead is not None
        idle = self._engine is None or not self._engine.busy
        arrived: list[Job] = []
        while True:
            try:
                item = self._inbox.get(block=idle and not arrived)
            except queue.Empty:
                break
            idle = False
            if item is None:
                self._refuse(arrived)
                return False
            if isinstance(item, Job):
                arrived.append(item)
            elif isinstance(item, _Cancel):
                if item.job in arrived:
                    arrived.remove(item.job)
                self._drop(item.job)
            else:
                self._do(item)
        self._add(arrived)
        return True

    def _add(self, arrived: list[Job]) -> None:
        """Gives requests to the engine, those that share all but their number together."""
        groups: dict[tuple[object, ...], list[Job]] = {}
        for job in arrived:
            groups.setdefault(job.alike, []).append(job)
        for jobs in groups.values():
            numbers = [job.sample for job in jobs]
            together = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            for batch in [jobs] if together else [[job] for job in jobs]:
                self._add_together(batch)

    def _add_together(self, jobs: list[Job]) -> None:
        first = jobs[0]
        try:
            if self._engine is None:
                raise BackendError(self._dead or _CLOSED)
            requests = self._engine.add(
                first.prompt,
                first.sampling,
                stop_ids=first.stop_ids,
                samples=len(jobs),
                sample=first.sample,
                constraint=first.constraint,
                prompt_logprobs=any(job.prompt_logprobs for job in jobs),
            )
        except PenjingError as error:
            for job in jobs:
                _deliver(job.loop, [(job, error)])
            return
        except Exception as error:
            for job in jobs:
                _deliver(job.loop, [(job, _failed(error))])
            self._recover(error)
            return
        for job, request in zip(jobs, requests, strict=True):
            job.request = request
            self._jobs[request] = job

    def _drop(self, job: Job) -> None:
        if job.request is not None and self._jobs.pop(job.request, None) is not None and self._engine is not None:
            self._engine.cancel(job.request)

    def _do(self, item: _Work) -> None:
        if not item.result.set_running_or_notify_cancel():
            return
        try:
            item.result.set_result(item.work())
        except BaseException as error:  # whoever asked for the work is told, and the thread goes on
            item.result.set_exception(error)

    def _step(self) -> None:
        """A pass, and its tokens to those who wait for them."""
        if self._engine is None or not self._engine.busy:
            return
        seen = {request: len(request.output) for request in self._jobs}
        self._engine.step()
        news: dict[asyncio.AbstractEventLoop, list[tuple[Job, Token | BaseException]]] = {}
        for request, count in seen.items():
            job = self._jobs[request]
            for token in request.output[count:]:
                news.setdefault(job.loop, []).append((job, token))
            if request.done:
                del self._jobs[request]
        for loop, items in news.items():
            _deliver(loop, items)

    def _recover(self, error: Exception) -> None:
        """After a failure: all requests fail, and a new engine begins."""
        event("engine failed", level=40, error=error, model=self.name)
        if self._engine is not None:
            self._past.passes += self._engine.metrics.passes
            self._past.preempted += self._engine.metrics.preempted
        self._engine = None  # its memory is free before the next one takes as much
        try:
            self._engine = self._build()
        except Exception as fault:
            event("engine cannot be made anew", level=40, error=fault, model=self.name)
            with self._lock:
                self._dead = f"the engine failed, and no new one could be made: {type(fault).__name__}"
        self._fail(error if isinstance(error, PenjingError) else _failed(error))

    def _fail(self, error: BaseException) -> None:
        """Tells all whose requests the engine has."""
        waiting = list(self._jobs.values())
        self._jobs.clear()
        for job in waiting:
            _deliver(job.loop, [(job, error)])

    def _turn_away(self, error: BaseException) -> None:
        """Tells all that came in and will not be looked at."""
        with suppress(queue.Empty):
            while True:
                item = self._inbox.get_nowait()
                if isinstance(item, Job):
                    _deliver(item.loop, [(item, error)])
                elif isinstance(item, _Work) and item.result.set_running_or_notify_cancel():
                    item.result.set_exception(error)

    def _refuse(self, jobs: list[Job]) -> None:
        for job in jobs:
            _deliver(job.loop, [(job, BackendError(_CLOSED))])


def _failed(error: BaseException) -> BackendError:
    return BackendError(f"the engine failed ({type(error).__name__}); the answer was given up, ask again")


def _deliver(loop: asyncio.AbstractEventLoop, items: list[tuple[Job, Token | BaseException]]) -> None:
    """Hands tokens over to a loop, all of a pass at once."""
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_put, items)


def _put(items: list[tuple[Job, Token | BaseException]]) -> None:
    for job, item in items:
        job.tokens.put_nowait(item)

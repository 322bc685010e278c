"""An engine in a thread of its own, which does what it is asked and tells what comes of it, a list a pass.

Between two passes the thread does what came in meanwhile: it adds requests, drops those that nobody waits for any
more, and does other work with the model that was asked for (`Do`). So a request is stopped, and its memory free, after
the pass that runs. Questions that came together and differ in nothing but their random numbers (`n` answers) read
their prompt once. What an answer's text must be is compiled beside the passes, not between them.

When the engine fails, the requests that it had fail, and a new engine takes its place. When that cannot be made, the
thread is of no more use, and says so to whoever asks.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penjing.errors import PenjingError
from penjing.inference.constrained import Constraint, Vocabulary
from penjing.inference.engine.engine import Engine, Metrics
from penjing.inference.engine.request import Request
from penjing.serving.backend import BackendError
from penjing.serving.constraints import Constraints
from penjing.serving.logs import event
from penjing.serving.orders import CLOSED, Ask, Begun, Cancel, Do, Done, Item, Order, Question, Tell

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer


@dataclass(eq=False)
class _Job:
    """A request that has all it needs to begin."""

    key: int
    question: Question
    constraint: "Constraint[Any] | None" = None

    @property
    def alike(self) -> tuple[object, ...]:
        """What requests have in common whose prompt is read once."""
        return self.question.prompt, self.question.sampling, self.question.stop_ids, self.constraint


class EngineThread:
    """A `Host` in this process.

    Args:
        build: makes the engine, in its thread; called again after a failure.
        tell: is told what comes, in the thread or one beside it.
        tokenizer: the model's; without it there are no shapes.
        name: the model's, for the log.

    Raises:
        Exception: as `build`.
    """

    def __init__(
        self, build: Callable[[], Engine], tell: Tell, *, tokenizer: "Tokenizer | None" = None, name: str = "model"
    ):
        self.name = name
        self._build = build
        self._tell = tell
        self._tokenizer = tokenizer
        self._inbox: queue.SimpleQueue[Sequence[Order | _Job] | None] = queue.SimpleQueue()
        self._jobs: dict[int, tuple[Request, int]] = {}  # by key: the engine's request, and tokens that were told
        self._engine: Engine | None = None
        self._past = Metrics()  # of engines that failed
        self._dead: str | None = None
        self._over = False
        self._lock = threading.Lock()
        self._constraints: Constraints | None = None
        self._compiler = ThreadPoolExecutor(1, f"constraints of {name}")
        self._compiling: dict[int, Question] = {}
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, args=(ready,), name=f"engine of {name}", daemon=True)
        self._thread.start()
        ready.result()

    @property
    def fault(self) -> str | None:
        """See `Host`."""
        if self._dead is None and not self._thread.is_alive():
            return "its thread has ended"
        return self._dead

    def figures(self) -> dict[str, float]:
        """See `Host`; it does not wait for a pass."""
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
            "generated": self._past.generated + metrics.generated,
            "tokens_per_second": metrics.tokens_per_second,
            "preempted": self._past.preempted + metrics.preempted,
        }

    def send(self, orders: Sequence[Order]) -> None:
        """See `Host`."""
        with self._lock:
            if self._over or self._dead is not None:
                raise BackendError(self._dead or CLOSED)
            self._inbox.put(orders)

    def close(self) -> None:
        """Ends the thread; see `Host`."""
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
        self._compiler.shutdown(cancel_futures=True)
        self._fail(BackendError(CLOSED))
        self._turn_away(BackendError(CLOSED))
        self._engine = None

    def _obey(self) -> bool:
        """Does what came in; waits for something if there is nothing to do. False: it is over."""
        idle = self._engine is None or not self._engine.busy
        arrived: dict[int, _Job] = {}
        while True:
            try:
                orders = self._inbox.get(block=idle and not arrived)
            except queue.Empty:
                break
            idle = False
            if orders is None:
                self._tell([(key, BackendError(CLOSED)) for key in arrived])
                return False
            for order in orders:
                self._take(order, arrived)
        self._add(list(arrived.values()))
        return True

    def _take(self, order: "Order | _Job", arrived: dict[int, _Job]) -> None:
        match order:
            case Ask(key, question) if question.shape is None:
                arrived[key] = _Job(key, question)
            case Ask(key, question):
                self._compiling[key] = question
                self._compiler.submit(self._compile, key, question)
            case _Job(key) if self._compiling.pop(key, None) is not None:
                arrived[key] = order
            case Cancel(key):
                arrived.pop(key, None)
                self._compiling.pop(key, None)
                found = self._jobs.pop(key, None)
                if found is not None and self._engine is not None:
                    self._engine.cancel(found[0])
            case Do():
                self._do(order)

    def _compile(self, key: int, question: Question) -> None:
        """Finds what a text must be, in a thread beside the engine's."""
        engine = self._engine
        try:
            if engine is None or self._tokenizer is None:
                raise BackendError(self._dead or CLOSED)
            if self._constraints is None:
                self._constraints = Constraints(Vocabulary(self._tokenizer, engine.model.config.vocab))
            assert question.shape is not None
            job = _Job(key, question, self._constraints.of(question.shape))
        except Exception as error:
            self._tell([(key, error if isinstance(error, PenjingError) else failed(error))])
            self._inbox.put([Cancel(key)])
        else:
            self._inbox.put([job])

    def _add(self, arrived: list[_Job]) -> None:
        """Gives requests to the engine, those that share all but their number together."""
        groups: dict[tuple[object, ...], list[_Job]] = {}
        for job in arrived:
            groups.setdefault(job.alike, []).append(job)
        for jobs in groups.values():
            numbers = [job.question.sample for job in jobs]
            together = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            for batch in [jobs] if together else [[job] for job in jobs]:
                self._add_together(batch)

    def _add_together(self, jobs: list[_Job]) -> None:
        first = jobs[0].question
        try:
            if self._engine is None:
                raise BackendError(self._dead or CLOSED)
            requests = self._engine.add(
                first.prompt,
                first.sampling,
                stop_ids=first.stop_ids,
                samples=len(jobs),
                sample=first.sample,
                constraint=jobs[0].constraint,
                prompt_logprobs=any(job.question.prompt_logprobs for job in jobs),
            )
        except PenjingError as error:
            self._tell([(job.key, error) for job in jobs])
        except Exception as error:
            self._tell([(job.key, failed(error)) for job in jobs])
            self._recover(error)
        else:
            self._jobs |= {job.key: (request, 0) for job, request in zip(jobs, requests, strict=True)}

    def _do(self, order: Do) -> None:
        item: Item
        try:
            if self._engine is None:
                raise BackendError(self._dead or CLOSED)
            item = Done(order.work(self._engine.model, self._tokenizer, **order.arguments))
        except BaseException as error:  # whoever asked for the work is told, and the thread goes on
            item = error
        self._tell([(order.key, item)])

    def _step(self) -> None:
        """A pass, and its tokens to those who wait for them."""
        if self._engine is None or not self._engine.busy:
            return
        self._engine.step()
        news: list[tuple[int, Item]] = []
        for key, (request, told) in list(self._jobs.items()):
            new = request.output[told:]
            if new and not told:
                news.append((key, Begun(request.cached, request.prompt_logprobs)))
            news += [(key, token) for token in new]
            if request.done:
                del self._jobs[key]
            elif new:
                self._jobs[key] = request, told + len(new)
        if news:
            self._tell(news)

    def _recover(self, error: Exception) -> None:
        """After a failure: all requests fail, and a new engine begins."""
        event("engine failed", level=40, error=error, model=self.name)
        if self._engine is not None:
            for name in ("passes", "generated", "preempted"):
                setattr(self._past, name, getattr(self._past, name) + getattr(self._engine.metrics, name))
        self._engine = None  # its memory is free before the next one takes as much
        try:
            self._engine = self._build()
        except Exception as fault:
            event("engine cannot be made anew", level=40, error=fault, model=self.name)
            with self._lock:
                self._dead = f"the engine failed, and no new one could be made: {type(fault).__name__}"
        self._fail(error if isinstance(error, PenjingError) else failed(error))

    def _fail(self, error: BaseException) -> None:
        """Tells all whose requests the engine has."""
        keys = [*self._jobs, *self._compiling] if self._over else list(self._jobs)
        self._jobs.clear()
        self._tell([(key, error) for key in keys])

    def _turn_away(self, error: BaseException) -> None:
        """Tells all that came in and will not be looked at."""
        with suppress(queue.Empty):
            while True:
                orders = self._inbox.get_nowait() or ()
                self._tell([(order.key, error) for order in orders if isinstance(order, Ask | Do)])


def failed(error: BaseException) -> BackendError:
    """What is told of an exception that is no user's fault; its text may hold what a user wrote."""
    return BackendError(f"the engine failed ({type(error).__name__}); the answer was given up, ask again")

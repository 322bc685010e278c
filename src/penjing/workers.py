"""Work on all cores: what a function makes of many tasks, in their order, with few of them in hand at a time."""

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from penjing.errors import PenjingError

Task = TypeVar("Task")
Made = TypeVar("Made")

_kept: Callable[[Any], Any]
"""What a process of ours does with each task."""


def in_order(
    work: Callable[[Task], Made], tasks: Iterable[Task], workers: int, *, processes: bool = False
) -> Generator[Made]:
    """Yields `work(task)` for each task; at most two tasks a worker are taken ahead of what is yielded.

    Args:
        work: what to do. Processes get it once, so it may carry much (a tokenizer); it must pickle for them.
        tasks: each worth a worker's while.
        workers: how many at a time; 1 works here, without threads or processes.
        processes: processes instead of threads, for work that holds Python's lock.

    Raises:
        PenjingError: a process died.
    """
    if workers <= 1:
        yield from map(work, tasks)
        return
    pool: Executor
    run: Callable[[Task], Made]
    if processes:  # spawned, not forked: torch's threads do not survive a fork
        pool, run = ProcessPoolExecutor(workers, get_context("spawn"), _keep, (work,)), _run
    else:
        pool, run = ThreadPoolExecutor(workers), work
    waiting: deque[Future[Made]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(run, task))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise PenjingError("a worker process died; if it was for memory, use fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _keep(work: Callable[[Any], Any]) -> None:
    global _kept
    _kept = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers


def _run(task: Any) -> Any:
    return _kept(task)

"""How many threads a decoding step uses on a CPU: all, or one where that is faster.

A step is some dozens of short parallel parts, each of which ends when its last thread does. Beside another busy program
the system lets a thread wait for milliseconds, and so each part: with two threads a step of 2 ms can take 100, with one
thread 5. So both ways are tried, now and then, and the faster one is used.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

AGAIN = 200
"""Steps after which the other way is tried again."""

TRIALS = 2
"""Steps of a trial; the faster of them counts, since anything may delay one."""

SUSPICIOUS = 3.0
"""A step that takes so many times as long as usual has the other way tried at once."""


@dataclass
class _Way:
    """What is known of one way."""

    seconds: float | None = None
    """Of a step, lately; None before the first trial."""
    trial: list[float] = field(default_factory=list)


class Threads:
    """Chooses for steps of one kind.

    Args:
        clock: seconds; a test has its own.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._ways = {True: _Way(), False: _Way()}  # with all threads, with one
        self._all, self._steps, self._fresh = True, 0, True

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """For one step, sets PyTorch's and numba's number of threads."""
        if torch.get_num_threads() == 1:
            yield
            return
        begin = self._clock()
        with nullcontext() if self._all else _one_thread():
            yield
        self._note(self._clock() - begin)

    def _note(self, seconds: float) -> None:
        """Takes note of a step's time, and decides how the next is run."""
        if self._fresh:  # the first step has more to do than those that follow
            self._fresh = False
            return
        way, other = self._ways[self._all], self._ways[not self._all]
        self._steps += 1
        if len(way.trial) < TRIALS:
            way.trial.append(seconds)
            if len(way.trial) < TRIALS:
                return
            way.seconds = min(way.trial)
            if len(other.trial) < TRIALS:
                self._all = not self._all
            elif other.seconds is not None:
                self._all = self._all if way.seconds < other.seconds else not self._all
            self._steps = 0
            return
        assert way.seconds is not None
        delayed = seconds > SUSPICIOUS * way.seconds
        way.seconds += 0.1 * (seconds - way.seconds)
        if self._steps >= AGAIN or (delayed and self._steps > 10):
            way.trial, other.trial, self._steps = [], [], 0


@contextmanager
def _one_thread() -> Iterator[None]:
    import numba

    numbas, pytorchs = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(numbas)
        torch.set_num_threads(pytorchs)

"""An engine in a process of its own, so that the model and the server do not take turns at Python's lock.

    server's loop ----orders----> pipe ----> child: reads, runs the engine in a thread       one message for all that is
                  <----news------ pipe <---- after each pass                                 asked, or comes, at once

The child is a new interpreter (nothing is forked: torch's threads do not survive that), which loads the weights itself.
Whatever ends it, be it the system for want of memory, fails the answers that it had, and a new child takes its place;
questions that come meanwhile wait for it. When the new one cannot load the model, the engine is of no more use, and
says so. The other way round the child ends with the server, even one that was killed: its input is then at its end.
"""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import penjing
from penjing.serving import logs, wire
from penjing.serving.backend import BackendError
from penjing.serving.logs import event
from penjing.serving.orders import CLOSED, Ask, Cancel, Do, Order, Tell, last
from penjing.serving.service import EngineService

_GRACE = 10.0
"""Seconds in which a child that was told to end may do so."""
_FIGURES = 1.0
"""Seconds in which it may say its figures; the last known are taken then."""


class _Child:
    """One process, and a thread that writes to it: the server's loop never waits for a pipe."""

    def __init__(self, begin: dict[str, Any]):
        place = str(Path(penjing.__file__).parents[1])
        there = os.environ.get("PYTHONPATH")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([place, there] if there else [place])}
        command = [sys.executable, "-P", "-m", "penjing.serving.engine_child"]  # -P: not from the current folder
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.told = cast(BinaryIO, self.process.stdout)
        self._asked = cast(BinaryIO, self.process.stdin)
        self._orders: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._orders.put([begin])
        self._writer = threading.Thread(target=self._write, name="to the engine", daemon=True)
        self._writer.start()

    def send(self, messages: list[Any]) -> None:
        """Sends them, soon."""
        self._orders.put(messages)

    def end(self) -> int:
        """Has it ended, by force if need be; its exit code."""
        self._orders.put(None)
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._writer.join()
        return self.process.returncode

    def _write(self) -> None:
        with suppress(OSError):  # it has gone; who reads from it knows
            while (messages := self._orders.get()) is not None:
                self._asked.write(wire.frame(messages))
                self._asked.flush()
        with suppress(OSError):
            self._asked.close()


class EngineProcess:
    """A `Host` in a process of its own.

    Args:
        place: whatever `penjing.load` reads.
        tell: is told what comes, in a thread.
        device: where the model goes.
        precision: of its weights.
        seats: how many requests run at once.
        name: the model's, for the log.

    Raises:
        PenjingError: the model cannot be loaded.
    """

    def __init__(
        self,
        place: str,
        tell: Tell,
        *,
        device: str = "auto",
        precision: str = "auto",
        seats: int = 32,
        name: str = "model",
    ):
        self.name = name
        self._begin = {"place": place, "device": device, "precision": precision, "seats": seats, "name": name}
        self._tell = tell
        self._lock = threading.Lock()
        self._open: set[int] = set()  # keys of which more will be told
        self._dead: str | None = None
        self._over = False
        self._figures: dict[str, float] = {}
        self._waiting: dict[int, threading.Event] = {}  # for figures
        self._child = self._start()
        try:
            self._wait_until_ready(self._child)
        except BaseException:
            self._child.end()
            raise
        self._reader = threading.Thread(target=self._read, name=f"engine of {name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process' number; another after it was replaced."""
        return self._child.process.pid

    @property
    def fault(self) -> str | None:
        """See `Host`."""
        return self._dead

    def send(self, orders: Sequence[Order]) -> None:
        """See `Host`."""
        messages = [wire.order_to(order) for order in orders]
        with self._lock:
            if self._over or self._dead is not None:
                raise BackendError(self._dead or CLOSED)
            for order in orders:
                match order:
                    case Ask(key) | Do(key):
                        self._open.add(key)
                    case Cancel(key):
                        self._open.discard(key)
            self._child.send(messages)

    def figures(self) -> dict[str, float]:
        """See `Host`; asked for, but not waited for if the process is busy for long."""
        asked = threading.Event()
        with self._lock:
            if self._over or self._dead is not None:
                return {}
            self._waiting[id(asked)] = asked
            self._child.send([{"figures": id(asked)}])
        asked.wait(_FIGURES)
        self._waiting.pop(id(asked), None)
        return self._figures

    def close(self) -> None:
        """Ends the process; see `Host`."""
        with self._lock:
            if self._over:
                return
            self._over = True
            self._child.send([{"close": True}])
        self._child.end()
        self._reader.join()

    def _start(self) -> _Child:
        return _Child(self._begin | {"log": logs.arrangement()})

    def _wait_until_ready(self, child: _Child) -> None:
        messages = wire.read(child.told)
        if messages is None:
            raise BackendError(f"the process of the engine of '{self.name}' ended while it started: {_end_of(child)}")
        if not messages[0]["ready"]:
            raise wire.error_of(*messages[0]["error"])

    # the thread that reads

    def _read(self) -> None:
        while True:
            while (messages := wire.read(self._child.told)) is not None:
                self._hear(messages)
            self._child.told.close()
            if self._over:
                self._fail(BackendError(CLOSED))
                return
            if not self._replace():
                return

    def _hear(self, messages: list[Any]) -> None:
        news = []
        for message in messages:
            if isinstance(message, dict) and "figures" in message:
                self._figures = message["of"]
                if (asked := self._waiting.pop(message["figures"], None)) is not None:
                    asked.set()
                continue
            key, item = wire.item_of(message)
            if last(item):
                self._open.discard(key)
            news.append((key, item))
        self._tell(news)

    def _replace(self) -> bool:
        """After the child's end: what it had fails, and a new one begins. False: there is none."""
        ended = _end_of(self._child)
        event("engine process ended", level=40, model=self.name, how=ended)
        error = BackendError(f"the engine's process ended ({ended}); the answer was given up, ask again")
        child = self._start()
        with self._lock:
            over = self._over
            if not over:
                self._child = child
        if over:
            child.process.kill()
            child.end()
            self._fail(BackendError(CLOSED))
            return False
        self._fail(error)
        try:
            self._wait_until_ready(child)
        except Exception as fault:
            if self._over:
                self._fail(BackendError(CLOSED))
                return False
            child.end()
            event("engine cannot be made anew", level=40, error=fault, model=self.name)
            with self._lock:
                self._dead = f"the engine's process ended, and no new one could be made: {type(fault).__name__}"
            self._fail(BackendError(self._dead))
            return False
        return True

    def _fail(self, error: BackendError) -> None:
        with self._lock:
            keys, self._open = list(self._open), set()
        self._tell([(key, error) for key in keys])


def in_process(
    place: str, *, device: str = "auto", precision: str = "auto", seats: int = 32, name: str = "model"
) -> EngineService:
    """A service whose engine is in a process of its own. Arguments and errors as of `EngineProcess`."""
    return EngineService(
        lambda tell: EngineProcess(place, tell, device=device, precision=precision, seats=seats, name=name), name=name
    )


def _end_of(child: _Child) -> str:
    code = child.end()
    return f"signal {-code}" if code < 0 else f"exit code {code}"

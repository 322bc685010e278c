"""Ctrl-C, done kindly: the first one asks the run to finish its step and save, the second one aborts."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_AT_ONCE = 1.0  # seconds


class Interrupt:
    """While entered, SIGINT and SIGTERM set `asked`; a second one is a KeyboardInterrupt.

    One that follows at once is the same one: a terminal sends Ctrl-C to all processes, and torchrun passes it on.

    Python delivers signals to the main thread alone; entered from another one, this does nothing.
    """

    def __init__(self) -> None:
        self.asked = ""
        """The signal's name, or empty."""
        self._at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = {kind: signal.signal(kind, self._handle) for kind in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and time.monotonic() - self._at > _AT_ONCE:
            raise KeyboardInterrupt
        if not self.asked:
            self._at = time.monotonic()
        self.asked = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

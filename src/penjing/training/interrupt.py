"""Ctrl-C, done kindly: the first one asks the run to finish its step and save, the second one aborts."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """While entered, SIGINT and SIGTERM set `asked`; a second one is a KeyboardInterrupt.

    Python delivers signals to the main thread alone; entered from another one, this does nothing.
    """

    def __init__(self, same_within: float = 0.0):
        """Prepares it.

        Args:
            same_within: seconds in which a signal after the first counts as that one. Where several processes train, a
                terminal sends Ctrl-C to all of them, and torchrun passes it on to them once more.
        """
        self.asked = ""
        """The signal's name, or empty."""
        self._same_within = same_within
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
        if not self.asked:
            self._at = time.monotonic()
        elif time.monotonic() - self._at >= self._same_within:
            raise KeyboardInterrupt
        self.asked = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

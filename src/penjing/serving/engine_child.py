"""The process of one engine: `python -m penjing.serving.engine_child`, started by `process`, and of no use otherwise.

It reads from its standard input what it is asked, and writes to its standard output what comes of it (`wire`). When its
input ends, the server has gone, however that came about, and so it ends too. What else would be printed goes to the
standard error, with the log.
"""

import gc
import os
import signal
import threading
from contextlib import suppress
from typing import Any, BinaryIO

import psutil

from penjing.device import choose_device, choose_precision
from penjing.models.formats import load
from penjing.serving import logs, wire
from penjing.serving.engine_thread import EngineThread
from penjing.serving.orders import News


class Child:
    """Answers one server.

    Args:
        asked: what it is asked comes here.
        told: what it tells goes here.
    """

    def __init__(self, asked: BinaryIO, told: BinaryIO):
        self._asked = asked
        self._told = told
        self._lock = threading.Lock()
        self._itself = psutil.Process()

    def serve(self) -> None:
        """Loads the model, and does what it is asked until it is told to end."""
        first = wire.read(self._asked)
        if first is None:
            return
        (begin,) = first
        if begin["log"] is not None:
            logs.setup(begin["log"][0], prompts=begin["log"][1])
        try:
            thread = self._load(begin)
        except Exception as error:
            logs.event("model cannot be loaded", level=30, error=error, model=begin["name"])
            self._write([{"ready": False, "error": wire.error_to(error)}])
            return
        gc.freeze()  # what is loaded stays: looking for garbage in it would take a part of every pass
        self._write([{"ready": True}])
        while (messages := wire.read(self._asked)) is not None:
            orders = []
            for message in messages:
                if "close" in message:
                    thread.close()
                    return
                if "figures" in message:
                    figures = thread.figures() | {"memory_bytes": self._itself.memory_info().rss}
                    self._write([{"figures": message["figures"], "of": figures}])
                else:
                    orders.append(wire.order_of(message))
            if orders:
                try:
                    thread.send(orders)
                except Exception as error:
                    self._tell([(order.key, error) for order in orders])
        os._exit(0)  # the server has gone: nobody reads what is still being made

    def _load(self, begin: dict[str, Any]) -> EngineThread:
        from penjing.serving.registry import engine_for

        device = choose_device(begin["device"])
        dtype, _ = choose_precision(begin["precision"], device)
        model, tokenizer = load(begin["place"], device=device, dtype=dtype)
        return EngineThread(
            lambda: engine_for(model, begin["seats"]), self._tell, tokenizer=tokenizer, name=begin["name"]
        )

    def _tell(self, news: News) -> None:
        try:
            self._write([wire.item_to(key, item) for key, item in news])
        except (TypeError, ValueError) as error:  # some work gave what JSON cannot hold
            self._write([wire.item_to(key, error) for key, _ in news])

    def _write(self, messages: list[Any]) -> None:
        content = wire.frame(messages)
        with self._lock, suppress(BrokenPipeError):  # then the input has ended too
            self._told.write(content)
            self._told.flush()


def main() -> None:
    """Serves the process that has started this one."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they are the server's, which lets answers come to their end first
        signal.signal(number, signal.SIG_IGN)
    asked, told = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    Child(asked, told).serve()


if __name__ == "__main__":
    main()

"""The next batches, made while a step is computed.

    loader = Prefetch(loader, device="cuda")      # the same batches, already on their way to the device

A batch is put together by a thread of its own: for a GPU that would otherwise wait for it, in memory that the device
can fetch by itself. The batches and their order are the loader's. Where a run stands is after the last batch that was
handed out, not after the last one made: `state_dict` is what the loader's was then.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from penjing.data.batch import TokenBatch
from penjing.data.loader import Loader


class Prefetch(Iterator[TokenBatch]):
    """A loader's batches, a few ahead.

    Args:
        loader: any that needs nothing but itself: not one whose batches are made by the model in training.
        device: where the batches go.
        ahead: how many to have ready at most.
    """

    def __init__(self, loader: Loader, device: torch.device | str = "cpu", ahead: int = 2):
        self._loader, self._device, self._ahead = loader, torch.device(device), ahead
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._coming: deque[Future[tuple[TokenBatch, dict[str, Any], float]]] = deque()
        self._position, self._epoch = loader.state_dict(), loader.epoch

    def __next__(self) -> TokenBatch:
        self._order()
        batch, self._position, self._epoch = self._coming.popleft().result()
        self._order()
        return batch

    @property
    def rows(self) -> int:
        """How many rows a batch has, on all ranks together."""
        return self._loader.rows

    @property
    def epoch(self) -> float:
        """As the loader's, of what was handed out."""
        return self._epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stood after the last batch that was handed out."""
        return self._position

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state` was taken; batches made ahead are forgotten.

        Raises:
            DataError: as of the loader.
        """
        for future in self._coming:
            future.cancel()
        self._coming.clear()
        self._worker.submit(self._loader.load_state_dict, state).result()  # after what is being made
        self._position, self._epoch = self._loader.state_dict(), self._loader.epoch

    def close(self) -> None:
        """Ends the thread."""
        self._worker.shutdown(cancel_futures=True)

    def _order(self) -> None:
        while len(self._coming) < self._ahead:
            self._coming.append(self._worker.submit(self._make))

    def _make(self) -> tuple[TokenBatch, dict[str, Any], float]:
        batch = next(self._loader)
        if self._device.type == "cuda":
            batch = batch.changed(torch.Tensor.pin_memory)
        return batch.to(self._device), self._loader.state_dict(), self._loader.epoch

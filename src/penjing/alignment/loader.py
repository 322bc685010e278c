"""Batches of things that are learned from as a whole: pairs, groups, judged answers.

    loader = ItemLoader(pairs, 16, lambda pairs, origin: pack_pairs(pairs, origin=origin), seed=1)

Items come in epochs, each in an order of its own that the seed decides; an epoch's last batch is filled up with the
next one's first items. Where the loader stands is one number, so a run resumes at exactly the next batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Generic, TypeVar

import numpy as np

from penjing.alignment.batch import AnswerBatch
from penjing.data.order import Permutation, key_of
from penjing.errors import ConfigError, DataError

T = TypeVar("T")


class Order:
    """Items in epochs, each in an order of its own: which item stands at which place of an endless row.

    Args:
        items: at least one; their `repr` tells this data from any other.
        seed: decides the order.
    """

    def __init__(self, items: Sequence[Any], seed: int):
        self._size, self._seed = len(items), seed
        self.fingerprint = _fingerprint(items)

    def __call__(self, start: int, count: int) -> list[int]:
        """The numbers of the items at so many places from `start` on."""
        found: list[int] = []
        while len(found) < count:
            epoch, within = divmod(start + len(found), self._size)
            stop = min(self._size, within + count - len(found))
            permutation = Permutation(self._size, key_of(self._seed, "items", epoch))
            found += permutation(np.arange(within, stop)).tolist()
        return found

    def shuffled(self, count: int, *names: int) -> list[int]:
        """0 .. count - 1 in an order that depends on the seed and on some numbers."""
        return Permutation(count, key_of(self._seed, "shuffled", *names))(np.arange(count)).tolist()


class ItemLoader(Iterator[AnswerBatch], Generic[T]):
    """Batches without end.

    Args:
        items: what is learned from; their `repr` tells this data from any other.
        batch: items of a batch.
        collate: makes a batch of items and a word on where they are from.
        seed: decides the order.

    Raises:
        DataError: there are no items.
    """

    def __init__(self, items: Sequence[T], batch: int, collate: Callable[[list[T], str], AnswerBatch], seed: int = 0):
        if not items:
            raise DataError("there is nothing to learn from")
        if batch < 1:
            raise ConfigError(f"batch is {batch}; a loader needs at least 1")
        self._items, self._batch, self._collate, self._seed = items, batch, collate, seed
        self._taken = 0
        self._order = Order(items, seed)

    def __next__(self) -> AnswerBatch:
        numbers = self._order(self._taken, self._batch)
        self._taken += self._batch
        origin = f"items {', '.join(map(str, numbers[:3]))}{', ...' if len(numbers) > 3 else ''}"
        return self._collate([self._items[number] for number in numbers], origin)

    @property
    def epoch(self) -> float:
        """How often the items have been gone through."""
        return self._taken / len(self._items)

    @property
    def rows(self) -> int:
        """Items of a batch."""
        return self._batch

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands; JSON-able."""
        return {"taken": self._taken, "seed": self._seed, "data": self._order.fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state` was taken.

        Raises:
            DataError: it is of other data or of another order.
        """
        now = self.state_dict()
        for name, what in (("data", "the data has changed"), ("seed", "the seed has changed")):
            if state.get(name) != now[name]:
                raise DataError(f"the saved position in the data does not fit: {what}")
        self._taken = int(state["taken"])


def _fingerprint(items: Sequence[Any]) -> str:
    digest = sha256()
    for item in items:
        digest.update(repr(item).encode())
    return digest.hexdigest()[:32]

"""Dice: the one source of chance in the world, the same on every platform and Python version.

Python promises that `random.Random(seed).random()` gives the same numbers for the same integer seed in every
version; it promises nothing for `choice`, `shuffle` or `sample`. So everything here is made from `random()` alone.
"""

import random
from collections.abc import Mapping, MutableSequence, Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Draws from sequences with a seeded generator.

    >>> Dice(7).pick("abc") == Dice(7).pick("abc")
    True
    """

    __slots__ = ("random",)

    def __init__(self, seed: int):
        self.random = random.Random(seed).random

    def below(self, n: int) -> int:
        """A number from 0 to n - 1, all alike."""
        return int(self.random() * n)

    def between(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return low + int(self.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, all alike."""
        return items[int(self.random() * len(items))]

    def weighted(self, items: Mapping[T, float]) -> T:
        """One of the keys, as often as its value says."""
        place = self.random() * sum(items.values())
        for item, weight in items.items():
            place -= weight
            if place < 0:
                return item
        return max(items, key=items.__getitem__)  # rounding left a last crumb

    def often_early(self, items: Sequence[T], narrow: int = 5) -> T:
        """One of the items, early ones more often.

        Half of the draws are among the first `1 / narrow` of the items, all alike; for the others the k-th of n has
        probability sqrt(k/n) - sqrt((k-1)/n). Words in a language are used unevenly too; it leaves enough examples of
        the common ones, and no single one of them is common enough to be a good guess.
        """
        x = self.random() * 2
        if x < 1:
            return items[int(x * min(len(items), max(8, len(items) // narrow)))]
        x -= 1
        return items[int(x * x * len(items))]

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Puts the items in a random order (Fisher and Yates)."""
        for i in range(len(items) - 1, 0, -1):
            j = int(self.random() * (i + 1))
            items[i], items[j] = items[j], items[i]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order. Needs at least that many."""
        n = len(items)
        if count > n:
            raise ValueError(f"cannot draw {count} different items from {n}")
        if count * 3 > n:
            pool = list(items)
            self.shuffle(pool)
            return pool[:count]
        chosen: list[int] = []
        while len(chosen) < count:
            i = int(self.random() * n)
            if i not in chosen:
                chosen.append(i)
        return [items[i] for i in chosen]

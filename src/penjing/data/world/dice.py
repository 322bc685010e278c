"""Dice: the one source of chance in the world, the same on every platform and Python version.

Python promises that `random.Random(seed).random()` gives the same numbers for the same integer seed in every
version; it promises nothing for `choice`, `shuffle` or `sample`. So everything here is made from `random()` alone.
"""

import random
from collections.abc import MutableSequence, Sequence
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

    def often_early(self, items: Sequence[T], power: int = 2) -> T:
        """One of the items, early ones more often: the first k of n together have the probability (k/n)^(1/power).

        Words in a language are used unevenly; so are they here, which leaves enough examples of each of the common
        ones.
        """
        return items[int(self.random() ** power * len(items))]

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

"""Orders that can be entered anywhere: a shuffle and random numbers as plain functions of a position.

A shuffled list of n numbers needs memory for n numbers, and to resume it one must make it again. A *permutation
function* needs a key only: place i of the shuffle holds `permutation(i)`, whatever n is. It is a Feistel network: a
number is cut into a left and a right half, and each round does

    left, right = right, left ^ f(right, round key)

which can be undone whatever `f` is, hence two numbers never meet. It permutes a power of four; a result that falls
outside of n goes through again until it is inside ("cycle walking"), which keeps it a permutation of n.

Source: Luby, Rackoff, "How to construct pseudorandom permutations from pseudorandom functions", 1988; Black, Rogaway,
"Ciphers with arbitrary finite domains", 2002, section 3 (cycle walking). `f` is the finalizer of SplitMix64: Steele,
Lea, Flood, "Fast splittable pseudorandom number generators", 2014, figure 16. Only 64-bit integers are involved, so the
order is the same on every platform and with every version of numpy.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 10
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def key_of(*parts: int | str | None) -> int:
    """A 64-bit key from a seed and whatever else tells one use of it from another."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scrambles each 64-bit number; a bijection in which every input bit changes about half of the output bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def random_below(bound: int, positions: NDArray[np.integer], key: int) -> NDArray[np.int64]:
    """A random number from 0 to `bound` - 1 for each position: that output of SplitMix64 with the seed `key`."""
    counters = np.uint64(key) + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    return (mix(counters) % np.uint64(bound)).astype(np.int64)


class Permutation:
    """A shuffle of 0 .. size - 1 that takes no memory.

    >>> Permutation(5, key=1)(np.arange(5)).tolist()
    [3, 2, 4, 1, 0]
    """

    def __init__(self, size: int, key: int):
        self.size = size
        self._half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._low = np.uint64((1 << int(self._half)) - 1)
        self._keys = [np.uint64((key + round * _GOLDEN) & _MASK) for round in range(1, _ROUNDS + 1)]

    def __call__(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """What the shuffle has at each of the positions."""
        values = self._network(positions.astype(np.uint64))
        outside = np.flatnonzero(values >= self.size)
        while outside.size:
            values[outside] = self._network(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64)

    def _network(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._low
        for key in self._keys:
            left, right = right, left ^ (mix(right + key) & self._low)
        return (left << self._half) | right

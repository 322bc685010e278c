"""How often each different chunk occurs: an open-addressing hash table over bytes, compiled by numba.

A corpus of any size has few different chunks (about one new in fifty, ever fewer), so the table is what training
keeps of the text. Each worker thread counts into a table of its own; at the end they are absorbed into one.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_FIRST_ENTRIES = 1 << 14
_FIRST_BYTES = 1 << 18


@njit(cache=True, nogil=True)
def word_at(data, p, length):  # type: ignore[no-untyped-def]
    """The first eight, or `length`, bytes at `p` as one number, the first byte lowest."""
    word = np.uint64(0)
    if p + 8 <= len(data):
        for i in range(8):  # the compiler makes one load of these
            word |= np.uint64(data[p + i]) << np.uint64(8 * i)
        if length < 8:
            word &= (np.uint64(1) << np.uint64(8 * length)) - np.uint64(1)
    else:
        for i in range(min(length, 8)):
            word |= np.uint64(data[p + i]) << np.uint64(8 * i)
    return word


@njit(cache=True, nogil=True)
def hash_bytes(data, start, end):  # type: ignore[no-untyped-def]
    """A 64-bit hash of `data[start:end]`, eight bytes at a time; all its bits are good for a mask."""
    h = np.uint64(end - start)
    for p in range(start, end, 8):
        h = (h ^ word_at(data, p, end - p)) * np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(32)
    return h


@njit(cache=True, nogil=True)
def same_bytes(one, at_one, two, at_two, length):  # type: ignore[no-untyped-def]
    """Whether `length` bytes are the same in both."""
    i = 0
    while i < length and one[at_one + i] == two[at_two + i]:
        i += 1
    return i == length


@njit(cache=True, nogil=True)
def _add(data, ends, weights, first, slots, hashes, offsets, counts, content, sizes):  # type: ignore[no-untyped-def]
    """Counts chunks from number `first` on; stops early when the table or `content` could overflow.

    `sizes` is (entries, bytes of content) and is updated. Returns the number of the first chunk not counted.
    """
    mask = np.uint64(len(slots) - 1)
    entries, used = sizes[0], sizes[1]
    start = ends[first - 1] if first > 0 else np.int64(0)
    for chunk in range(first, len(ends)):
        end = ends[chunk]
        length = end - start
        weight = weights[chunk] if len(weights) > 0 else 1
        h = hash_bytes(data, start, end)
        slot = h & mask
        while True:
            entry = slots[slot]
            if entry < 0:
                if entries + 1 >= len(counts) or used + length > len(content):
                    sizes[0], sizes[1] = entries, used
                    return chunk
                slots[slot] = entries
                hashes[entries] = h
                counts[entries] = weight
                for i in range(length):
                    content[used + i] = data[start + i]
                used += length
                entries += 1
                offsets[entries] = used
                break
            if (
                hashes[entry] == h
                and offsets[entry + 1] - offsets[entry] == length
                and same_bytes(content, offsets[entry], data, start, length)
            ):
                counts[entry] += weight
                break
            slot = (slot + np.uint64(1)) & mask
        start = end
    sizes[0], sizes[1] = entries, used
    return len(ends)


@njit(cache=True, nogil=True)
def _fill_slots(slots, hashes, entries):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(slots) - 1)
    for entry in range(entries):
        slot = hashes[entry] & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = entry


class ChunkCounter:
    """Counts chunks of bytes. Not for use by two threads at a time."""

    def __init__(self) -> None:
        self._slots = np.full(2 * _FIRST_ENTRIES, -1, dtype=np.int32)
        self._hashes = np.empty(_FIRST_ENTRIES, dtype=np.uint64)
        self._offsets = np.zeros(_FIRST_ENTRIES + 1, dtype=np.int64)
        self._counts = np.empty(_FIRST_ENTRIES, dtype=np.int64)
        self._content = np.empty(_FIRST_BYTES, dtype=np.uint8)
        self._sizes = np.zeros(2, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._sizes[0])

    @property
    def content(self) -> NDArray[np.uint8]:
        """The different chunks one after another, in the order in which they were first seen; to be read only."""
        content = self._content[: self._sizes[1]]
        content.setflags(write=False)
        return content

    @property
    def ends(self) -> NDArray[np.int64]:
        """Where each chunk ends in `content`."""
        return self._offsets[1 : len(self) + 1]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often each was seen."""
        return self._counts[: len(self)]

    def add(self, data: NDArray[np.uint8], ends: NDArray[np.int64], weights: NDArray[np.int64] | None = None) -> None:
        """Counts the chunks of `data` that end at `ends`, each once or `weights` times."""
        if weights is None:
            weights = np.empty(0, dtype=np.int64)
        done = 0
        while done < len(ends):
            done = _add(
                data,
                ends,
                weights,
                done,
                self._slots,
                self._hashes,
                self._offsets,
                self._counts,
                self._content,
                self._sizes,
            )
            if done < len(ends):
                self._grow(int(ends[done] - (ends[done - 1] if done else 0)))

    def absorb(self, other: "ChunkCounter") -> None:
        """Adds the counts of another counter."""
        self.add(other.content, other.ends, other.counts)

    def _grow(self, room: int) -> None:
        entries, used = (int(size) for size in self._sizes)
        if entries + 2 >= len(self._counts):
            self._hashes = _longer(self._hashes, 2 * len(self._hashes))
            self._offsets = _longer(self._offsets, 2 * len(self._counts) + 1)
            self._counts = _longer(self._counts, 2 * len(self._counts))
            self._slots = np.full(2 * len(self._slots), -1, dtype=np.int32)
            _fill_slots(self._slots, self._hashes, entries)
        if used + room > len(self._content):
            self._content = _longer(self._content, 2 * (len(self._content) + room))


def _longer(array: NDArray[Any], length: int) -> NDArray[Any]:
    longer = np.empty(length, dtype=array.dtype)
    longer[: len(array)] = array
    return longer

"""Encoding at full speed: chunks to ids by the algorithm of `bpe.encode_chunk`, compiled by numba.

What makes it fast: a chunk that was met before is looked up, not merged again (a table of bounded size, emptied when
full), and a new one is merged with two table look-ups a merge. Short chunks search the best pair by running through
all; long ones keep a queue, so that even a megabyte without a space takes n log n steps.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penjing.tokenizer.counting import hash_bytes, same_bytes, word_at
from penjing.tokenizer.tables import priority_of, tables_of, token_of

_NEVER = np.int32(0x7FFFFFFF)
"""The order of a pair that does not merge."""
_SHORT = 128
"""Up to how many bytes a chunk is merged by running through its pairs: as many as seven bits can tell apart."""
_REMEMBERED = 64
"""Up to how many bytes a chunk is remembered."""
_SLOTS = 1 << 17
_POOL = 1 << 20


@njit(cache=True, nogil=True)
def _merge_short(data, start, end, tables, work):  # type: ignore[no-untyped-def]
    """Merges a chunk of at most `_SHORT` bytes into `symbols`, the first array of `work`; returns how many are left.

    The arrays are indexed by place in the chunk: a token's id, the order of its pair with the next one, where the next
    token begins, and the one before. The order is the pair's priority with its place in the lowest seven bits, so the
    least of them says where to merge.
    """
    symbols, order, after, before = work
    byte_ids, byte_pairs, pairs, merged = tables.byte_ids, tables.byte_pairs, tables.pairs, tables.merged
    n = end - start
    for i in range(n):
        symbols[i] = byte_ids[data[start + i]]
        before[i], after[i] = i - 1, i + 1
    for i in range(n - 1):
        priority = np.int64(byte_pairs[np.int64(data[start + i]) << 8 | np.int64(data[start + i + 1])])
        order[i] = _NEVER if priority < 0 else np.int32(priority << 7 | i)
    order[n - 1] = _NEVER
    while True:
        best = order[0]
        for i in range(1, n):
            best = min(best, order[i])
        if best == _NEVER:
            break
        at = np.int64(best & 127)
        gone = np.int64(after[at])
        following = np.int64(after[gone])
        symbols[at] = merged[best >> 7]
        after[at] = following
        order[gone], order[at] = _NEVER, _NEVER
        if following < n:
            before[following] = at
            priority = priority_of(pairs, symbols[at], symbols[following])
            if priority >= 0:
                order[at] = np.int32(priority << 7 | at)
        left = np.int64(before[at])
        if left >= 0:
            priority = priority_of(pairs, symbols[left], symbols[at])
            order[left] = _NEVER if priority < 0 else np.int32(priority << 7 | left)
    return _gather(symbols, after, n)


@njit(cache=True, nogil=True)
def _gather(symbols, after, n):  # type: ignore[no-untyped-def]
    """Moves the tokens that are left to the front of `symbols`; returns how many they are."""
    count, i = np.int64(0), np.int64(0)
    while i < n:
        symbols[count] = symbols[i]
        count += 1
        i = np.int64(after[i])
    return count


@njit(cache=True, nogil=True)
def _push(queue, size, entry):  # type: ignore[no-untyped-def]
    i = size
    while i > 0 and entry < queue[(i - 1) >> 1]:
        queue[i] = queue[(i - 1) >> 1]
        i = (i - 1) >> 1
    queue[i] = entry
    return size + 1


@njit(cache=True, nogil=True)
def _drop_first(queue, size):  # type: ignore[no-untyped-def]
    size -= 1
    entry = queue[size]
    i = np.int64(0)
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and queue[child + 1] < queue[child]:
            child += 1
        if entry <= queue[child]:
            break
        queue[i] = queue[child]
        i = child
    queue[i] = entry
    return size


@njit(cache=True, nogil=True)
def _merge_long(data, start, end, tables):  # type: ignore[no-untyped-def]
    """Merges a chunk with a queue of priority << 32 | place, in n log n steps; returns its ids."""
    n = end - start
    symbols = np.empty(n, dtype=np.int32)
    priorities = np.full(n, -1, dtype=np.int64)
    after = np.empty(n, dtype=np.int64)
    before = np.empty(n, dtype=np.int64)
    queue = np.empty(3 * n, dtype=np.int64)  # n - 1 pairs at first, two more with each merge
    size = np.int64(0)
    for i in range(n):
        symbols[i] = tables.byte_ids[data[start + i]]
        before[i], after[i] = i - 1, i + 1
    for i in range(n - 1):
        priorities[i] = tables.byte_pairs[np.int64(data[start + i]) << 8 | np.int64(data[start + i + 1])]
        if priorities[i] >= 0:
            size = _push(queue, size, priorities[i] << 32 | i)
    while size > 0:
        priority, at = queue[0] >> 32, queue[0] & 0xFFFFFFFF
        size = _drop_first(queue, size)
        if priorities[at] != priority:
            continue  # the pair that was here has changed
        gone = after[at]
        symbols[at] = tables.merged[priority]
        priorities[gone] = -1
        after[at] = after[gone]
        if after[at] < n:
            before[after[at]] = at
        for place in (before[at], at):
            if place >= 0:
                priorities[place] = -1
                if after[place] < n:
                    priorities[place] = priority_of(tables.pairs, symbols[place], symbols[after[place]])
                if priorities[place] >= 0:
                    size = _push(queue, size, priorities[place] << 32 | place)
    return symbols[: _gather(symbols, after, n)]


@njit(cache=True, nogil=True)
def _recall(rows, content, data, start, end, key):  # type: ignore[no-untyped-def]
    """The row that holds a chunk, or the free one where it belongs. `key`: its bytes; its hash if more than 8."""
    length = end - start
    h = (key + np.uint64(length)) * np.uint64(0x9E3779B97F4A7C15)
    mask = np.uint64(len(rows) - 1)
    slot = (h ^ (h >> np.uint64(32))) & mask
    while rows[slot, 1] != 0:
        if (
            rows[slot, 0] == np.int64(key)
            and rows[slot, 1] >> 32 == length
            and (length <= 8 or same_bytes(content, rows[slot, 1] & 0xFFFFFFFF, data, start, length))
        ):
            break
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def _remember(memory, slot, data, start, end, key, ids, count):  # type: ignore[no-untyped-def]
    """Keeps the first `count` of `ids` as those of a chunk; a full memory is emptied first."""
    rows, content, pool, used = memory.rows, memory.content, memory.ids, memory.used
    length = end - start
    if 2 * used[0] > len(rows) or used[1] + length > len(content) or used[2] + count > len(pool):
        rows[:, 1] = 0
        used[:] = 0
        slot = _recall(rows, content, data, start, end, key)
    used[0] += 1
    rows[slot, 0], rows[slot, 1], rows[slot, 2] = np.int64(key), length << 32 | used[1], count
    rows[slot, 3] = ids[0] if count == 1 else used[2]
    if length > 8:
        for i in range(length):
            content[used[1] + i] = data[start + i]
        used[1] += length
    if count > 1:
        for i in range(count):
            pool[used[2] + i] = ids[i]
        used[2] += count


@njit(cache=True, nogil=True)
def _merge(data, start, end, tables, work):  # type: ignore[no-untyped-def]
    """The ids of a chunk that is not in memory."""
    symbols = work[0]
    if len(tables.slots) > 0:
        token = token_of(data, start, end, tables.slots, tables.content, tables.ends)
        if token >= 0:
            symbols[0] = token
            return symbols[:1]
    if end - start <= _SHORT:
        return symbols[: _merge_short(data, start, end, tables, work)]
    return _merge_long(data, start, end, tables)


@njit(cache=True, nogil=True)
def _encode(data, ends, tables, memory, work, out):  # type: ignore[no-untyped-def]
    """Writes the ids of the chunks of `data` that end at `ends` to `out`; returns how many there are."""
    rows, content, pool, byte_ids = memory.rows, memory.content, memory.ids, tables.byte_ids
    written = np.int64(0)
    start = np.int64(0)
    for end in ends:
        length = end - start
        if length == 1:
            out[written] = byte_ids[data[start]]
            written += 1
        elif length > _REMEMBERED:
            for token in _merge(data, start, end, tables, work):
                out[written] = token
                written += 1
        else:
            key = word_at(data, start, length) if length <= 8 else hash_bytes(data, start, end)
            slot = _recall(rows, content, data, start, end, key)
            if rows[slot, 1] == 0:
                ids = _merge(data, start, end, tables, work)
                for i in range(len(ids)):
                    out[written + i] = ids[i]
                written += len(ids)
                _remember(memory, slot, data, start, end, key, ids, len(ids))
            elif rows[slot, 2] == 1:
                out[written] = rows[slot, 3]
                written += 1
            else:
                at = rows[slot, 3]
                for i in range(rows[slot, 2]):
                    out[written + i] = pool[at + i]
                written += rows[slot, 2]
        start = end
    return written


class Memory(NamedTuple):
    """What an encoder remembers of the chunks that it met; of one size, and for one thread at a time."""

    rows: NDArray[np.int64]
    """Open-addressing rows: key; length << 32 | place in `content` (0: free); how many ids; the id or its place."""
    content: NDArray[np.uint8]
    """The bytes of chunks of more than eight."""
    ids: NDArray[np.int32]
    """The ids of chunks that have several."""
    used: NDArray[np.int64]
    """How much of the three is in use."""

    @classmethod
    def empty(cls) -> "Memory":
        """A memory of some 8 MB; the system gives the pages as they are used."""
        rows = np.zeros((_SLOTS, 4), dtype=np.int64)
        return cls(rows, np.empty(_POOL, np.uint8), np.empty(_POOL, np.int32), np.zeros(3, np.int64))


class FastEncoder:
    """Turns chunks of bytes into ids. May be used by several threads at a time.

    Args:
        tokens, merges, whole: a vocabulary; see `tables.tables_of`.
    """

    def __init__(self, tokens: Sequence[bytes], merges: NDArray[np.int32] | None, *, whole: bool):
        self._tables = tables_of(tokens, merges, whole=whole)
        self._idle: list[Memory] = []

    def encode(self, data: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int32]:
        """The ids of the chunks of `data` that end at `ends`; `NO_TOKEN` is a byte that the vocabulary lacks."""
        try:
            memory = self._idle.pop()
        except IndexError:
            memory = Memory.empty()
        out = np.empty(len(data), dtype=np.int32)
        work = tuple(np.empty(_SHORT, dtype=np.int32) for _ in range(4))
        written = _encode(data, ends, self._tables, memory, work, out)
        self._idle.append(memory)
        return out[:written].copy()

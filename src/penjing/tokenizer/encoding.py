"""Encoding at full speed: chunks to ids by the algorithm of `bpe.encode_chunk`, compiled by numba.

What makes it fast: a chunk that was met before is looked up, not merged again (a table of bounded size, emptied when
full), and a new one is merged with one table look-up per pair. Short chunks search the best pair by running through
all; long ones keep a queue, so that even a megabyte without a space takes n log n steps.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penjing.tokenizer.counting import hash_bytes

_NEVER = np.int64(0x7FFFFFFFFFFFFFFF)
"""The value of a pair that does not merge. Any other value is priority << 32 | merged id."""
_SHORT = 100
"""Up to how many bytes a chunk is merged by running through its pairs."""
_REMEMBERED = 64
"""Up to how many bytes a chunk is remembered."""
_SLOTS = 1 << 17
_POOL = 1 << 20


class Tables(NamedTuple):
    """A vocabulary as the compiled functions want it."""

    byte_ids: NDArray[np.int32]
    """The id of each byte, -1 where the vocabulary lacks it, shape `(256,)`."""
    byte_pairs: NDArray[np.int64]
    """The value of each pair of bytes, indexed by first << 8 | second."""
    pairs: NDArray[np.int64]
    """Open-addressing table of rows (left << 32 | right, value); a left of -1 marks a free slot."""
    tokens: NDArray[np.int32]
    """Open-addressing table of ids by the hash of their bytes; -1 is free. Empty unless whole chunks are looked up."""
    content: NDArray[np.uint8]
    """The bytes of all tokens, one after another."""
    ends: NDArray[np.int64]
    """Where each token ends in `content`."""


@njit(cache=True, nogil=True)
def _index_tokens(content, ends, slots):  # type: ignore[no-untyped-def]
    """Fills `slots` with the ids of all tokens that have bytes; of equal ones the first stays."""
    mask = np.uint64(len(slots) - 1)
    start = np.int64(0)
    for token in range(len(ends)):
        if ends[token] > start and _token_of(content, start, ends[token], slots, content, ends) < 0:
            slot = hash_bytes(content, start, ends[token]) & mask
            while slots[slot] >= 0:
                slot = (slot + np.uint64(1)) & mask
            slots[slot] = token
        start = ends[token]


@njit(cache=True, nogil=True)
def _token_of(data, start, end, slots, content, ends):  # type: ignore[no-untyped-def]
    """The id of the token with the bytes `data[start:end]`, or -1."""
    mask = np.uint64(len(slots) - 1)
    slot = hash_bytes(data, start, end) & mask
    while slots[slot] >= 0:
        token = slots[slot]
        at = ends[token - 1] if token > 0 else np.int64(0)
        if ends[token] - at == end - start:
            i = 0
            while i < end - start and content[at + i] == data[start + i]:
                i += 1
            if i == end - start:
                return np.int64(token)
        slot = (slot + np.uint64(1)) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _value_of(pairs, left, right):  # type: ignore[no-untyped-def]
    key = np.int64(left) << 32 | np.int64(right)
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    mask = np.uint64(len(pairs) - 1)
    slot = (h ^ (h >> np.uint64(32))) & mask
    while True:
        if pairs[slot, 0] == key:
            return pairs[slot, 1]
        if pairs[slot, 0] == -1:
            return _NEVER
        slot = (slot + np.uint64(1)) & mask


@njit(cache=True, nogil=True)
def _put_pair(pairs, left, right, value):  # type: ignore[no-untyped-def]
    key = np.int64(left) << 32 | np.int64(right)
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    mask = np.uint64(len(pairs) - 1)
    slot = (h ^ (h >> np.uint64(32))) & mask
    while pairs[slot, 0] != key and pairs[slot, 0] != -1:
        slot = (slot + np.uint64(1)) & mask
    pairs[slot, 0], pairs[slot, 1] = key, value


@njit(cache=True, nogil=True)
def _fill_pairs(rows, by_id, pairs):  # type: ignore[no-untyped-def]
    """Enters (left, right, merged) rows; a pair's priority is its merged id if `by_id`, else its (last) row."""
    for row in range(len(rows)):
        merged = np.int64(rows[row, 2])
        _put_pair(pairs, rows[row, 0], rows[row, 1], (merged if by_id else np.int64(row)) << 32 | merged)


@njit(cache=True, nogil=True)
def _fill_byte_pairs(byte_ids, pairs, byte_pairs):  # type: ignore[no-untyped-def]
    for first in range(256):
        for second in range(256):
            if byte_ids[first] >= 0 and byte_ids[second] >= 0:
                byte_pairs[first << 8 | second] = _value_of(pairs, byte_ids[first], byte_ids[second])


@njit(cache=True, nogil=True)
def _find_joins(content, ends, slots, found):  # type: ignore[no-untyped-def]
    """Writes (left, right, merged) of every two tokens that joined are a token into `found`; returns how many."""
    count = 0
    start = np.int64(0)
    for merged in range(len(ends)):
        for cut in range(start + 1, ends[merged]):
            left = _token_of(content, start, cut, slots, content, ends)
            if left >= 0:
                right = _token_of(content, cut, ends[merged], slots, content, ends)
                if right >= 0:
                    found[count, 0], found[count, 1], found[count, 2] = left, right, merged
                    count += 1
        start = ends[merged]
    return count


@njit(cache=True, nogil=True)
def _merge_short(data, start, end, tables, symbols, values):  # type: ignore[no-untyped-def]
    """Merges a chunk in `symbols`; returns how many are left. `values[i]` is that of (symbols[i], symbols[i + 1])."""
    count = end - start
    for i in range(count):
        symbols[i] = tables.byte_ids[data[start + i]]
        if i + 1 < count:
            values[i] = tables.byte_pairs[np.int64(data[start + i]) << 8 | np.int64(data[start + i + 1])]
    while count > 1:
        best, at = values[0], 0
        for i in range(1, count - 1):
            if values[i] < best:
                best, at = values[i], i
        if best == _NEVER:
            break
        symbols[at] = best & 0xFFFFFFFF
        count -= 1
        for i in range(at + 1, count):
            symbols[i] = symbols[i + 1]
            values[i - 1] = values[i]
        if at + 1 < count:
            values[at] = _value_of(tables.pairs, symbols[at], symbols[at + 1])
        if at > 0:
            values[at - 1] = _value_of(tables.pairs, symbols[at - 1], symbols[at])
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
    i = 0
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
    values = np.full(n, _NEVER, dtype=np.int64)
    after = np.empty(n, dtype=np.int64)
    before = np.empty(n, dtype=np.int64)
    queue = np.empty(3 * n, dtype=np.int64)  # n - 1 pairs at first, two more with each merge
    size = 0
    for i in range(n):
        symbols[i] = tables.byte_ids[data[start + i]]
        before[i], after[i] = i - 1, i + 1
        if i + 1 < n:
            values[i] = tables.byte_pairs[np.int64(data[start + i]) << 8 | np.int64(data[start + i + 1])]
            if values[i] != _NEVER:
                size = _push(queue, size, values[i] >> 32 << 32 | i)
    while size > 0:
        entry = queue[0]
        size = _drop_first(queue, size)
        at = entry & 0xFFFFFFFF
        if values[at] == _NEVER or values[at] >> 32 != entry >> 32:
            continue  # the pair that was here has changed
        symbols[at] = values[at] & 0xFFFFFFFF
        gone = after[at]
        values[gone] = _NEVER
        after[at] = after[gone]
        if after[at] < n:
            before[after[at]] = at
        for place in (before[at], at):
            if place < 0:
                continue
            values[place] = _NEVER
            if after[place] < n:
                values[place] = _value_of(tables.pairs, symbols[place], symbols[after[place]])
            if values[place] != _NEVER:
                size = _push(queue, size, values[place] >> 32 << 32 | place)
    count = 0
    i = 0
    while i < n:
        symbols[count] = symbols[i]
        count += 1
        i = after[i]
    return symbols[:count]


@njit(cache=True, nogil=True)
def _key_of(data, start, end):  # type: ignore[no-untyped-def]
    """The bytes themselves where eight bytes hold them, else their hash."""
    if end - start > 8:
        return hash_bytes(data, start, end)
    word = np.uint64(0)
    for p in range(start, end):
        word = word << np.uint64(8) | np.uint64(data[p])
    return word


@njit(cache=True, nogil=True)
def _recall(memory, data, start, end, key):  # type: ignore[no-untyped-def]
    """The row of `memory` that holds a chunk, or the free one where it belongs."""
    length = end - start
    h = (key + np.uint64(length)) * np.uint64(0x9E3779B97F4A7C15)
    mask = np.uint64(len(memory.rows) - 1)
    slot = (h ^ (h >> np.uint64(32))) & mask
    while memory.rows[slot, 1] != 0:
        if memory.rows[slot, 0] == np.int64(key) and memory.rows[slot, 1] >> 32 == length:
            if length <= 8:
                return slot
            at = memory.rows[slot, 1] & 0xFFFFFFFF
            i = 0
            while i < length and memory.content[at + i] == data[start + i]:
                i += 1
            if i == length:
                return slot
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
        slot = _recall(memory, data, start, end, key)
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
def _merge(data, start, end, tables, symbols, values):  # type: ignore[no-untyped-def]
    """The ids of a chunk that is not in memory."""
    if len(tables.tokens) > 0:
        token = _token_of(data, start, end, tables.tokens, tables.content, tables.ends)
        if token >= 0:
            symbols[0] = token
            return symbols[:1]
    if end - start <= _SHORT:
        return symbols[: _merge_short(data, start, end, tables, symbols, values)]
    return _merge_long(data, start, end, tables)


@njit(cache=True, nogil=True)
def _encode(data, ends, tables, memory, out):  # type: ignore[no-untyped-def]
    """Writes the ids of the chunks of `data` that end at `ends` to `out`; returns how many there are."""
    symbols = np.empty(_SHORT, dtype=np.int32)
    values = np.empty(_SHORT, dtype=np.int64)
    written = 0
    start = np.int64(0)
    for end in ends:
        if end - start == 1:
            out[written] = tables.byte_ids[data[start]]
            written += 1
        elif end - start > _REMEMBERED:
            for token in _merge(data, start, end, tables, symbols, values):
                out[written] = token
                written += 1
        else:
            key = _key_of(data, start, end)
            slot = _recall(memory, data, start, end, key)
            if memory.rows[slot, 1] == 0:
                ids = _merge(data, start, end, tables, symbols, values)
                for i in range(len(ids)):
                    out[written + i] = ids[i]
                written += len(ids)
                _remember(memory, slot, data, start, end, key, ids, len(ids))
            elif memory.rows[slot, 2] == 1:
                out[written] = memory.rows[slot, 3]
                written += 1
            else:
                at = memory.rows[slot, 3]
                for i in range(memory.rows[slot, 2]):
                    out[written] = memory.ids[at + i]
                    written += 1
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
        tokens: the bytes of each id.
        merges: rows (left id, right id, merged id) in order of priority, or None for tiktoken's rule: any two tokens
            whose bytes joined are a token merge, and the smaller its id the sooner.
        whole: whether a chunk that is a token is that token, whatever its merges give.
    """

    def __init__(self, tokens: Sequence[bytes], merges: NDArray[np.int32] | None, *, whole: bool):
        content, ends = _laid_out(tokens)
        slots = np.full(_power_of_two(2 * len(tokens)) if whole or merges is None else 0, -1, dtype=np.int32)
        if len(slots):
            _index_tokens(content, ends, slots)
        by_id = merges is None
        rows = merges if merges is not None else _joins(content, ends, slots)
        pairs = np.full((_power_of_two(2 * len(rows)), 2), -1, dtype=np.int64)
        _fill_pairs(rows, by_id, pairs)
        byte_ids = np.full(256, -1, dtype=np.int32)
        for number, token in enumerate(tokens):
            if len(token) == 1 and byte_ids[token[0]] < 0:
                byte_ids[token[0]] = number
        byte_pairs = np.full(1 << 16, _NEVER, dtype=np.int64)
        _fill_byte_pairs(byte_ids, pairs, byte_pairs)
        self._tables = Tables(byte_ids, byte_pairs, pairs, slots if whole else slots[:0], content, ends)
        self._idle: list[Memory] = []

    def encode(self, data: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int32]:
        """The ids of the chunks of `data` that end at `ends`; -1 stands for a byte that the vocabulary lacks."""
        try:
            memory = self._idle.pop()
        except IndexError:
            memory = Memory.empty()
        out = np.empty(len(data), dtype=np.int32)
        written = _encode(data, ends, self._tables, memory, out)
        self._idle.append(memory)
        return out[:written].copy()


def merges_of_ranks(tokens: Sequence[bytes]) -> NDArray[np.int32]:
    """What tiktoken's rule lets merge, as rows (left, right, merged): by merged id, then left, then right."""
    content, ends = _laid_out(tokens)
    slots = np.full(_power_of_two(2 * len(tokens)), -1, dtype=np.int32)
    _index_tokens(content, ends, slots)
    rows = _joins(content, ends, slots)
    return rows[np.lexsort((rows[:, 1], rows[:, 0], rows[:, 2]))]


def _joins(content: NDArray[np.uint8], ends: NDArray[np.int64], slots: NDArray[np.int32]) -> NDArray[np.int32]:
    found = np.empty((len(content), 3), dtype=np.int32)  # one row per place where a token can be cut is enough
    return found[: _find_joins(content, ends, slots, found)].copy()


def _laid_out(tokens: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of all tokens one after another, and where each ends."""
    lengths = np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens))
    return np.frombuffer(b"".join(tokens), dtype=np.uint8), np.cumsum(lengths)


def _power_of_two(least: int) -> int:
    return 1 << max(least, 16).bit_length()

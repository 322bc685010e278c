"""BPE training at full speed: the algorithm of `bpe.train`, compiled by numba.

What makes it fast:
- Only different chunks are kept, with how often they occur, and a merge visits only the chunks that held its pair when
  the pair came into being. That is enough: the pairs (x, c) and (c, y) all appear in the step that makes c.
- Counts change only beside a merge of (a, b) into c: where x stands on its left, one (x, a) becomes one (x, c). Such
  changes are summed in an array indexed by x, so the table of pairs is asked once per different neighbour.
- The most frequent pair comes from a queue (a binary heap) whose counts may be too high, for they are not looked up
  when they change; an entry that turns up with an old count is put back with the present one.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

_NONE = np.int64(-1)


@njit(cache=True, nogil=True)
def _slot_of(keys, key):  # type: ignore[no-untyped-def]
    """Where `key` is in the open-addressing table `keys`, or where it would go (-1 marks a free slot)."""
    mask = np.uint64(len(keys) - 1)
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = (h ^ (h >> np.uint64(32))) & mask
    while keys[slot] != key and keys[slot] != _NONE:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def _twice_as_large(keys, values):  # type: ignore[no-untyped-def]
    """The same table of pairs with twice the slots."""
    new_keys = np.full(2 * len(keys), _NONE, dtype=np.int64)
    new_values = np.zeros(2 * len(keys), dtype=np.int64)
    for i in range(len(keys)):
        if keys[i] != _NONE:
            slot = _slot_of(new_keys, keys[i])
            new_keys[slot] = keys[i]
            new_values[slot] = values[i]
    return new_keys, new_values


@njit(cache=True, nogil=True)
def _longer(rows, length):  # type: ignore[no-untyped-def]
    new = np.empty((length, rows.shape[1]), dtype=rows.dtype)
    for i in range(len(rows)):
        for k in range(rows.shape[1]):
            new[i, k] = rows[i, k]
    return new


@njit(cache=True, nogil=True)
def _rise(queue, i):  # type: ignore[no-untyped-def]
    """Moves entry `i` of the queue up: the higher count goes first, then the smaller left id, then the right."""
    count, key, chunks = queue[i, 0], queue[i, 1], queue[i, 2]
    while i > 0:
        above = (i - 1) >> 1
        if count < queue[above, 0] or (count == queue[above, 0] and key > queue[above, 1]):
            break
        queue[i, 0], queue[i, 1], queue[i, 2] = queue[above, 0], queue[above, 1], queue[above, 2]
        i = above
    queue[i, 0], queue[i, 1], queue[i, 2] = count, key, chunks


@njit(cache=True, nogil=True)
def _sink(queue, size):  # type: ignore[no-untyped-def]
    """Moves the first entry of the queue down to its place."""
    count, key, chunks = queue[0, 0], queue[0, 1], queue[0, 2]
    i = 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and (
            queue[child + 1, 0] > queue[child, 0]
            or (queue[child + 1, 0] == queue[child, 0] and queue[child + 1, 1] < queue[child, 1])
        ):
            child += 1
        if count > queue[child, 0] or (count == queue[child, 0] and key < queue[child, 1]):
            break
        queue[i, 0], queue[i, 1], queue[i, 2] = queue[child, 0], queue[child, 1], queue[child, 2]
        i = child
    queue[i, 0], queue[i, 1], queue[i, 2] = count, key, chunks


@njit(cache=True, nogil=True)
def _pairs_of_bytes(symbols, ends, counts):  # type: ignore[no-untyped-def]
    """How often each pair of single bytes occurs, and the list of chunks that hold it.

    A list is linked: `nodes[i]` is (chunk, next node). Totals and heads of lists are indexed by left << 8 | right.
    """
    totals = np.zeros(1 << 16, dtype=np.int64)
    heads = np.full(1 << 16, _NONE, dtype=np.int64)
    nodes = np.empty((len(symbols) + 1, 2), dtype=np.int32)
    used = np.int64(0)
    start = np.int64(0)
    for chunk in range(len(ends)):
        for p in range(start, ends[chunk] - 1):
            pair = symbols[p] << 8 | symbols[p + 1]
            totals[pair] += counts[chunk]
            if heads[pair] == _NONE or nodes[heads[pair], 0] != chunk:
                nodes[used, 0], nodes[used, 1] = chunk, heads[pair]
                heads[pair] = used
                used += 1
        start = ends[chunk]
    return totals, heads, nodes, used


class Side(NamedTuple):
    """What one merge finds on its left, or on its right: neighbours x, and all that is known of each, indexed by x."""

    change: NDArray[np.int64]
    """How many merges have x beside them."""
    heads: NDArray[np.int64]
    """The list of chunks in which they do: its first node."""
    touched: NDArray[np.int32]
    """The neighbours that were found."""
    found: NDArray[np.int64]
    """How many there are; shape `(1,)`."""

    @classmethod
    def of(cls, tokens: int) -> "Side":
        """Nothing noted yet, for ids below `tokens`."""
        changes, heads = np.zeros(tokens, np.int64), np.full(tokens, _NONE, np.int64)
        return cls(changes, heads, np.empty(tokens, np.int32), np.zeros(1, np.int64))


@njit(cache=True, nogil=True)
def _note(x, chunk, times, side, nodes, pool):  # type: ignore[no-untyped-def]
    """Notes that `x` got a merge beside it in `chunk`, which occurs `times` times."""
    head = side.heads[x]
    side.change[x] += times
    if head == _NONE:
        side.touched[side.found[0]] = x
        side.found[0] += 1
    elif nodes[head, 0] == chunk:
        return
    node = pool[0]
    if node != _NONE:
        pool[0] = nodes[node, 1]
    else:
        node = pool[1]
        pool[1] += 1
    nodes[node, 0], nodes[node, 1] = chunk, head
    side.heads[x] = node


@njit(cache=True, nogil=True)
def _merge_in_chunk(symbols, start, end, pair, chunk, times, left, right, nodes, pool):  # type: ignore[no-untyped-def]
    """Replaces each (a, b) of `pair` = (a, b, c) in one chunk by c, from left to right; returns where it then ends."""
    a, b, c = pair
    out, p = start, start
    while p < end:
        symbol = symbols[p]
        if symbol != a or p + 1 >= end or symbols[p + 1] != b:
            symbols[out] = symbol
            p += 1
        else:
            if out > start:
                _note(symbols[out - 1], chunk, times, left, nodes, pool)
            if p + 2 < end:
                _note(symbols[p + 2], chunk, times, right, nodes, pool)
            symbols[out] = c
            p += 2
        out += 1
    return out


@njit(cache=True, nogil=True)
def _first_queue(totals, heads, keys, pair_counts):  # type: ignore[no-untyped-def]
    """The queue of the pairs of bytes, and how many wait in it; their counts go into the table of pairs."""
    queue = np.empty((1 << 18, 3), dtype=np.int64)
    waiting = np.int64(0)
    for pair in range(1 << 16):
        if totals[pair] > 0:
            key = np.int64(pair >> 8) << 32 | np.int64(pair & 255)
            slot = _slot_of(keys, key)
            keys[slot], pair_counts[slot] = key, totals[pair]
            queue[waiting, 0], queue[waiting, 1], queue[waiting, 2] = totals[pair], key, heads[pair]
            _rise(queue, waiting)
            waiting += 1
    return queue, waiting


@njit(cache=True, nogil=True)
def _move_counts(side, is_left, pair, keys, pair_counts):  # type: ignore[no-untyped-def]
    """Moves what `side` notes from the counts of (x, a) and (b, y) to those of (x, c) and (c, y).

    Returns how many pairs are new in the table.
    """
    a, b, c = pair
    new = np.int64(0)
    for i in range(side.found[0]):
        x = np.int64(side.touched[i])
        for key, change in (
            (x << 32 | a if is_left else b << 32 | x, -side.change[x]),
            (x << 32 | c if is_left else c << 32 | x, side.change[x]),
        ):
            slot = _slot_of(keys, key)
            if keys[slot] == _NONE:
                keys[slot] = key
                new += 1
            pair_counts[slot] += change
        side.change[x] = 0
    return new


@njit(cache=True, nogil=True)
def _enqueue(side, is_left, c, keys, pair_counts, queue, waiting):  # type: ignore[no-untyped-def]
    """Puts the pairs of the new token `c` with what `side` notes into the queue; returns how many wait in it."""
    for i in range(side.found[0]):
        x = np.int64(side.touched[i])
        key = x << 32 | c if is_left else c << 32 | x
        queue[waiting, 0] = pair_counts[_slot_of(keys, key)]
        queue[waiting, 1], queue[waiting, 2] = key, side.heads[x]
        _rise(queue, waiting)
        waiting += 1
        side.heads[x] = _NONE
    side.found[0] = 0
    return waiting


@njit(cache=True, nogil=True)
def _learn(symbols, ends, counts, left, right, merges, least, progress):  # type: ignore[no-untyped-def]
    """The loop of `learn`; returns how many merges there are."""
    totals, heads, nodes, nodes_used = _pairs_of_bytes(symbols, ends, counts)
    pool = np.empty(2, dtype=np.int64)  # the first of the nodes that are free again; how many were ever used
    pool[0], pool[1] = _NONE, nodes_used
    keys = np.full(1 << 18, _NONE, dtype=np.int64)  # left << 32 | right
    pair_counts = np.zeros(1 << 18, dtype=np.int64)
    queue, waiting = _first_queue(totals, heads, keys, pair_counts)
    pairs = waiting
    lasts = ends.copy()  # where each chunk ends now
    made = np.int64(0)
    while made < len(merges) and waiting > 0 and progress[1] == 0:
        count, key, node = queue[0, 0], queue[0, 1], queue[0, 2]
        present = pair_counts[_slot_of(keys, key)]
        if present != count:
            queue[0, 0] = present
            _sink(queue, waiting)
            continue
        if count < least:
            break
        waiting -= 1
        queue[0, 0], queue[0, 1], queue[0, 2] = queue[waiting, 0], queue[waiting, 1], queue[waiting, 2]
        _sink(queue, waiting)

        pair = (key >> 32, key & 0xFFFFFFFF, np.int64(256 + made))
        while node != _NONE:
            chunk, following = np.int64(nodes[node, 0]), np.int64(nodes[node, 1])
            nodes[node, 1] = pool[0]
            pool[0] = node
            start = ends[chunk - 1] if chunk > 0 else np.int64(0)
            room = pool[1] + 2 * (lasts[chunk] - start)
            if room > len(nodes):
                nodes = _longer(nodes, 2 * room)
            lasts[chunk] = _merge_in_chunk(
                symbols, start, lasts[chunk], pair, chunk, counts[chunk], left, right, nodes, pool
            )
            node = following
        come = left.found[0] + right.found[0]
        while 2 * (pairs + 2 * come) > len(keys):
            keys, pair_counts = _twice_as_large(keys, pair_counts)
        if waiting + come > len(queue):
            queue = _longer(queue, 2 * (waiting + come))
        pairs += _move_counts(left, True, pair, keys, pair_counts)
        pairs += _move_counts(right, False, pair, keys, pair_counts)
        waiting = _enqueue(left, True, pair[2], keys, pair_counts, queue, waiting)
        waiting = _enqueue(right, False, pair[2], keys, pair_counts, queue, waiting)
        merges[made, 0], merges[made, 1] = pair[0], pair[1]
        made += 1
        progress[0] = made
    return made


def learn(
    symbols: NDArray[np.int32],
    ends: NDArray[np.int64],
    counts: NDArray[np.int64],
    merges: int,
    *,
    least: int = 1,
    progress: NDArray[np.int64] | None = None,
) -> NDArray[np.int32]:
    """Learns up to `merges` merges, until no pair occurs `least` times.

    Args:
        symbols: the different chunks as ids of single bytes (0 to 255), one after another; overwritten.
        ends: where each chunk ends.
        counts: how often each occurs.
        merges: how many to learn.
        least: the least count of a pair that is merged, at least 1.
        progress: two numbers; [0] receives how many merges are learnt; setting [1] from another thread stops the work.

    Returns:
        Pairs of ids, shape `(merges, 2)`; row i makes token 256 + i.
    """
    rows = np.empty((merges, 2), dtype=np.int32)
    left, right = Side.of(256 + merges), Side.of(256 + merges)
    state = progress if progress is not None else np.zeros(2, dtype=np.int64)
    return rows[: _learn(symbols, ends, counts, left, right, rows, max(least, 1), state)]

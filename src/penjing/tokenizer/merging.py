"""BPE training at full speed: the algorithm of `bpe.train`, compiled by numba.

What makes it fast:
- Only different chunks are kept, with how often they occur, and a merge visits only the chunks that held its pair when
  the pair came into being. That is enough: the pairs (x, c) and (c, y) all appear in the step that makes c.
- Counts change only beside a merge of (a, b) into c: where x stands on its left, one (x, a) becomes one (x, c). Such
  changes are summed in an array indexed by x, so the table of pairs is asked once per different neighbour.
- The most frequent pair comes from a queue (a binary heap) whose counts may be too high, for they are not looked up
  when they change; an entry that turns up with an old count is put back with the present one.
"""

import numpy as np
from numba import njit

_NONE = -1


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
    """Moves entry `i` of the queue up: the higher count goes first, then the smaller left id, then the smaller right."""
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
    used = 0
    start = 0
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


@njit(cache=True, nogil=True)
def _note(x, chunk, times, change, lists, touched, nodes, state):  # type: ignore[no-untyped-def]
    """Notes that the neighbour `x` got a merge beside it in `chunk`. `state`: touched, free node, nodes used."""
    head = lists[x]
    change[x] += times
    if head == _NONE:
        touched[state[0]] = x
        state[0] += 1
    elif nodes[head, 0] == chunk:
        return
    if state[1] != _NONE:
        node = state[1]
        state[1] = nodes[node, 1]
    else:
        node = state[2]
        state[2] += 1
    nodes[node, 0], nodes[node, 1] = chunk, head
    lists[x] = node


@njit(cache=True, nogil=True)
def _merge_in_chunk(symbols, start, length, a, b, c, chunk, times, left, right, nodes, states):  # type: ignore[no-untyped-def]
    """Replaces each (a, b) in one chunk by c, from left to right, noting the neighbours. Returns the new length.

    `left` and `right` are (change, lists, touched) for the neighbours on either side.
    """
    out, p = start, start
    end = start + length
    while p < end:
        symbol = symbols[p]
        if symbol != a or p + 1 >= end or symbols[p + 1] != b:
            symbols[out] = symbol
            p += 1
        else:
            if out > start:
                _note(symbols[out - 1], chunk, times, left[0], left[1], left[2], nodes, states[0])
            if p + 2 < end:
                states[1, 1], states[1, 2] = states[0, 1], states[0, 2]
                _note(symbols[p + 2], chunk, times, right[0], right[1], right[2], nodes, states[1])
                states[0, 1], states[0, 2] = states[1, 1], states[1, 2]
            symbols[out] = c
            p += 2
        out += 1
    return out - start


@njit(cache=True, nogil=True)
def learn(symbols, ends, counts, vocab, least, progress):  # type: ignore[no-untyped-def]
    """Learns merges until there are `vocab` tokens or no pair occurs `least` times.

    Args:
        symbols: the different chunks as ids of single bytes (0 to 255), one after another, int32; overwritten.
        ends: where each chunk ends, int64.
        counts: how often each occurs, int64.
        vocab: how many tokens there shall be, the 256 single bytes included.
        least: the least count of a pair that is merged, at least 1.
        progress: two int64; [0] receives how many tokens there are; setting [1] from outside stops the work.

    Returns:
        Pairs of ids, int32, shape `(merges, 2)`; row i makes token 256 + i.
    """
    totals, heads, nodes, nodes_used = _pairs_of_bytes(symbols, ends, counts)
    lengths = np.empty(len(ends), dtype=np.int32)
    for chunk in range(len(ends)):
        lengths[chunk] = ends[chunk] - (ends[chunk - 1] if chunk > 0 else 0)

    keys = np.full(1 << 18, _NONE, dtype=np.int64)
    pair_counts = np.zeros(1 << 18, dtype=np.int64)
    pairs = 0
    queue = np.empty((1 << 18, 3), dtype=np.int64)  # count, left << 32 | right, first node of its list of chunks
    waiting = 0
    for pair in range(1 << 16):
        if totals[pair] > 0:
            key = np.int64(pair >> 8) << 32 | np.int64(pair & 255)
            slot = _slot_of(keys, key)
            keys[slot], pair_counts[slot] = key, totals[pair]
            pairs += 1
            queue[waiting, 0], queue[waiting, 1], queue[waiting, 2] = totals[pair], key, heads[pair]
            _rise(queue, waiting)
            waiting += 1

    merges = np.empty((max(vocab - 256, 0), 2), dtype=np.int32)
    left = (np.zeros(vocab, np.int64), np.full(vocab, _NONE, np.int64), np.empty(vocab, np.int32))
    right = (np.zeros(vocab, np.int64), np.full(vocab, _NONE, np.int64), np.empty(vocab, np.int32))
    states = np.zeros((2, 3), dtype=np.int64)
    states[0, 1], states[0, 2] = _NONE, nodes_used
    c = 256
    while c < vocab and waiting > 0 and progress[1] == 0:
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

        a, b = key >> 32, key & 0xFFFFFFFF
        merges[c - 256, 0], merges[c - 256, 1] = a, b
        states[0, 0], states[1, 0] = 0, 0
        while node != _NONE:
            chunk, following = np.int64(nodes[node, 0]), np.int64(nodes[node, 1])
            nodes[node, 1] = states[0, 1]  # the node is free for another list
            states[0, 1] = node
            if states[0, 2] + 2 * lengths[chunk] > len(nodes):
                nodes = _longer(nodes, 2 * len(nodes) + 2 * lengths[chunk])
            start = ends[chunk - 1] if chunk > 0 else np.int64(0)
            lengths[chunk] = _merge_in_chunk(
                symbols, start, lengths[chunk], a, b, c, chunk, counts[chunk], left, right, nodes, states
            )
            node = following

        come = states[0, 0] + states[1, 0]
        while 2 * (pairs + 2 * come) > len(keys):
            keys, pair_counts = _twice_as_large(keys, pair_counts)
        if waiting + come > len(queue):
            queue = _longer(queue, 2 * (waiting + come))
        for side in range(2):
            change, _, touched = left if side == 0 else right
            for i in range(states[side, 0]):
                x = np.int64(touched[i])
                for gone in range(2):
                    one, two = (x, a if gone else c) if side == 0 else (b if gone else c, x)
                    key = one << 32 | two
                    slot = _slot_of(keys, key)
                    if keys[slot] == _NONE:
                        keys[slot] = key
                        pairs += 1
                    pair_counts[slot] += -change[x] if gone else change[x]
                change[x] = 0
        for side in range(2):
            _, lists, touched = left if side == 0 else right
            for i in range(states[side, 0]):
                x = np.int64(touched[i])
                key = x << 32 | c if side == 0 else c << 32 | x
                queue[waiting, 0] = pair_counts[_slot_of(keys, key)]
                queue[waiting, 1], queue[waiting, 2] = key, lists[x]
                _rise(queue, waiting)
                waiting += 1
                lists[x] = _NONE
        c += 1
        progress[0] = c
    return merges[: c - 256]

"""A vocabulary as the compiled encoder wants it: tables of tokens by their bytes and of pairs by their ids.

A pair's entry is one 64-bit number, (left << 20 | right) + 1 above its priority of 24 bits, so that the table stays
small: most of what encoding waits for is memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penjing.errors import TokenizerError
from penjing.tokenizer.counting import hash_bytes, same_bytes

MOST_TOKENS = (1 << 20) - 1
"""How many ids a tokenizer can have; more in a file are no vocabulary but damage, and would fill the memory."""
MOST_MERGES = 1 << 24
NO_TOKEN = MOST_TOKENS
"""What stands for a byte that a vocabulary lacks."""


class Tables(NamedTuple):
    """What the encoder looks things up in."""

    byte_ids: NDArray[np.int32]
    """The id of each byte, `NO_TOKEN` where the vocabulary lacks it, shape `(256,)`."""
    byte_pairs: NDArray[np.int32]
    """The priority of each pair of bytes, -1 where they do not merge, indexed by first << 8 | second."""
    pairs: NDArray[np.uint64]
    """Open-addressing table of pairs; 0 is a free slot."""
    merged: NDArray[np.int32]
    """The id that a merge makes, indexed by its priority."""
    slots: NDArray[np.int32]
    """Open-addressing table of ids by the hash of their bytes; -1 is free. Empty unless whole chunks are looked up."""
    content: NDArray[np.uint8]
    """The bytes of all tokens, one after another."""
    ends: NDArray[np.int64]
    """Where each token ends in `content`."""


@njit(cache=True, nogil=True)
def token_of(data, start, end, slots, content, ends):  # type: ignore[no-untyped-def]
    """The id of the token with the bytes `data[start:end]`, or -1."""
    mask = np.uint64(len(slots) - 1)
    slot = hash_bytes(data, start, end) & mask
    while slots[slot] >= 0:
        token = slots[slot]
        at = ends[token - 1] if token > 0 else np.int64(0)
        if ends[token] - at == end - start and same_bytes(content, at, data, start, end - start):
            return np.int64(token)
        slot = (slot + np.uint64(1)) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _index_tokens(content, ends, slots):  # type: ignore[no-untyped-def]
    """Fills `slots` with the ids of all tokens that have bytes; of equal ones the first stays."""
    mask = np.uint64(len(slots) - 1)
    start = np.int64(0)
    for token in range(len(ends)):
        if ends[token] > start and token_of(content, start, ends[token], slots, content, ends) < 0:
            slot = hash_bytes(content, start, ends[token]) & mask
            while slots[slot] >= 0:
                slot = (slot + np.uint64(1)) & mask
            slots[slot] = token
        start = ends[token]


@njit(cache=True, nogil=True)
def priority_of(pairs, left, right):  # type: ignore[no-untyped-def]
    """The priority of a pair of ids, or -1 when they do not merge."""
    key = np.uint64(left) << np.uint64(20) | np.uint64(right)
    mask = np.uint64(len(pairs) - 1)
    slot = (key * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) & mask
    key += np.uint64(1)
    while True:
        entry = pairs[slot]
        if entry >> np.uint64(24) == key:
            return np.int64(entry & np.uint64(0xFFFFFF))
        if entry == 0:
            return np.int64(-1)
        slot = (slot + np.uint64(1)) & mask


@njit(cache=True, nogil=True)
def _fill_pairs(rows, by_id, pairs):  # type: ignore[no-untyped-def]
    """Enters (left, right, merged) rows; a pair's priority is its merged id if `by_id`, else its (last) row."""
    mask = np.uint64(len(pairs) - 1)
    for row in range(len(rows)):
        key = np.uint64(rows[row, 0]) << np.uint64(20) | np.uint64(rows[row, 1])
        slot = (key * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) & mask
        key += np.uint64(1)
        while pairs[slot] != 0 and pairs[slot] >> np.uint64(24) != key:
            slot = (slot + np.uint64(1)) & mask
        pairs[slot] = key << np.uint64(24) | np.uint64(rows[row, 2] if by_id else row)


@njit(cache=True, nogil=True)
def _fill_byte_pairs(byte_ids, pairs, byte_pairs):  # type: ignore[no-untyped-def]
    for first in range(256):
        for second in range(256):
            byte_pairs[first << 8 | second] = priority_of(pairs, byte_ids[first], byte_ids[second])


@njit(cache=True, nogil=True)
def _find_joins(content, ends, slots, found):  # type: ignore[no-untyped-def]
    """Writes (left, right, merged) of every two tokens that joined are a token into `found`; returns how many."""
    count = 0
    start = np.int64(0)
    for merged in range(len(ends)):
        for cut in range(start + 1, ends[merged]):
            left = token_of(content, start, cut, slots, content, ends)
            if left >= 0:
                right = token_of(content, cut, ends[merged], slots, content, ends)
                if right >= 0:
                    found[count, 0], found[count, 1], found[count, 2] = left, right, merged
                    count += 1
        start = ends[merged]
    return count


def tables_of(tokens: Sequence[bytes], merges: NDArray[np.int32] | None, *, whole: bool) -> Tables:
    """The tables of a vocabulary.

    Args:
        tokens: the bytes of each id.
        merges: rows (left id, right id, merged id) in order of priority, or None for tiktoken's rule: any two tokens
            whose bytes joined are a token merge, and the smaller its id the sooner.
        whole: whether a chunk that is a token is that token, whatever its merges give.

    Raises:
        TokenizerError: there are more tokens or merges than the tables have room for.
    """
    if len(tokens) > MOST_TOKENS or (merges is not None and len(merges) > MOST_MERGES):
        raise TokenizerError(f"a vocabulary may have {MOST_TOKENS:,} tokens and {MOST_MERGES:,} merges at most")
    content, ends = _laid_out(tokens)
    slots = _slots(content, ends) if whole or merges is None else np.empty(0, dtype=np.int32)
    by_id = merges is None
    rows = merges if merges is not None else _joins(content, ends, slots)
    pairs = np.zeros(_power_of_two(2 * len(rows)), dtype=np.uint64)
    _fill_pairs(rows, by_id, pairs)
    merged = np.arange(len(tokens), dtype=np.int32) if by_id else np.ascontiguousarray(rows[:, 2])
    byte_ids = np.full(256, NO_TOKEN, dtype=np.int32)
    for number, token in enumerate(tokens):
        if len(token) == 1 and byte_ids[token[0]] == NO_TOKEN:
            byte_ids[token[0]] = number
    byte_pairs = np.full(1 << 16, -1, dtype=np.int32)
    _fill_byte_pairs(byte_ids, pairs, byte_pairs)
    return Tables(byte_ids, byte_pairs, pairs, merged, slots if whole else slots[:0], content, ends)


def merges_of_ranks(tokens: Sequence[bytes]) -> NDArray[np.int32]:
    """What tiktoken's rule lets merge, as rows (left, right, merged): by merged id, then left, then right."""
    content, ends = _laid_out(tokens)
    rows = _joins(content, ends, _slots(content, ends))
    return rows[np.lexsort((rows[:, 1], rows[:, 0], rows[:, 2]))]


def _slots(content: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int32]:
    slots = np.full(_power_of_two(2 * len(ends)), -1, dtype=np.int32)
    _index_tokens(content, ends, slots)
    return slots


def _joins(content: NDArray[np.uint8], ends: NDArray[np.int64], slots: NDArray[np.int32]) -> NDArray[np.int32]:
    found = np.empty((len(content), 3), dtype=np.int32)  # one row per place where a token can be cut is enough
    return found[: _find_joins(content, ends, slots, found)].copy()


def _laid_out(tokens: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of all tokens one after another, and where each ends."""
    lengths = np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens))
    return np.frombuffer(b"".join(tokens), dtype=np.uint8), np.cumsum(lengths)


def _power_of_two(least: int) -> int:
    return 1 << max(least, 16).bit_length()

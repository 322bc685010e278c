"""The split patterns as a scanner over UTF-8 bytes: what `regex` finds, ten to twenty times as fast.

Each of the patterns decides on a chunk by the classes of the characters at hand (letter, digit, white space, other), so
one table of classes and a few loops do the work of the expression, compiled by numba. `patterns.SplitPattern.split` is
the reference; the tests compare the two on random text of every class.

Any bytes are accepted: a byte that is not part of a UTF-8 character counts as an "other" character of its own.

    >>> data = np.frombuffer("Hello world!".encode(), np.uint8)
    >>> chunk_ends(SplitPattern.of("cl100k"), data, np.array([12])).tolist()
    [5, 11, 12]
"""

import zlib
from functools import cache
from importlib import resources

import numpy as np
import regex
from numba import njit
from numpy.typing import NDArray

from penjing.tokenizer.patterns import GPT2, O200K, SplitPattern, isolate

LOWER, UPPER, LETTER, NUMBER, SPACE, NEWLINE = 1, 2, 4, 8, 16, 32
_APOSTROPHE, _BLANK, _SLASH = 39, 32, 47


@cache
def character_classes() -> NDArray[np.uint8]:
    r"""The classes of every code point in Unicode 16.0, as bits, shape (1114112,).

    LETTER: `\p{L}`; LOWER: `\p{Ll}`, UPPER: `\p{Lu}\p{Lt}`, and both for `\p{Lm}\p{Lo}\p{M}` (a mark is no LETTER);
    NUMBER: `\p{N}`; SPACE: `\s`; NEWLINE: `\r\n`.
    The file holds runs: the length as a base-128 number, low digits first, then the class.
    """
    packed = zlib.decompress(resources.files("penjing.tokenizer").joinpath("unicode16.bin").read_bytes())
    lengths, classes = [], []
    length = shift = position = 0
    while position < len(packed):
        digit = packed[position]
        length |= (digit & 127) << shift
        shift += 7
        position += 1
        if digit < 128:
            lengths.append(length)
            classes.append(packed[position])
            length = shift = 0
            position += 1
    table = np.repeat(np.array(classes, dtype=np.uint8), lengths)
    table.setflags(write=False)
    return table


@njit(cache=True, nogil=True, inline="always")
def _at(data, p, n, classes):  # type: ignore[no-untyped-def]
    """The class of the character at `p`, times 8, plus how many bytes it has."""
    b = data[p]
    if b < 0x80:
        return np.int64(classes[b]) << 3 | 1
    return _beyond_ascii(data, p, n, classes)


@njit(cache=True, nogil=True)
def _beyond_ascii(data, p, n, classes):  # type: ignore[no-untyped-def]
    b = np.int64(data[p])
    if 0xE0 <= b < 0xF0 and p + 2 < n:
        c, d = np.int64(data[p + 1]), np.int64(data[p + 2])
        code = (b & 0x0F) << 12 | (c & 0x3F) << 6 | d & 0x3F
        if c & 0xC0 == 0x80 and d & 0xC0 == 0x80 and code >= 0x800 and not 0xD800 <= code < 0xE000:
            return np.int64(classes[code]) << 3 | 3
    elif 0xC2 <= b < 0xE0 and p + 1 < n:
        c = np.int64(data[p + 1])
        if c & 0xC0 == 0x80:
            return np.int64(classes[(b & 0x1F) << 6 | c & 0x3F]) << 3 | 2
    elif 0xF0 <= b < 0xF5 and p + 3 < n:
        c, d, e = np.int64(data[p + 1]), np.int64(data[p + 2]), np.int64(data[p + 3])
        code = (b & 0x07) << 18 | (c & 0x3F) << 12 | (d & 0x3F) << 6 | e & 0x3F
        if c & 0xC0 == 0x80 and d & 0xC0 == 0x80 and e & 0xC0 == 0x80 and 0x10000 <= code < 0x110000:
            return np.int64(classes[code]) << 3 | 4
    return np.int64(1)


@njit(cache=True, nogil=True)
def _run(data, p, n, classes, wanted):  # type: ignore[no-untyped-def]
    """Where the run of characters of the class `wanted` (any of its bits) that starts at `p` ends."""
    while p < n:
        at = _at(data, p, n, classes)
        if (at >> 3) & wanted == 0:
            break
        p += at & 7
    return p


@njit(cache=True, nogil=True)
def _run_of_others(data, p, n, classes):  # type: ignore[no-untyped-def]
    r"""Where the run of `[^\s\p{L}\p{N}]` that starts at `p` ends."""
    while p < n:
        at = _at(data, p, n, classes)
        if (at >> 3) & (LETTER | NUMBER | SPACE) != 0:
            break
        p += at & 7
    return p


@njit(cache=True, nogil=True)
def _contraction(data, p, n, any_case):  # type: ignore[no-untyped-def]
    """The end of 's 't 'd 'm 'll 've 're at `p`, or `p` when there is none. Regardless of case, U+017F is an s."""
    if p + 1 >= n or data[p] != _APOSTROPHE:
        return p
    fold = 0x20 if any_case else 0
    b = data[p + 1] | fold
    if b == 115 or b == 116 or b == 100 or b == 109:  # s t d m
        return p + 2
    if p + 2 < n:
        c = data[p + 2] | fold
        if (b == 108 and c == 108) or ((b == 118 or b == 114) and c == 101):  # ll ve re
            return p + 3
        if any_case and data[p + 1] == 0xC5 and data[p + 2] == 0xBF:
            return p + 3
    return p


@njit(cache=True, nogil=True)
def _white_space(data, p, n, classes, newlines, trailing):  # type: ignore[no-untyped-def]
    r"""The end of the chunk of white space that starts at `p`.

    Follows `\s++$` if `trailing`, then `\s*[\r\n]+` if `newlines`, then `\s+(?!\S)|\s+`.
    """
    end, last, after_newline = p, p, p
    while end < n:
        at = _at(data, end, n, classes)
        if (at >> 3) & SPACE == 0:
            break
        last = end
        end += at & 7
        if (at >> 3) & NEWLINE != 0:
            after_newline = end
    if trailing and end == n:
        return end
    if newlines and after_newline > p:
        return after_newline
    if end == n or last == p:
        return end
    return last  # the last character of the run goes with the word that follows


@njit(cache=True, nogil=True)
def _digits(data, p, n, classes, most):  # type: ignore[no-untyped-def]
    count = 0
    while p < n and count < most:
        at = _at(data, p, n, classes)
        if (at >> 3) & NUMBER == 0:
            break
        p += at & 7
        count += 1
    return p


@njit(cache=True, nogil=True)
def _gpt2(data, p, n, classes):  # type: ignore[no-untyped-def]
    end = _contraction(data, p, n, False)
    if end > p:
        return end
    start = p
    at = _at(data, p, n, classes)
    if data[p] == _BLANK and p + 1 < n:
        start = p + 1
        at = _at(data, start, n, classes)
    kind = at >> 3
    if kind & LETTER != 0:
        return _run(data, start, n, classes, LETTER)
    if kind & NUMBER != 0:
        return _run(data, start, n, classes, NUMBER)
    if kind & SPACE == 0:
        return _run_of_others(data, start, n, classes)
    return _white_space(data, p, n, classes, False, False)


@njit(cache=True, nogil=True)
def _numbers_and_the_rest(data, p, n, classes, digits, trailing, slash):  # type: ignore[no-untyped-def]
    """The alternatives that cl100k, qwen and o200k share, once no word begins at `p`."""
    at = _at(data, p, n, classes)
    if (at >> 3) & NUMBER != 0:
        return _digits(data, p, n, classes, digits)
    start = p + 1 if data[p] == _BLANK else p
    end = _run_of_others(data, start, n, classes)
    if end > start:
        while end < n and (data[end] == 10 or data[end] == 13 or (slash and data[end] == _SLASH)):
            end += 1
        return end
    return _white_space(data, p, n, classes, True, trailing)


@njit(cache=True, nogil=True)
def _cl100k(data, p, n, classes, digits, trailing):  # type: ignore[no-untyped-def]
    end = _contraction(data, p, n, True)
    if end > p:
        return end
    at = _at(data, p, n, classes)
    start = p
    if (at >> 3) & (LETTER | NUMBER | NEWLINE) == 0:
        start = p + (at & 7)
    end = _run(data, start, n, classes, LETTER)
    if end > start:
        return end
    return _numbers_and_the_rest(data, p, n, classes, digits, trailing, False)


@njit(cache=True, nogil=True)
def _cased_word(data, p, n, classes):  # type: ignore[no-untyped-def]
    r"""The end of `[UPPER]*[LOWER]+` at `p`, where marks and letters without case are both; `p` when there is none.

    The greedy `[UPPER]*` may have to give back: up to the last character that can also stand as `[LOWER]+`.
    """
    end, after_both = p, p
    while end < n:
        at = _at(data, end, n, classes)
        if (at >> 3) & UPPER == 0:
            break
        end += at & 7
        if (at >> 3) & LOWER != 0:
            after_both = end
    longer = _run(data, end, n, classes, LOWER)
    return longer if longer > end else after_both


@njit(cache=True, nogil=True)
def _o200k(data, p, n, classes, digits):  # type: ignore[no-untyped-def]
    at = _at(data, p, n, classes)
    start = p
    if (at >> 3) & (LETTER | NUMBER | NEWLINE) == 0:
        start = p + (at & 7)
    end = _cased_word(data, start, n, classes)
    if end == start and start > p and (at >> 3) & UPPER != 0:
        return _contraction(data, start, n, True)  # a mark with no word after it is a word itself
    if end == start:
        end = _run(data, start, n, classes, UPPER)
    if end > start:
        return _contraction(data, end, n, True)
    return _numbers_and_the_rest(data, p, n, classes, digits, False, True)


@njit(cache=True, nogil=True)
def _scan(data, documents, kind, digits, trailing, classes, ends):  # type: ignore[no-untyped-def]
    """Writes where each chunk ends to `ends`, by a pattern's `Rules`; returns how many there are."""
    count = 0
    p = 0
    for n in documents:
        while p < n:
            if kind == GPT2:
                p = _gpt2(data, p, n, classes)
            elif kind == O200K:
                p = _o200k(data, p, n, classes, digits)
            else:
                p = _cl100k(data, p, n, classes, digits, trailing)
            ends[count] = p
            count += 1
    return count


def chunk_ends(pattern: SplitPattern, data: NDArray[np.uint8], documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each chunk ends.

    Args:
        pattern: how text is split.
        data: UTF-8 bytes, one document after another, shape `(bytes,)`.
        documents: where each document ends, shape `(documents,)`; every document end is the end of a chunk.

    Returns:
        Shape `(chunks,)`, rising to `len(data)`.
    """
    for expression, rules in zip(pattern.compiled, pattern.rules, strict=True):
        if rules is None:
            documents = _ends_by_regex(expression, data, documents)
        else:
            ends = np.empty(len(data), dtype=np.int64)
            classes = character_classes()
            count = _scan(data, documents, rules.kind, rules.digits, rules.trailing, classes, ends)
            documents = ends[:count]
    return documents


def utf8(text: str) -> bytes:
    """The bytes of a text, with U+FFFD for a lone surrogate, which is no character."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _ends_by_regex(
    expression: "regex.Pattern[str]", data: NDArray[np.uint8], documents: NDArray[np.int64]
) -> NDArray[np.int64]:
    """As the scanner, by any expression; a byte that is not UTF-8 is a character of its own."""
    lengths: list[int] = []
    start = 0
    for end in documents.tolist():
        text = data[start:end].tobytes().decode("utf-8", "surrogateescape")
        lengths += [len(chunk.encode("utf-8", "surrogateescape")) for chunk in isolate(expression, text)]
        start = end
    return np.cumsum(np.array(lengths, dtype=np.int64), dtype=np.int64)

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

LOWER, UPPER, LETTER, NUMBER, SPACE, NEWLINE, INSIDE = 1, 2, 4, 8, 16, 32, 64
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


@njit(cache=True, nogil=True)
def _classify(data, classes, kinds):  # type: ignore[no-untyped-def]
    """Gives each byte the class of its character, with INSIDE on all of its bytes but the first."""
    n = len(data)
    p = np.int64(0)
    while p < n:
        b = np.int64(data[p])
        if b < 0x80:
            kinds[p] = classes[b]
            p += 1
            continue
        length = _length(data, p, n)
        code = np.int64(b) if length == 1 else b & (0xFF >> (length + 1))
        for q in range(p + 1, p + length):
            code = code << 6 | np.int64(data[q]) & 0x3F
        kind = classes[code] if length > 1 else np.uint8(0)
        kinds[p] = kind
        for q in range(p + 1, p + length):
            kinds[q] = kind | INSIDE
        p += length


@njit(cache=True, nogil=True)
def _length(data, p, n):  # type: ignore[no-untyped-def]
    """How many bytes the character at `p`, not ASCII, has; 1 if the bytes there are no character of UTF-8."""
    b = data[p]
    if 0xE0 <= b < 0xF0:
        if p + 2 < n and data[p + 1] & 0xC0 == 0x80 and data[p + 2] & 0xC0 == 0x80:
            overlong = b == 0xE0 and data[p + 1] < 0xA0
            surrogate = b == 0xED and data[p + 1] >= 0xA0
            return 1 if overlong or surrogate else 3
    elif 0xC2 <= b < 0xE0:
        if p + 1 < n and data[p + 1] & 0xC0 == 0x80:
            return 2
    elif 0xF0 <= b < 0xF5 and p + 3 < n and data[p + 1] & 0xC0 == 0x80:
        outside = (b == 0xF0 and data[p + 1] < 0x90) or (b == 0xF4 and data[p + 1] >= 0x90)
        if not outside and data[p + 2] & 0xC0 == 0x80 and data[p + 3] & 0xC0 == 0x80:
            return 4
    return 1


@njit(cache=True, nogil=True)
def _run(kinds, p, n, wanted):  # type: ignore[no-untyped-def]
    """Where the run of characters of the class `wanted` that starts at `p` ends."""
    while p < n and kinds[p] & wanted != 0:
        p += 1
    return p


@njit(cache=True, nogil=True)
def _run_of_others(kinds, p, n):  # type: ignore[no-untyped-def]
    r"""Where the run of `[^\s\p{L}\p{N}]` that starts at `p` ends."""
    while p < n and kinds[p] & (LETTER | NUMBER | SPACE) == 0:
        p += 1
    return p


@njit(cache=True, nogil=True)
def _next(kinds, p, n):  # type: ignore[no-untyped-def]
    """Where the character after the one at `p` begins."""
    p += 1
    while p < n and kinds[p] & INSIDE != 0:
        p += 1
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
def _white_space(kinds, p, n, newlines, trailing):  # type: ignore[no-untyped-def]
    r"""The end of the chunk of white space that starts at `p`.

    Follows `\s++$` if `trailing`, then `\s*[\r\n]+` if `newlines`, then `\s+(?!\S)|\s+`.
    """
    end, last, after_newline = p, p, p
    while end < n and kinds[end] & SPACE != 0:
        if kinds[end] & INSIDE == 0:
            last = end
        end += 1
        if kinds[end - 1] & NEWLINE != 0:
            after_newline = end
    if trailing and end == n:
        return end
    if newlines and after_newline > p:
        return after_newline
    if end == n or last == p:
        return end
    return last  # the last character of the run goes with the word that follows


@njit(cache=True, nogil=True)
def _digits(kinds, p, n, most):  # type: ignore[no-untyped-def]
    count = 0
    while p < n and count < most and kinds[p] & NUMBER != 0:
        p = _next(kinds, p, n)
        count += 1
    return p


@njit(cache=True, nogil=True)
def _gpt2(data, kinds, p, n):  # type: ignore[no-untyped-def]
    end = _contraction(data, p, n, False)
    if end > p:
        return end
    start = p + 1 if data[p] == _BLANK and p + 1 < n else p
    kind = kinds[start]
    if kind & LETTER != 0:
        return _run(kinds, start, n, LETTER)
    if kind & NUMBER != 0:
        return _run(kinds, start, n, NUMBER)
    if kind & SPACE == 0:
        return _run_of_others(kinds, start, n)
    return _white_space(kinds, p, n, False, False)


@njit(cache=True, nogil=True)
def _numbers_and_the_rest(data, kinds, p, n, digits, trailing, slash):  # type: ignore[no-untyped-def]
    """The alternatives that cl100k, qwen and o200k share, once no word begins at `p`."""
    if kinds[p] & NUMBER != 0:
        return _digits(kinds, p, n, digits)
    start = p + 1 if data[p] == _BLANK else p
    end = _run_of_others(kinds, start, n)
    if end > start:
        while end < n and (kinds[end] & NEWLINE != 0 or (slash and data[end] == _SLASH)):
            end += 1
        return end
    return _white_space(kinds, p, n, True, trailing)


@njit(cache=True, nogil=True)
def _cl100k(data, kinds, p, n, digits, trailing):  # type: ignore[no-untyped-def]
    end = _contraction(data, p, n, True)
    if end > p:
        return end
    start = p if kinds[p] & (LETTER | NUMBER | NEWLINE) != 0 else _next(kinds, p, n)
    end = _run(kinds, start, n, LETTER)
    if end > start:
        return end
    return _numbers_and_the_rest(data, kinds, p, n, digits, trailing, False)


@njit(cache=True, nogil=True)
def _cased_word(kinds, p, n):  # type: ignore[no-untyped-def]
    r"""The end of `[UPPER]*[LOWER]+` at `p`, where marks and letters without case are both; `p` when there is none.

    The greedy `[UPPER]*` may have to give back: up to the last character that can also stand as `[LOWER]+`.
    """
    end, after_both = p, p
    while end < n and kinds[end] & UPPER != 0:
        end += 1
        if kinds[end - 1] & LOWER != 0:
            after_both = end
    longer = _run(kinds, end, n, LOWER)
    return longer if longer > end else after_both


@njit(cache=True, nogil=True)
def _o200k(data, kinds, p, n, digits):  # type: ignore[no-untyped-def]
    start = p if kinds[p] & (LETTER | NUMBER | NEWLINE) != 0 else _next(kinds, p, n)
    end = _cased_word(kinds, start, n)
    if end == start and start > p and kinds[p] & UPPER != 0:
        return _contraction(data, start, n, True)  # a mark with no word after it is a word itself
    if end == start:
        end = _run(kinds, start, n, UPPER)
    if end > start:
        return _contraction(data, end, n, True)
    return _numbers_and_the_rest(data, kinds, p, n, digits, False, True)


@njit(cache=True, nogil=True)
def _scan(data, kinds, documents, kind, digits, trailing, ends):  # type: ignore[no-untyped-def]
    """Writes where each chunk ends to `ends`, by a pattern's `Rules`; returns how many there are."""
    count = 0
    p = np.int64(0)
    for n in documents:
        while p < n:
            if kind == GPT2:
                p = _gpt2(data, kinds, p, n)
            elif kind == O200K:
                p = _o200k(data, kinds, p, n, digits)
            else:
                p = _cl100k(data, kinds, p, n, digits, trailing)
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
    kinds: NDArray[np.uint8] | None = None
    documents = documents[documents > np.concatenate([[0], documents[:-1]])]  # no chunk is empty
    for expression, rules in zip(pattern.compiled, pattern.rules, strict=True):
        if rules is None:
            documents = _ends_by_regex(expression, data, documents)
        else:
            if kinds is None:
                kinds = np.empty(len(data), dtype=np.uint8)
                _classify(data, character_classes(), kinds)
            ends = np.empty(len(data), dtype=np.int64)
            documents = ends[: _scan(data, kinds, documents, rules.kind, rules.digits, rules.trailing, ends)]
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

"""How rich or poor a text is: words and their types, entropy by context length, and what a compressor makes of it.

The n-gram entropy is that of a character given the n - 1 before it, counted on the text itself, in bits per character:

    H_n = - sum over n-grams g of  p(g) log2 p(last character of g | the characters before it)

(Shannon, "Prediction and Entropy of Printed English", 1951, section 2). For long n and short texts it is too low, since
most n-grams then occur once; compare texts of equal length only.
"""

import lzma
import math
import re
from collections import Counter
from dataclasses import dataclass

_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*", re.IGNORECASE)
_HAN = re.compile("[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Statistics:
    """Figures of one text."""

    bytes: int
    """Its length in UTF-8."""
    characters: int
    words: int
    """English words, and Chinese characters one by one."""
    types: int
    """How many of these are different."""
    entropies: tuple[float, ...]
    """Bits per character given 0, 1, 2, ... characters before it."""
    xz_ratio: float
    """Bytes after xz at its highest setting, per byte before."""


def statistics(text: str, longest: int = 5) -> Statistics:
    """The figures of a text, with entropies of n-grams of length 1 to `longest`."""
    words = Counter(word.lower() for word in _WORD.findall(text))
    words.update(_HAN.findall(text))
    data = text.encode()
    return Statistics(
        bytes=len(data),
        characters=len(text),
        words=sum(words.values()),
        types=len(words),
        entropies=tuple(conditional_entropy(text, n) for n in range(1, longest + 1)),
        xz_ratio=len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / max(1, len(data)),
    )


def conditional_entropy(text: str, n: int) -> float:
    """Bits per character given the n - 1 characters before it, by the text's own counts.

    >>> conditional_entropy("abababab", 1)
    1.0
    >>> conditional_entropy("abababab", 2)
    0.0
    """
    grams = Counter(text[i : i + n] for i in range(len(text) - n + 1))
    contexts: Counter[str] = Counter()
    for gram, count in grams.items():
        contexts[gram[:-1]] += count
    total = sum(grams.values())
    if not total:
        return 0.0
    return abs(sum(count * math.log2(contexts[gram[:-1]] / count) for gram, count in grams.items()) / total)


def vocabulary_used(text: str, words: tuple[str, ...]) -> int:
    """How many of these words (or phrases) the text contains as whole words; Chinese ones anywhere in it."""
    lowered = text.lower()
    tokens = set(_WORD.findall(lowered))
    found = 0
    for word in words:
        w = word.lower()
        if _HAN.search(w) or " " in w or not _WORD.fullmatch(w):
            found += w in lowered
        else:
            found += w in tokens
    return found

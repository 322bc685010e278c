"""Rules that tell text from what only looks like it: menus, lists of links, repeated boilerplate, broken encodings.

Each rule is cheap, explains itself, and has a name under which the report counts what it left out. They follow the
rules that Gopher's training text was filtered by, with its thresholds; words are counted so that Chinese text passes as
well, and rules that only make sense for words between spaces are asked only where most of the text has them.

Source: Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", 2021,
arXiv:2112.11446, appendix A.1.1.
Departs from it: documents of few words are kept from 20 on by default, not 50; Chinese characters count as words.
"""

from collections import Counter
from dataclasses import dataclass

import regex

from penjing.data.cleaning.minhash import words
from penjing.errors import ConfigError

_HAN = regex.compile(r"\p{Han}")
_BULLETS = ("-", "*", "•", "‣", "▪", "·", "–", "—")
_ELLIPSES = ("...", "…", "……")
_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with", "is", "a", "in"))
_REPEATED = ((2, 0.20), (3, 0.18), (4, 0.16))
"""For runs of so many words: the share of characters that the most frequent one may take."""


@dataclass(frozen=True)
class Quality:
    """The thresholds. What a document fails is told by the name of the rule."""

    least_words: int = 20
    most_words: int = 1_000_000
    word_length: tuple[float, float] = (3.0, 10.0)
    """Mean length of a word, where words have spaces between them."""
    symbols: float = 0.1
    """`#` and ellipses for each word, at most."""
    bullets: float = 0.9
    """The share of lines that begin with a bullet, at most."""
    ellipses: float = 0.3
    """The share of lines that end in an ellipsis, at most."""
    alphabetic: float = 0.8
    """The share of words with a letter, at least."""
    stop_words: int = 2
    """Different English stop words, at least, where the text is of Latin letters and 50 words or more; 0 for none."""
    repeated_lines: float = 0.2
    """The share of characters in lines that have been there before, at most."""
    broken: float = 0.001
    """The share of characters U+FFFD, at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.least_words <= self.most_words:
            raise ConfigError(f"least_words is {self.least_words} and most_words {self.most_words}: none would be kept")

    def fault(self, text: str) -> str | None:
        """The first rule that a text breaks; None for a good one."""
        found = words(text)
        if len(found) < self.least_words:
            return "too few words"
        if len(found) > self.most_words:
            return "too many words"
        if text.count("\ufffd") > self.broken * len(text):
            return "broken characters"
        spaced = len(_HAN.findall(text)) < len(found) / 2
        return (
            self._fault_of_words(text, found, spaced) or self._fault_of_lines(text) or self._fault_of_repetition(found)
        )

    def _fault_of_words(self, text: str, found: list[str], spaced: bool) -> str | None:
        symbols = text.count("#") + text.count("…") + text.count("...")
        if symbols > self.symbols * len(found):
            return "symbols"
        if not spaced:
            return None
        low, high = self.word_length
        lengths = [len(word) for word in found if not _HAN.match(word)]
        if not low <= sum(lengths) / len(lengths) <= high:
            return "length of words"
        pieces = text.split()
        if sum(any(c.isalpha() for c in piece) for piece in pieces) < self.alphabetic * len(pieces):
            return "words without letters"
        if len(found) >= 50 and text.isascii() and len(_STOP_WORDS.intersection(found)) < self.stop_words:
            return "no stop words"
        return None

    def _fault_of_lines(self, text: str) -> str | None:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if sum(line.startswith(_BULLETS) for line in lines) > self.bullets * len(lines):
            return "bullets"
        if sum(line.endswith(_ELLIPSES) for line in lines) > self.ellipses * len(lines):
            return "ellipses"
        characters = sum(map(len, lines))
        if characters - sum(map(len, set(lines))) > self.repeated_lines * characters:
            return "repeated lines"
        return None

    def _fault_of_repetition(self, found: list[str]) -> str | None:
        characters = sum(map(len, found))
        for length, share in _REPEATED:
            runs = Counter(zip(*(found[i:] for i in range(length)), strict=False))
            run, count = runs.most_common(1)[0] if runs else ((), 0)
            if count > 1 and count * sum(map(len, run)) > share * characters:
                return "repeated words"
        return None

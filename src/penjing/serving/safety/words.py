"""Listed words, found however they are set apart: one a line, `#` begins a comment.

A Latin word is found where it stands alone (Scunthorpe stays Scunthorpe), a Chinese one anywhere, for Chinese has no
spaces. Both are looked for in the plain spelling (`normalise`), and with up to two dots, stars or spaces between each
two letters: `f.o.o`, `f o o`, `傻 瓜`. Spaces between Latin letters count only where they are between all of them, so
that "a foo to" is found and "off oo" is not.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import regex

from penjing.errors import DataError
from penjing.serving.safety.findings import Finding
from penjing.serving.safety.normalise import Plain, plain

_HAN = regex.compile(r"\p{Han}|\p{Hiragana}|\p{Katakana}|\p{Hangul}")
_BETWEEN = r"[\s.·•*_\-~,，。|/]{1,2}"
_SPACED = 4
"""Latin words that are shorter are not looked for set apart: "a s s" turns up in too many abbreviations."""


class WordList:
    """Words to look for.

    Args:
        words: any; empty ones do not count.
        name: what findings say found them.

    Raises:
        DataError: there are none.
    """

    def __init__(self, words: Iterable[str], name: str = "word list"):
        spelled = {text for word in words if (text := " ".join(plain(word).text.split()))}
        if not spelled:
            raise DataError(f"{name} has no words")
        self.name, self.words = name, frozenset(spelled)
        self._alone = _any_of(w for w in spelled if not _HAN.search(w))
        self._apart = _any_apart(w for w in spelled if not _HAN.search(w) and len(w) >= _SPACED)
        self._anywhere = _any_han(w for w in spelled if _HAN.search(w))

    @classmethod
    def read(cls, path: Path) -> "WordList":
        """The words of a file.

        Raises:
            DataError: it is missing, not UTF-8, or has none.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as fault:
            raise DataError(f"the word list {path} cannot be read: {fault.strerror}") from None
        except UnicodeDecodeError as fault:
            raise DataError(f"the word list {path} is not UTF-8 text (byte {fault.start})") from None
        return cls((line.partition("#")[0] for line in lines), str(path))

    def find(self, text: str, spelled: Plain | None = None) -> Iterator[Finding]:
        """Where they stand, of kind "WORD".

        Args:
            text: any.
            spelled: its plain spelling, where that is known already.
        """
        found = plain(text) if spelled is None else spelled
        for pattern in (self._alone, self._anywhere, self._apart):
            if pattern is not None:
                for match in pattern.finditer(found.text):
                    yield Finding("WORD", *found.span(*match.span()), self.name)


def _any_of(words: Iterable[str]) -> "regex.Pattern[str] | None":
    listed = [re.escape(word).replace(r"\ ", r"\s+") for word in sorted(words, key=len, reverse=True)]
    return regex.compile(rf"(?<![\p{{L}}\p{{N}}])(?:{'|'.join(listed)})(?![\p{{L}}\p{{N}}])") if listed else None


def _any_apart(words: Iterable[str]) -> "regex.Pattern[str] | None":
    listed = [_BETWEEN.join(map(re.escape, word.replace(" ", ""))) for word in words]
    return regex.compile(rf"(?<![\p{{L}}\p{{N}}])(?:{'|'.join(listed)})(?![\p{{L}}\p{{N}}])") if listed else None


def _any_han(words: Iterable[str]) -> "regex.Pattern[str] | None":
    between = _BETWEEN.replace("{1,2}", "{0,2}")
    listed = [between.join(map(re.escape, word.replace(" ", ""))) for word in sorted(words, key=len, reverse=True)]
    return regex.compile("|".join(listed)) if listed else None

"""One spelling for all the ways in which a word can be written so that a person reads it and a filter does not.

    text that is seen            what hides in it                        plain
    f​u​n                        zero-width characters between letters    fun
    ｆｕｎ, 𝐟𝐮𝐧, ⓕⓤⓝ               compatibility forms (NFKC)               fun
    fuп, fυn                     Cyrillic or Greek among Latin letters   fun
    f̷u̷n̷                          marks on letters (of Latin ones)         fun
    (nothing)                    tag characters U+E0020..E007E           reported by `hidden`
    f.u.n   f u n                letters set apart                       by `words`, for listed words

Every character of the plain text knows where it comes from, so that what is found there can be taken out of the
original. A word that is Cyrillic or Greek as a whole is left as it is: only a mixture is suspicious.

Sources: Unicode Technical Report 36, "Unicode Security Considerations", section 2, and Technical Standard 39,
"Unicode Security Mechanisms" (mixed scripts; of its table of look-alikes only the letters below are used).
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_LOOK_ALIKES = dict(
    zip(
        "аеорсухіјѕһԁԛԝкмтвнгпАВЕКМНОРСТХУІЈЅ" + "αεικνορτυχωηςΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
        "aeopcyxijshdqwkmtbhrnABEKMHOPCTXYIJS" + "aeiknoptuxwnsABEZHIKMNOPTYX",
        strict=True,
    )
)
_INVISIBLE = {"Cf", "Co", "Cn", "Cs"}
"""Categories of what is not seen: formats (zero-width, direction, tags), private use, unassigned, halves of pairs."""
_ALSO_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800" + "".join(map(chr, range(0xFE00, 0xFE10)))
)
_JOINER = "\u200d"
_WORD = re.compile(r"[^\W\d_]+")
_DIRECTION = frozenset("\u202a\u202b\u202d\u202e\u2066\u2067\u2068")


@dataclass(frozen=True)
class Plain:
    """A text in one spelling."""

    text: str
    starts: Sequence[int]
    """Where each character begins in the original."""
    ends: Sequence[int]
    """Where it ends there."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The stretch of the original that a stretch of the plain text stands for."""
        return (self.starts[start], self.ends[end - 1]) if start < end else (0, 0)


def plain(text: str, *, lower: bool = True) -> Plain:
    """The text in one spelling, in lower case unless that is not wanted.

    >>> plain("Ｆ\u200bun").text
    'fun'
    """
    if text.isascii():
        places = range(len(text))
        return Plain(text.lower() if lower else text, places, range(1, len(text) + 1))
    characters, starts, ends = list[str](), list[int](), list[int]()
    for place, character in enumerate(text):
        if _unseen(character):
            if ends:
                ends[-1] = place + 1  # what hides behind a letter goes when the letter goes
            continue
        if unicodedata.combining(character) and characters and characters[-1].isascii():
            ends[-1] = place + 1
            continue
        for one in unicodedata.normalize("NFKC", character):
            base = unicodedata.normalize("NFD", one)[0]
            characters.append(base if base.isascii() and base.isalpha() else one)
            starts.append(place)
            ends.append(place + 1)
    spelled = _WORD.sub(_unmixed, "".join(characters))
    if not lower:
        return Plain(spelled, starts, ends)
    lowered = "".join(low if len(low := one.lower()) == 1 else one for one in spelled)
    return Plain(lowered, starts, ends)


def hidden(text: str) -> str:
    """What tag characters spell, which no one sees and every tokenizer reads; the flags of regions are none of it.

    >>> hidden("Hi" + "".join(chr(0xE0000 + ord(c)) for c in "obey"))
    'obey'
    """
    found, in_flag = [], False
    for character in text:
        code = ord(character)
        if 0xE0020 <= code <= 0xE007F:
            if not in_flag and code != 0xE007F:
                found.append(chr(code - 0xE0000))
        else:
            in_flag = code == 0x1F3F4  # the black flag, which tags make Scotland's or Texas's
    return "".join(found)


def invisible(text: str) -> list[tuple[int, int]]:
    """Where characters are that are not seen and have no business there: tags, zero-width, direction overrides.

    Joiners between emoji and within Indic or Persian words, and variation selectors, are writing, and stay.
    """
    places = []
    for place, character in enumerate(text):
        code = ord(character)
        tag = 0xE0000 <= code <= 0xE007F and hidden(text[max(0, place - 8) : place + 1]) != ""
        zero_width = code in (0x200B, 0x2060, 0x2061, 0x2062, 0x2063, 0x2064, 0x00AD, 0x180E, 0x034F)
        mark = code == 0xFEFF and place > 0
        joiner = character in "\u200c\u200d" and _between_ascii(text, place)
        if tag or zero_width or mark or joiner or character in _DIRECTION:
            places.append((place, place + 1))
    return places


def _between_ascii(text: str, place: int) -> bool:
    around = text[max(0, place - 1) : place] + text[place + 1 : place + 2]
    return bool(around) and around.isascii()


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE or character in _ALSO_INVISIBLE


def _unmixed(word: re.Match[str]) -> str:
    """A word that mixes Latin letters with their look-alikes, in Latin ones."""
    letters = word[0]
    latin = any("a" <= c.lower() <= "z" for c in letters)
    if not latin or not any(c in _LOOK_ALIKES for c in letters):
        return letters
    return "".join(_LOOK_ALIKES.get(c, c) for c in letters)

"""A text as tokens, and each token as what can be seen of it and around it, hashed into buckets.

    Dr. Ann Lee, 12 Elm St.      tokens: Dr  .  Ann  Lee  ,  12  Elm  St  .
    of "Lee":    the word, its beginnings and ends, its shape (Xx), what ordinary text knows of it, what kind of word it
                 is (a title, a street, a country, ...), what the rules found there, dates; the same of two neighbours
                 to each side, and of pairs: a neighbour's word with this one's shape tells most of unseen words

A name that was never seen is told by what it is not: a word of ordinary text. So a `Lexicon` counts plain text, and
remembers of each word how often it is there and how seldom without a capital. What the rules are sure of (an e-mail
address, a card) is a single token. Han, kana and hangul are told from other writing and never part of another token.

Sources: Ratinov, Roth, "Design Challenges and Misconceptions in Named Entity Recognition", 2009, section 3 (features);
Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009, arXiv:0902.2206.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import numpy as np
from jaxtyping import Int

from penjing.serving.safety.findings import Finding

_EAST = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_EAST}]+|[^\W\d_{_EAST}]+|\d+|\n\s*|[^\w\s]|_")
_UNREAD = re.compile(rf"[{_EAST}]")
_WORD = re.compile(rf"[^\W\d_{_EAST}]+")
_END = re.compile(r'[.!?\n"“”:;>()\[\]*#=|]')
_KINDS: Mapping[str, frozenset[str]] = {
    letter: frozenset(words.split())
    for letter, words in {
        "t": "mr mrs ms miss mx dr prof sir madam professor doctor",
        "s": "street st avenue ave road rd lane ln drive boulevard blvd way court ct place pl square sq terrace "
        "crescent highway hwy parkway close circle trail alley row walk plaza rue via calle avenida rua piazza ul",
        "u": "apt apartment suite ste unit flat floor room box po psc fpo apo building",
        "c": "inc ltd llc corp corporation company group holdings plc gmbh partners technologies systems solutions "
        "consulting university institute bank associates",
        "m": "january february march april may june july august september october november december monday tuesday "
        "wednesday thursday friday saturday sunday jan feb mar apr jun jul aug sep oct nov dec",
    }.items()
}
_PLACES = (
    "afghanistan albania algeria andorra angola argentina armenia australia austria azerbaijan bahamas bahrain "
    "bangladesh barbados belarus belgium belize benin bhutan bolivia bosnia botswana brazil brunei bulgaria "
    "burundi cambodia cameroon canada chad chile china colombia congo croatia cuba cyprus denmark djibouti "
    "dominica ecuador egypt england eritrea estonia ethiopia fiji finland france gabon gambia georgia germany "
    "ghana greece greenland grenada guatemala guinea guyana haiti honduras hungary iceland india indonesia iran "
    "iraq ireland israel italy jamaica japan jordan kazakhstan kenya korea kosovo kuwait kyrgyzstan laos latvia "
    "lebanon lesotho liberia libya liechtenstein lithuania luxembourg madagascar malawi malaysia maldives mali "
    "malta mauritania mauritius mexico moldova monaco mongolia montenegro morocco mozambique myanmar namibia "
    "nepal netherlands nicaragua niger nigeria norway oman pakistan palestine panama paraguay peru philippines "
    "poland portugal qatar romania russia rwanda samoa scotland senegal serbia seychelles singapore slovakia "
    "slovenia somalia spain sudan suriname swaziland sweden switzerland syria taiwan tajikistan tanzania thailand "
    "togo tonga tunisia turkey turkmenistan uganda ukraine uruguay usa uzbekistan vanuatu venezuela vietnam wales "
    "yemen zambia zimbabwe africa asia europe america alabama alaska arizona arkansas california colorado "
    "connecticut delaware florida hawaii idaho illinois indiana iowa kansas kentucky louisiana maine maryland "
    "massachusetts michigan minnesota mississippi missouri montana nebraska nevada ohio oklahoma oregon "
    "pennsylvania tennessee texas utah vermont virginia washington wisconsin wyoming london paris berlin tokyo "
    "beijing moscow rome madrid "
)
_PEOPLES = (
    "afghan african albanian algerian american angolan arab argentine argentinian armenian asian australian "
    "austrian azerbaijani bangladeshi belarusian belgian belizean bolivian bosnian brazilian british bulgarian "
    "cambodian cameroonian canadian chilean chinese colombian croatian cuban cypriot czech danish dutch egyptian "
    "english estonian ethiopian european filipino finnish french georgian german ghanaian greek greenlandic "
    "guatemalan haitian hungarian icelandic indian indonesian iranian iraqi irish israeli italian jamaican "
    "japanese jordanian kazakh kenyan korean kuwaiti latvian lebanese libyan lithuanian malaysian maltese mexican "
    "moldovan mongolian moroccan namibian nepalese nigerian norwegian pakistani palestinian peruvian polish "
    "portuguese romanian russian saudi scottish senegalese serbian slovak slovakian slovenian somali spanish "
    "sudanese swedish swiss syrian taiwanese tanzanian thai tunisian turkish ugandan ukrainian uruguayan "
    "venezuelan vietnamese welsh yemeni zambian zimbabwean christian muslim jewish hindu buddhist catholic "
)
_OF_WORD = (
    dict.fromkeys(_PLACES.split(), "p")
    | dict.fromkeys(_PEOPLES.split(), "n")
    | {word: letter for letter, words in _KINDS.items() for word in words}
)
_DATE = re.compile(
    r"(?<![\d/.-])(?:\d{1,2}([-/.])\d{1,2}\1(?:19|20)\d\d|(?:19|20)\d\d([-/.])\d{1,2}\2\d{1,2})"
    r"(?:[ T]\d{1,2}:\d\d(?::\d\d)?)?(?![\d/-])",
    re.ASCII,
)
_LEAST = 2
"""Words that plain text has only once say as little as those that it has not."""
_SIZES = 7
_OF_PERSON = frozenset(("mr", "mrs", "ms", "miss", "dr", "sir", "lady", "lord", "madam", "uncle", "aunt", "captain"))
_OF_PLACE = frozenset(("in", "at", "from", "near"))


@dataclass(frozen=True)
class Token:
    """A token's place."""

    start: int
    end: int
    kind: str = ""
    """What the rules are sure that it is."""


def tokens_of(text: str, sure: Iterable[Finding] = ()) -> list[Token]:
    """A text's tokens; each of the finds that the rules are sure of is a single one. No find may overlap another."""
    found: list[Token] = []
    place = 0
    for one in sorted(sure, key=lambda one: one.start):
        found += [Token(*match.span()) for match in _TOKEN.finditer(text, place, one.start)]
        found.append(Token(one.start, one.end, one.kind))
        place = one.end
    return found + [Token(*match.span()) for match in _TOKEN.finditer(text, place)]


def is_read(text: str) -> bool:
    """Whether a stretch of text is in writing that the features say something of."""
    return _UNREAD.search(text) is None


class Lexicon:
    """What plain text knows of words: how often they are there, and how seldom without a capital.

    Args:
        classes: by a word's hash, a number below `CLASSES`.
    """

    CLASSES = 12 * _SIZES

    def __init__(self, classes: Mapping[int, int] | None = None):
        self._classes = dict(classes or {})

    @classmethod
    def count(cls, texts: Iterable[str]) -> "Lexicon":
        """Counts the words of plain texts. Capitals that begin a sentence count nothing."""
        low, high, person, place = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
        for text in texts:
            end, last = 0, ""
            for match in _WORD.finditer(text):
                word, before = match[0].lower(), text[end : match.start()]
                if match[0].islower():
                    low[word] += 1
                elif last in _OF_PERSON and before.strip(". ") == "":
                    person[word] += 1
                    high[word] += 1
                elif end and match[0][0].isupper() and not _END.search(before):
                    place[word] += last in _OF_PLACE and before == " "
                    high[word] += 1
                end, last = match.end(), word
        classes = {}
        for word in low.keys() | high.keys():
            total = low[word] + high[word]
            if total >= _LEAST:
                share = high[word] / total
                name = 0 if share < 0.1 else 1 if share < 0.5 else 2 if share < 0.9 else 3
                most = max(person[word], place[word])
                company = 0 if most < 0.1 * total else 1 if most == person[word] else 2
                size = min(total.bit_length() // 2, _SIZES - 1)
                classes[crc32(word.encode())] = (name * 3 + company) * _SIZES + size
        return cls(classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __call__(self, word: str) -> tuple[str, str]:
        """The class of a word in lower case, and that part of it which is not its size; "?" if not known."""
        number = self._classes.get(crc32(word.encode()))
        return ("?", "?") if number is None else (f"l{number}", "lllmmmMMMCPL"[number // _SIZES])

    def arrays(self) -> tuple[Int[np.ndarray, " words"], Int[np.ndarray, " words"]]:
        """The hashes in order, and their classes, for a file."""
        hashes = np.array(sorted(self._classes), np.int64)
        return hashes, np.array([self._classes[int(one)] for one in hashes], np.uint8)


def shape_of(word: str) -> str:
    """How a word is written.

    >>> [shape_of(word) for word in ("lee", "Lee", "LEE", "McLee", "12", "-", "a")]
    ['x', 'Xx', 'X', 'XxX', 'd2', '-', 'x1']
    """
    if word.isdigit():
        return "dy" if len(word) == 4 and word[:2] in ("19", "20") else f"d{min(len(word), 6)}"
    if not word.isalpha():
        return word[:1]
    one = "1" if len(word) == 1 else ""
    if word.islower():
        return "x" + one
    if word.isupper():
        return "X" + one
    return "Xx" if word.istitle() else "XxX"


Features = tuple[Int[np.ndarray, " features"], Int[np.ndarray, " tokens"]]
"""Buckets of all tokens' features in one row, and where each token's begin."""


def features_of(
    text: str, tokens: Sequence[Token], unsure: Sequence[Finding], lexicon: Lexicon, buckets: int
) -> Features:
    """Each token's features.

    Args:
        text: any.
        tokens: of it.
        unsure: what the rules found and are not sure of.
        lexicon: what is known of words.
        buckets: how many there are.
    """
    seen = _Seen(text, tokens, unsure, lexicon)
    names = [seen.at(place) for place in range(2, 2 + len(tokens))]
    starts = np.cumsum([0, *map(len, names[:-1])]) if names else np.zeros(0, np.int64)
    hashed = (crc32(name.encode()) % buckets for row in names for name in row)
    return np.fromiter(hashed, np.int64, sum(map(len, names))), starts


class _Seen:
    """What is seen of each token alone; rows begin and end with two places outside of the text."""

    def __init__(self, text: str, tokens: Sequence[Token], unsure: Sequence[Finding], lexicon: Lexicon):
        raw = [f"<{one.kind}>" if one.kind else text[one.start : one.end] for one in tokens]
        self.raw = ["^", "^", *("\n" if word[0] == "\n" else word for word in raw), "$", "$"]
        self.words = [word.lower() for word in self.raw]
        self.shapes = [word if word[0] == "<" and len(word) > 1 else shape_of(word) for word in self.raw]
        known = [lexicon(word) if word.isalpha() else ("-", "-") for word in self.words]
        self.known, self.share = [one for one, _ in known], [share for _, share in known]
        self.kinds = [_OF_WORD.get(word, "") for word in self.words]
        self.rules = [""] * len(self.raw)
        starts, ends = [one.start for one in tokens], [one.end for one in tokens]
        dates = (Finding("DATE", *match.span()) for match in _DATE.finditer(text))
        for found in (*dates, *unsure):
            for place in range(bisect_right(ends, found.start), bisect_left(starts, found.end)):
                self.rules[place + 2] = found.kind + ("b" if starts[place] <= found.start else "i")
        gaps = ["_", *("" if a.end == b.start else "_" for a, b in pairwise(tokens)), "_"]
        self.gaps = ["", "", *gaps, "", ""]
        self.cased = "c" if any(character.isupper() for character in text) else "n"

    def at(self, t: int) -> list[str]:
        """The features of one token by their names."""
        w, s, x, k, h = self.words, self.shapes, self.known, self.kinds, self.share
        shape, left, right = s[t], w[t - 1], w[t + 1]
        first = int(t == 2 or left in '.!?\n:"')
        names = [
            *("b", "w" + w[t], "s" + shape, "x" + x[t], "k" + k[t], "r" + self.rules[t]),
            f"sx{shape} {x[t]} {first}{self.cased}",
            *("w-" + left, "w+" + right, "w--" + w[t - 2], "w++" + w[t + 2]),
            *(f"w--- {w[t - 2]} {left}", f"w+++ {right} {w[t + 2]}"),
            *("s-" + s[t - 1], "s+" + s[t + 1], f"s-s {s[t - 1]} {shape}", f"ss+ {shape} {s[t + 1]}"),
            f"s-s+ {s[t - 1]} {shape} {s[t + 1]}",
            *(f"s-- {s[t - 2]} {shape}", f"s++ {s[t + 2]} {shape}"),
            *(f"w-s {left} {shape}", f"w+s {right} {shape}"),
            *(f"x-s {x[t - 1]} {shape}", f"x+s {x[t + 1]} {shape}"),
            *(f"k-s {k[t - 1]} {shape}", f"k+s {k[t + 1]} {shape}"),
            *(f"w-x {left} {h[t]}", f"w--x {w[t - 2]} {left} {h[t]}", f"w+x {right} {h[t]}"),
            f"g{self.gaps[t]}.{self.gaps[t + 1]}",
        ]
        if w[t].isalpha():
            names += [f"p{w[t][:n]}" for n in (1, 2, 3)] + [f"e{w[t][-n:]}" for n in (1, 2, 3, 4)]
            if shape[0] == "X":
                names += [f"E{w[t][-n:]}" for n in (2, 3)]
        return names

"""Items and skills: a question with its conversation, its canonical answer, and what counts as a right answer.

An answer is right if it is one of a finite set of exact answers after normalisation (case, punctuation, white space and
the way a number is written do not count), or, for the few skills with open answers, if it obeys the item's rule. There
is no search for a keyword: "in the kitchen or the garden" is wrong when the answer is "in the kitchen". Where an answer
may be worked out, notes may stand before it, sentences with a colon or `>`: what follows them has to be the answer.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypedDict

LANGUAGES = ("en", "zh")


class Message(TypedDict):
    """One turn: `role` is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True)
class Skill:
    """One ability that the world teaches and tests."""

    name: str
    easy: bool
    """Whether it belongs to the easier half, decided before any model was trained."""
    description: str
    chance: float
    """What a guesser scores on held-out items: one who draws among what each item offers (its `options`), or who always
    gives the one best answer, whichever is better."""


@dataclass(frozen=True)
class Item:
    """One conversation that ends in an answer which can be checked."""

    skill: str
    language: str
    difficulty: int
    """1 is the simplest; the number of steps, or the size of what must be handled."""
    messages: tuple[Message, ...]
    """The whole reference conversation, the last assistant's answer included."""
    given: int
    """How many messages a model is given: all before the assistant's last reply (or its first tool call)."""
    accepts: tuple[str, ...] = ()
    """Every answer that is exactly right, the canonical one first."""
    options: tuple[str, ...] = ()
    """What a guesser would draw from, the right one included; empty where there is nothing to guess."""
    rule: dict[str, str] = field(default_factory=dict)
    """For open answers: what the skill's own checker needs."""
    worked: bool = False
    """Whether notes may stand before the answer."""
    keys: tuple[tuple[str | int, ...], ...] = ()
    """The combinations that make this item, as `split.held_out` was asked about them."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What a model sees before it answers."""
        return self.messages[: self.given]

    @property
    def answer(self) -> str:
        """The canonical answer: the last assistant's message."""
        return self.messages[-1]["content"]


_DROPPED = str.maketrans(dict.fromkeys(".,!?;:\"'“”‘’()。，！？；：、（）「」《》…—-", " "))
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_NUMBER = {word: number for number, word in enumerate(_UNITS)} | _TENS
_HUNDRED = "hundred"
_HAN = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_HAN_UNITS = {"十": 10, "百": 100, "千": 1000}
_HAN_RUN = re.compile("[零〇一二两三四五六七八九十百千]+")
_MINUS = re.compile(r"(?:(?<=^)|(?<=[\s=]))-(?=\d)")
_POINT = re.compile(r"(?<=\d)\.(?=\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NOTES = re.compile(r"^(?:\s*[^.。\n]*[:：>][^.。\n]*[.。\n])+")


@lru_cache(maxsize=1 << 14)
def normalise(text: str) -> str:
    """What remains of an answer when case, punctuation, white space and the way numbers are written do not count.

    >>> normalise("There are  Twenty-one apples.") == normalise("there are 21 apples")
    True
    >>> normalise("她有二十一本书。") == normalise("她有21本书")
    True
    """
    text = unicodedata.normalize("NFKC", _THOUSANDS.sub("", text)).lower()
    text = _POINT.sub("\ue000", _MINUS.sub("\ue001", text)).translate(_DROPPED)
    text = _HAN_RUN.sub(lambda run: f" {_han_number(run[0])} ", text)
    words = _read_english_numbers(text.split())
    # Spaces count between letters and digits of the alphabet, never beside a Chinese character.
    joined = " ".join(words)
    return _BESIDE_HAN.sub("", joined)


_BESIDE_HAN = re.compile(r"(?<=[\u2e80-\uffff])\s|\s(?=[\u2e80-\uffff])")


def _han_number(run: str) -> str:
    """A run of Chinese numerals as digits; digit by digit (二〇) where it is no number built with 十, 百, 千."""
    if not any(c in _HAN_UNITS for c in run):
        return "".join(str(_HAN[c]) for c in run)
    total = digit = 0
    for c in run:
        if c in _HAN_UNITS:
            total += (digit or 1) * _HAN_UNITS[c]
            digit = 0
        else:
            digit = _HAN[c]
    return str(total + digit)


def _read_english_numbers(words: list[str]) -> list[str]:
    """Number words as digits: `["forty", "two", "cats"]` gives `["42", "cats"]`."""
    read: list[str] = []
    i = 0
    while i < len(words):
        value = _NUMBER.get(words[i])
        if value is None:
            read.append(words[i])
            i += 1
            continue
        i += 1
        if value < 10 and i < len(words) and words[i] == _HUNDRED:
            value, i = value * 100, i + 1
            if i + 1 < len(words) and words[i] == "and" and words[i + 1] in _NUMBER:
                i += 1
            if i < len(words) and words[i] in _NUMBER:
                value, i = value + _NUMBER[words[i]], i + 1
        if value >= 20 and value % 10 == 0 and value % 100 and i < len(words) and 0 < _NUMBER.get(words[i], 0) < 10:
            value, i = value + _NUMBER[words[i]], i + 1
        read.append(str(value))
    return read


def is_accepted(item: Item, answer: str) -> bool:
    """Whether the answer is one of the item's exact answers, after normalisation."""
    given = normalise(_NOTES.sub("", answer) if item.worked else answer)
    return any(given == normalise(right) for right in item.accepts)

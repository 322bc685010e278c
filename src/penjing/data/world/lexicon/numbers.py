"""Numbers from 0 to 9,999 in English and Chinese words, and back."""

from functools import cache

from penjing.errors import DataError

LARGEST = 9_999

_SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_IRREGULAR = ("one first", "two second", "three third", "five fifth", "eight eighth", "nine ninth", "twelve twelfth")
_ORDINALS = dict(pair.split() for pair in _IRREGULAR)
_DIGITS = "零一二三四五六七八九"
_PLACES = ((1000, "千"), (100, "百"), (10, "十"), (1, ""))


def number_words(n: int, language: str) -> str:
    """`n` in words: 105 is "one hundred and five" or 一百零五; 2,000 is 两千.

    Raises:
        DataError: `n` is not in 0 .. 9,999, or the language is neither en nor zh.
    """
    if not 0 <= n <= LARGEST:
        raise DataError(f"{n} has no words here; numbers from 0 to {LARGEST:,} do")
    if language == "en":
        return _english(n)
    if language == "zh":
        return _chinese(n)
    raise DataError(f"no words in language {language!r}; known: en, zh")


def count_words(n: int, language: str) -> str:
    """`n` in words as it stands before a noun: as `number_words`, but 2 is 两 in Chinese (两只猫)."""
    return "两" if (n, language) == (2, "zh") else number_words(n, language)


def ordinal_words(n: int, language: str) -> str:
    """The n-th in words: "twenty-first" or 第二十一."""
    if language == "zh":
        return "第" + number_words(n, language)
    head, dash, last = number_words(n, language).rpartition("-")
    words, space, last = last.rpartition(" ")
    if last.endswith("y"):
        last = last[:-1] + "ieth"
    else:
        last = _ORDINALS.get(last, last + "th")
    return head + dash + words + space + last


def parse_number(words: str, language: str) -> int | None:
    """The number that these words (or digits) say, or None when they say none; 两 is read as 2."""
    text = words.strip().lower().replace(",", "")
    if text.isascii() and text.isdecimal():
        return int(text)
    return _table(language).get(text)


@cache
def _table(language: str) -> dict[str, int]:
    table = {number_words(n, language): n for n in range(LARGEST + 1)}
    return table | ({"两": 2} if language == "zh" else {})


def _english(n: int) -> str:
    if n < 20:
        return _SMALL[n]
    if n < 100:
        return _TENS[n // 10] + (f"-{_SMALL[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{_SMALL[n // 100]} hundred" + (f" and {_english(n % 100)}" if n % 100 else "")
    rest = n % 1000
    link = " and " if 0 < rest < 100 else " "
    return f"{_SMALL[n // 1000]} thousand" + (link + _english(rest) if rest else "")


def _chinese(n: int) -> str:
    if n < 10:
        return _DIGITS[n]
    words, gap = "", False
    for size, unit in _PLACES:
        digit = n // size % 10
        if digit:
            word = "两" if digit == 2 and size >= 100 else _DIGITS[digit]
            words += ("零" if gap and words else "") + word + unit
        gap = not digit
    return words.removeprefix("一") if n < 20 else words

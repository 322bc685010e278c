"""Personal data taken out of text: addresses and numbers are replaced by what they were, such as `<EMAIL>`.

What is found: e-mail addresses, IP addresses of public networks, telephone numbers written internationally, mobile
numbers of China and numbers of the North American plan, payment cards (with a valid check digit) and Chinese identity
numbers (with a valid date and check digit). Names and postal addresses need a model and are not attempted.

Sources: check digits: ISO/IEC 7812-1 (Luhn) and GB 11643-1999 (ISO 7064, MOD 11-2).
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from datetime import date

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])", re.ASCII
)
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)", re.ASCII)
_IDENTITY = re.compile(r"(?<!\d)[1-9]\d{16}[\dXx](?![\dXx])", re.ASCII)
_CARD = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]*\d)", re.ASCII)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){1,4}"
    r"|1[3-9]\d(?:[ -]?\d{4}){2}"
    r"|(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}"
    r")(?![\w-]*\d)",
    re.ASCII,  # a Chinese character is no letter here: it ends a number as a space does
)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECK = "10X98765432"


def scrub(text: str) -> tuple[str, Counter[str]]:
    """The text without personal data, and how often each kind was in it.

    >>> scrub("Write to ann@example.org or call +44 20 7946 0958.")[0]
    'Write to <EMAIL> or call <PHONE>.'
    """
    counts: Counter[str] = Counter()

    def replace(kind: str, is_one: Callable[[str], bool] | None) -> Callable[[re.Match[str]], str]:
        def tag(found: re.Match[str]) -> str:
            if is_one is not None and not is_one(found[0]):
                return found[0]
            counts[kind] += 1
            return f"<{kind}>"

        return tag

    for kind, pattern, is_one in _KINDS:
        text = pattern.sub(replace(kind, is_one), text)
    return text, counts


def is_public_address(text: str) -> bool:
    """An address of the internet, not of a network of one's own or of none."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:  # 999.1.1.1, or a version number with a leading zero
        return False


def is_identity_number(text: str) -> bool:
    """A birthday that there was, and the check digit of the seventeen others."""
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(text, _WEIGHTS, strict=False))
    return born.year >= 1850 and _CHECK[total % 11] == text[17].upper()


def is_card_number(text: str) -> bool:
    """Luhn's check digit, on digits that do not all repeat and begin as cards do."""
    digits = [c for c in text if c.isdigit()]
    return len(set(digits)) > 1 and digits[0] in "23456" and passes_luhn(text)


def passes_luhn(text: str) -> bool:
    """Whether the digits, every second one from the right doubled and its own digits added, sum to a multiple of 10.

    >>> passes_luhn("4111 1111 1111 1111"), passes_luhn("4111 1111 1111 1112")
    (True, False)
    """
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool] | None], ...] = (
    ("EMAIL", _EMAIL, None),
    ("IP", _IP, is_public_address),
    ("ID", _IDENTITY, is_identity_number),
    ("CARD", _CARD, is_card_number),
    ("PHONE", _PHONE, None),
)
"""In this order: an identity number is eighteen digits that might pass for a card."""

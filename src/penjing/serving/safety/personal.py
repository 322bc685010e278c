r"""Personal data in text: what tells who somebody is, or opens their accounts.

A form alone finds too much: sixteen digits are an order number more often than a card. So numbers that carry a check
digit must pass it, and numbers that have only a length must stand near a word that says what they are:

    EMAIL, URL          form
    IP                  form, and an address of the internet
    CARD                Luhn's check digit: the digits, every second one doubled, sum to 0 mod 10
    ID                  China's 18 digits: sum of w_i d_i = 1 mod 11, and a birthday that there was
    IBAN                moved and read as a number it is 1 mod 97, and as long as its country's are
    SSN                 form and numbers that are issued, or a word for it nearby
    PHONE               written internationally, China's mobiles, North America's plan; else a word for it nearby
    LICENCE, ZIP, AGE   only beside a word for them
    KEY                 `secrets`
    NAME, ADDRESS       `names`, as far as something announces them; a tagger (`tagger`) finds them anywhere
    PLACE, DATE, TITLE, ORGANISATION, NATIONALITY       a tagger only

Where two finds overlap, the one with the stronger proof stays: a check digit before a form, a form before a word.

Sources: ISO/IEC 7812-1 (Luhn), GB 11643-1999 (ISO 7064, MOD 11-2), ISO 13616-1 (IBAN); U.S. Social Security
Administration, number randomization of 2011 (which first groups are never issued).
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penjing.data.cleaning.personal import is_card_number, is_identity_number, passes_luhn
from penjing.errors import ConfigError, nearest
from penjing.serving.safety.findings import Finding, without_overlaps
from penjing.serving.safety.names import find_addresses, find_names
from penjing.serving.safety.secrets import find_secrets

if TYPE_CHECKING:
    from penjing.serving.safety.tagger import Tagger

_BEFORE, _AFTER = 48, 24
"""How far a word may stand from the number that it explains, in characters."""

_IBAN_LENGTHS = dict(
    re.findall(
        r"(\w\w)=(\d\d)",
        "AD=24 AE=23 AL=28 AT=20 AZ=28 BA=20 BE=16 BG=22 BH=22 BR=29 BY=28 CH=21 CR=22 CY=28 CZ=24 DE=22 DK=18 DO=28 "
        "EE=20 EG=29 ES=24 FI=18 FO=18 FR=27 GB=22 GE=22 GI=23 GL=18 GR=27 GT=28 HR=21 HU=28 IE=22 IL=23 IQ=23 IS=26 "
        "IT=27 JO=30 KW=30 KZ=20 LB=28 LC=32 LI=21 LT=20 LU=20 LV=21 LY=25 MC=27 MD=24 ME=22 MK=19 MR=27 MT=31 MU=30 "
        "NL=18 NO=15 PK=24 PL=28 PS=29 PT=25 QA=29 RO=24 RS=22 SA=24 SC=31 SE=24 SI=19 SK=24 SM=27 ST=25 SV=28 TL=23 "
        "TN=24 TR=26 UA=29 VA=22 VG=24 XK=20",
    )
)


def is_iban(text: str) -> bool:
    """The length of its country, and the check digits: moved to the end and read as a number, 1 modulo 97.

    >>> is_iban("GB82 WEST 1234 5698 7654 32"), is_iban("GB83 WEST 1234 5698 7654 32")
    (True, False)
    """
    compact = text.replace(" ", "").upper()
    if len(compact) != int(_IBAN_LENGTHS.get(compact[:2], 0)):
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def is_ssn(text: str) -> bool:
    """A number that the United States issue: no group is all zeros, the first is neither 666 nor 9xx."""
    digits = re.sub(r"\D", "", text)
    first, second, third = digits[:3], digits[3:5], digits[5:]
    return first not in ("000", "666") and first[0] != "9" and second != "00" and third != "0000"


def _is_address(text: str) -> bool:
    """An address of the internet, or one of no network in use now: not of one's own network, nor a mere version."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    own = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    return not own and not address.is_unspecified


def _is_phone(text: str) -> bool:
    """Seven to fifteen digits that are no date and do not all repeat."""
    digits = re.sub(r"\D", "", text.split("x")[0])
    date = re.fullmatch(r"(?:19|20)\d\d[-./ ]\d\d?[-./ ]\d\d?|\d\d?[-./ ]\d\d?[-./ ](?:19|20)\d\d", text)
    return 7 <= len(digits) <= 15 and not date and len(set(digits)) > 1


_PHONE_WORD = (
    r"\b(?:tele)?phones?\b|\btel\b|\bmobile\b|\bcell\b|\bcall(?:s|ed|ing)?\b|\bfax\b|\btext(?:ed|ing)?\b|\bsms\b"
    r"|\bmessages? to\b|\bdial\b|\bring\b|\bwhatsapp\b|\breach\b|\banswer(?:s|ing)? at\b|\boffice\b|\bdesk\b"
    r"|\bhotline\b|\bregistered\b|\bcontact\b|电话|手机|致电|拨打|来电|联系方式|热线|传真|短信"
)
_CARD_WORD = r"\bcards?\b|\bcc\b|\bvisa\b|\bmastercard\b|\bamex\b|银行卡|信用卡|卡号"


@dataclass(frozen=True)
class _Form:
    """How one kind looks."""

    kind: str
    pattern: str
    """What is found: its first group, or all of it where it has none."""
    check: Callable[[str], bool] | None = None
    """What the text must pass besides."""
    word: str = ""
    """A pattern for words of which one must stand nearby."""
    why: str = "form"


_FORMS = (
    _Form("EMAIL", r"(?<![\w.+-])[a-z0-9][\w.+-]{0,63}@(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24}(?![\w-])"),
    _Form("URL", r"(?<![a-z])(?:https?://|www\.)[^\s<>\"'）】」》，。；、]{3,2000}(?<![.,;:!?)\]}])"),
    _Form("IBAN", r"(?<!\w)[a-z]{2}\d\d(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,3})?(?!\w)", is_iban, "", "check digits"),
    _Form("ID", r"(?<!\d)[1-9]\d{16}[\dX](?![\dX])", is_identity_number, "", "check digit and birthday"),
    _Form(
        "CARD", r"(?<!\d)(?=(\d{4}(?:[ -]\d{4}){3})(?!\d))\d{4}", is_card_number, "", "check digit"
    ),  # one of several
    _Form("CARD", r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]*\d)", is_card_number, "", "check digit"),
    _Form("CARD", r"(?<![\d.])\d{12,19}(?![\d.]*\d)", passes_luhn, _CARD_WORD, "check digit and a word nearby"),
    _Form("IP", r"(?<![\w.])(?<!version )(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)", _is_address),
    _Form("IP", r"(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", _is_address),
    _Form("SSN", r"(?<![\w-])\d{3}-\d\d-\d{4}(?![\w-])", is_ssn, "", "form and numbers that are issued"),
    _Form("SSN", r"(?<![\w-])\d{3} ?\d\d ?\d{4}(?![\w-])", is_ssn, r"\bssn\b|\bsocial security\b", "word nearby"),
    _Form(
        "LICENCE",
        r"(?:\blicen[cs]e(?: number| no\.?)?(?: is)?:? ?#? ?|驾驶证号?[:：]?)((?=[a-z-]{0,4}\d)[a-z0-9-]{5,20})(?!\w)",
    ),
    _Form(
        "PHONE",
        r"(?<![\w.+-])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}(?![\w-]*\d)",
        _is_phone,
    ),
    _Form("PHONE", r"(?<![\w.+-])1[3-9]\d(?:[ -]?\d{4}){2}(?![\w-]*\d)", None, "", "a mobile number of China"),
    _Form(
        "PHONE",
        r"(?<![\w.+-])(?:(?:\+?0{0,2}1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}(?: ?x\d{1,5})?)(?![\w-]*\d)",
        _is_phone,
    ),
    _Form(
        "PHONE",
        r"(?<![\w.+])(?<!\d-)(?:\(\d{1,4}\)|\d)(?:[ .\-]{0,2}\d|\(\d{1,3}\)){5,13}\d(?: ?x\d{1,5})?(?!\w)",
        _is_phone,
        _PHONE_WORD,
        "word nearby",
    ),
    _Form(
        "ZIP",
        r"(?:\bzip(?: ?code)?|\bpost(?:al)? ?code|邮编|邮政编码)(?: is)?[:：]? ?"
        r"((?=\w{0,4}\d)[\w-]{3,8}(?: \d\w{2})?)(?!\w)",
    ),
    _Form("AGE", r"(?<![\d.])(\d{1,3})(?:[ -]years?[ -]old\b| ?y/o\b| ?岁)"),
    _Form("AGE", r"(?:\bage of |\baged? ?:? ?|\bturn(?:ed|ing)? |年龄[:：]? ?)(\d{1,3})(?![\d.])"),
)
_COMPILED = tuple(
    (form, re.compile(form.pattern, re.ASCII | re.IGNORECASE), re.compile(form.word or "$^", re.IGNORECASE))
    for form in _FORMS
)
KINDS = ("KEY", *dict.fromkeys(form.kind for form in _FORMS), "ADDRESS", "NAME")
"""Everything that rules look for."""
TAGGED = ("PLACE", "ORGANISATION", "TITLE", "NATIONALITY", "DATE")
"""What only a tagger finds."""
USUAL = ("KEY", "EMAIL", "IBAN", "ID", "CARD", "IP", "SSN", "LICENCE", "PHONE")
"""What identifies a person or opens an account by itself."""


def check_kinds(kinds: Iterable[str]) -> None:
    """Raises ConfigError when there is no such kind."""
    for kind in kinds:
        if kind not in (*KINDS, *TAGGED):
            raise ConfigError(f"there is no kind of personal data '{kind}'" + nearest(kind, (*KINDS, *TAGGED)))


def find_personal(
    text: str, kinds: Collection[str] = USUAL, *, allow: Collection[str] = (), tagger: "Tagger | None" = None
) -> list[Finding]:
    """Personal data of some kinds, in the order of the text, none overlapping.

    What a check digit or a form proves stays; then comes what the tagger finds, then what the rules find besides.

    Args:
        text: any.
        kinds: of `KINDS`; with a tagger also of `TAGGED`.
        allow: what is no secret, such as one's own support address; compared without regard to case.
        tagger: finds names and other things without a form.

    Raises:
        ConfigError: there is no such kind.
    """
    check_kinds(kinds)
    allowed = {entry.casefold() for entry in allow}
    found = without_overlaps(_all(text))
    if tagger is not None and not tagger.kinds.isdisjoint(kinds):
        proven = [one for one in found if one.kind not in tagger.kinds]
        found = without_overlaps([*proven, *tagger.find(text, found), *found])
    return [f for f in found if f.kind in kinds and text[f.start : f.end].casefold() not in allowed]


def _all(text: str) -> Iterator[Finding]:
    """Everything, the better proven first: what is not asked for still keeps weaker finds from its place."""
    yield from find_secrets(text)
    for form, pattern, word in _COMPILED:
        for match in pattern.finditer(text):
            group = 1 if match.re.groups else 0
            start, end = match.span(group)
            if form.check is not None and not form.check(match[group]):
                continue
            near = text[max(0, start - _BEFORE) : start] + "\n" + text[end : end + _AFTER]
            if form.word and not word.search(near):
                continue
            yield Finding(form.kind, start, end, form.why)
    yield from find_addresses(text)
    yield from find_names(text)

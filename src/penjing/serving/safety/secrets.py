"""Keys, tokens and passwords in text: what opens something, and should not be repeated, stored or sent on.

Many issuers begin their keys with letters of their own, so that a look is enough; those are found by their form. A
password has no form: it is found where a name for it stands before it, `password = ...`, and only if it looks drawn by
chance, which its letters' entropy tells:

    H = - sum over the different characters c of  p(c) log2 p(c)        bits a character, p(c) = c's share of the value

Prose and placeholders (`password = your-password-here`, `${TOKEN}`) stay below it or are no mixture of kinds.

Source of the forms: the issuers' own documentation.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

from penjing.serving.safety.findings import Finding

_FORMS = (
    ("AWS access key", r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])"),
    ("GitHub token", r"(?:gh[pousr]_[0-9A-Za-z]{36,251}|github_pat_[0-9A-Za-z_]{40,255})"),
    ("GitLab token", r"glpat-[\w-]{20,64}"),
    ("API key with sk-", r"sk-(?:[a-z]{2,12}-)?[0-9A-Za-z_-]{20,220}"),
    ("Slack token", r"xox[abeoprs]-[0-9A-Za-z-]{10,250}"),
    ("Google API key", r"AIza[\w-]{35}(?![\w-])"),
    ("Stripe key", r"[rs]k_(?:live|test)_[0-9A-Za-z]{16,247}"),
    ("Hugging Face token", r"hf_[0-9A-Za-z]{30,64}"),
    ("npm token", r"npm_[0-9A-Za-z]{36}(?![0-9A-Za-z])"),
    ("PyPI token", r"pypi-[\w-]{50,250}"),
    ("Aliyun access key", r"LTAI[0-9A-Za-z]{12,24}(?![0-9A-Za-z])"),
    ("JSON web token", r"eyJ[\w-]{8,4096}\.eyJ[\w-]{8,8192}\.[\w-]{16,1024}"),
)
_FORM = re.compile(r"(?<![\w-])(?:" + "|".join(f"({form})" for _, form in _FORMS) + ")", re.ASCII)
_BLOCK = re.compile(
    r"-----BEGIN (?:[A-Z]{2,10} )?PRIVATE KEY(?: BLOCK)?-----(?:(?!-----)[\s\S]){0,16384}"
    r"(?:-----END (?:[A-Z]{2,10} )?PRIVATE KEY(?: BLOCK)?-----)?"
)
_IN_ADDRESS = re.compile(r"(?<=://)[^\s:/@]{1,64}:([^\s:/@]{3,128})(?=@)")
_NAMED = re.compile(
    r"(?i:(?<![a-z])(?:pass(?:word|wd|phrase)|pwd|secret|token|api[ _-]?key|access[ _-]?key|private[ _-]?key|bearer"
    r"|client[ _-]?secret)|密码|口令|密钥|令牌)"
    r"(?:\s*(?:is|are|为|是))?[\"'`]?\s*[:=：＝ ]\s*[\"'`]?([^\s\"'`,;，。；]{8,200})"
)
_LEAST_BITS = 2.7
"""Of a password of eight or more characters: those drawn at random have about 3, most words less than 2.7."""


def find_secrets(text: str) -> Iterator[Finding]:
    """Keys, tokens and passwords, all of kind "KEY"."""
    for found in _BLOCK.finditer(text):
        yield Finding("KEY", found.start(), found.end(), "private key")
    for found in _FORM.finditer(text):
        yield Finding("KEY", found.start(), found.end(), _FORMS[(found.lastindex or 1) - 1][0])
    for found in _IN_ADDRESS.finditer(text):
        yield Finding("KEY", found.start(1), found.end(1), "password in an address")
    for found in _NAMED.finditer(text):
        if _looks_drawn(found[1]):
            yield Finding("KEY", found.start(1), found.end(1), "value after a name for a secret")


def entropy(text: str) -> float:
    """Bits a character, by the text's own letters.

    >>> entropy("aaaa"), entropy("abab")
    (0.0, 1.0)
    """
    counts = Counter(text).values()
    return sum(n / len(text) * math.log2(len(text) / n) for n in counts) if text else 0.0


def _looks_drawn(value: str) -> bool:
    """A value that mixes letters with digits, repeats little, and is no placeholder."""
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return mixed and not re.search(r"[<>{}$()]|\.\.\.|\*\*", value) and entropy(value) >= _LEAST_BITS

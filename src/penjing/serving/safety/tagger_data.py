"""What a tagger learns from: marked texts, more of them by exchanging what is marked, and sentences without a name.

    "The letter to Ann Lee arrived in Leeds"   and   "Bo Ek lives in Rome"
    give also                                        "The letter to Bo Ek arrived in Rome", "ann lee lives in leeds"

What stands around a name and what a name looks like are learned apart, the sooner the less one goes with the other. So
copies of each text get values of the same kind from other texts, and some are written without capitals, as people do.

A sentence whose only capital begins a word that is nearly always written small has no name in it; thousands of them
teach what ordinary words look like, and nobody has to mark them. Up to half of them have numbers, of which neither the
rules know anything nor a year, a month or an age is told: or every number would be taken for a part of an address.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from penjing.serving.safety.findings import Finding
from penjing.serving.safety.personal import KINDS as RULE_KINDS
from penjing.serving.safety.personal import find_personal
from penjing.serving.safety.pii_measure import Marked
from penjing.serving.safety.tagger import KINDS, Tagged, labels_of
from penjing.serving.safety.token_features import Lexicon, features_of, is_read, tokens_of

_LOWER = 0.1
"""The share of copies without capitals."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_TELLING = re.compile(r"[^\W\d_a-z]|[@<>{}|=_\\]")
"""What may be part of a name or a program."""
_NUMBER = re.compile(r"\d")
_AGES = re.compile(r"\b(?:1[5-9]|20)\d\d|\bage|\bold\b|\byears?\b|\d[:/-]\d|\bzip|\bpostal|\bstreet|\broad", re.I)
_SHORT = 12
"""Characters of a piece of an address, such as "Suite 12"; longer ones are exchanged with longer ones."""


def tagged(text: str, spans: Sequence[Finding], lexicon: Lexicon, buckets: int) -> Tagged:
    """A marked text as it is learned from."""
    found = find_personal(text, RULE_KINDS)
    tokens = tokens_of(text, [one for one in found if one.kind not in KINDS])
    unsure = [one for one in found if one.kind in KINDS]
    return Tagged(features_of(text, tokens, unsure, lexicon, buckets), labels_of(tokens, spans))


def swapped(texts: Sequence[Marked], copies: int, seed: int) -> list[Marked]:
    """Copies of the texts that have spans, with values of the same kind from all of them."""
    chance = random.Random(seed)
    pool: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for text in texts:
        for span in text.spans:
            pool[_sort(span)].append(text.text[span.start : span.end])
    made = []
    for text in texts:
        for _ in range(copies if text.spans else 0):
            written, end, spans = "", 0, []
            for span in sorted(text.spans, key=lambda span: span.start):
                written += text.text[end : span.start]
                value = chance.choice(pool[_sort(span)])
                spans.append(Finding(span.kind, len(written), len(written) + len(value)))
                written, end = written + value, span.end
            written += text.text[end:]
            low = written.lower()
            plain = chance.random() < _LOWER and len(low) == len(written)
            made.append(Marked(low if plain else written, tuple(spans), text.template))
    return made


def _sort(span: Finding) -> tuple[str, bool]:
    return span.kind, span.kind == "ADDRESS" and span.end - span.start > _SHORT


def ordinary_sentences(texts: Iterable[str], count: int, lexicon: Lexicon) -> list[str]:
    """Sentences without a name, spread evenly over the texts; the lexicon knows whether their first word is one."""
    found = [one for text in texts for one in _ordinary(text) if lexicon(one.split()[0].lower())[1] == "l"]
    plain = [one for one in found if not _NUMBER.search(one)]
    numbers = [one for one in found if _NUMBER.search(one) and not _AGES.search(one)]
    numbers = [one for one in _spread(numbers, 2 * count) if not find_personal(one, RULE_KINDS)]
    some = _spread(numbers, count // 2)
    return _spread(plain, count - len(some)) + some


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """So many of the texts, evenly."""
    step = max(len(texts) / count, 1) if count else 1
    return [texts[int(number * step)] for number in range(min(count, len(texts)))]


def _ordinary(text: str) -> Iterator[str]:
    for sentence in _SENTENCE.split(text):
        sentence = sentence.strip()
        words = sentence.split()
        if not 4 <= len(words) <= 40 or not sentence[0].isupper() or not is_read(sentence):
            continue
        rest = re.sub(r"\bI\b(?:'\w+)?", "", sentence[1:])
        if len(words[0]) > 1 and words[0][1:].islower() and not _TELLING.search(rest):
            yield sentence

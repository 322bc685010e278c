"""Personal data as the makers of presidio's set count it, and an honest division of texts that templates made.

`SpanEvaluator` of presidio-research compares spans like this, and so does `agreement`:

    1. words that say nothing (punctuation, "of", "street", "Mr.", ...) do not count at a span's ends, and neighbouring
       spans of one kind with nothing else between them are one span
    2. each marked span takes, from left to right, the found spans that raise
             IoU = characters in both / characters in either
       and is found when that is at least 0.9; several finds that make up one marked span are one right find
    3. `any_kind`: finds of any kind count, for what matters is that it is gone; `by_kind`: only those of the same kind

Departs from it: of the words that say nothing, those that it takes from spaCy's list of stop words are left out, which
asks for more. F1 is reported where it reports F2.

`folds` divides texts that were made of templates: templates that are nearly alike stay together, and what is learned
from shares neither a template nor a name, address, place or organisation with what is measured.

Source: https://github.com/microsoft/presidio-research, `presidio_evaluator/evaluation/span_evaluator.py`,
`calculate_score_on_df` and `_match_predictions_with_annotations`; `skipwords.py`.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from penjing.data.order import Permutation, key_of
from penjing.errors import DataError
from penjing.serving.safety.findings import Finding
from penjing.serving.safety.personal import KINDS, TAGGED, find_personal
from penjing.serving.safety.pii_measure import Marked, Tally, measure

if TYPE_CHECKING:
    from penjing.serving.safety.tagger import Tagger

_LEAST = 0.9
_PIECE = re.compile(r"'s\b|[^\W_]+|[^\w\s]|_")
_NOTHING = frozenset(
    re.findall(
        r"\S+",
        "'s street st de rue via and a the or do as of day address country state city zip po apt unit corner box "
        "suite mr mrs miss year years y o month months old morning noon afternoon night evening this first last "
        "week weeks weekend days age ago inc ltd ",
    )
)
_ALIKE = 0.7
_SHARED = ("NAME", "ADDRESS", "PLACE", "ORGANISATION")


@dataclass(frozen=True)
class Agreement:
    """How far finds and marks agree."""

    any_kind: Tally
    by_kind: Mapping[str, Tally]

    @property
    def typed(self) -> Tally:
        """All kinds, each find of the right one."""
        return sum(self.by_kind.values(), Tally())


def agreement(texts: Iterable[Marked], find: Callable[[str], Sequence[Finding]]) -> Agreement:
    """How far what `find` finds agrees with what is marked, as the set's makers count."""
    total, right, found, there = Tally(), Counter[str](), Counter[str](), Counter[str]()
    for one in texts:
        marked, finds = joined(one.text, one.spans), joined(one.text, find(one.text))
        matches, used = _match(marked, finds)
        total += Tally(len(matches), len(matches) + len(finds) - used, len(marked))
        for kind in {span.kind for span in (*marked, *finds)}:
            own, theirs = ([span for span in spans if span.kind == kind] for spans in (marked, finds))
            matches, used = _match(own, theirs)
            right[kind] += len(matches)
            found[kind] += len(matches) + len(theirs) - used
            there[kind] += len(own)
    return Agreement(total, {kind: Tally(right[kind], found[kind], there[kind]) for kind in sorted(found | there)})


def joined(text: str, spans: Iterable[Finding]) -> list[Finding]:
    """Spans without words that say nothing at their ends, those of one kind joined if only such words lie between."""
    kept: list[Finding] = []
    end = 0
    for span in sorted(spans, key=lambda span: span.start):
        places = _telling(text, span.start, span.end)
        if not places:
            continue
        if kept and kept[-1].kind == span.kind and not _telling(text, end, span.start):
            kept[-1] = Finding(span.kind, kept[-1].start, places[-1][1])
        else:
            kept.append(Finding(span.kind, places[0][0], places[-1][1]))
        end = span.end
    return kept


def _telling(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Where words that say something are."""
    return [
        match.span()
        for match in _PIECE.finditer(text, start, end)
        if match[0].isalnum() and match[0].lower() not in _NOTHING
    ]


def _match(marked: Sequence[Finding], finds: Sequence[Finding]) -> tuple[list[Finding], int]:
    """The marked spans that were found, and how many finds that took."""
    free, matches, used = list(finds), list[Finding](), 0
    for mark in marked:
        own, best = set(range(mark.start, mark.end)), 0.0
        covered, taken = set[int](), list[Finding]()
        for find in free:
            if find.start < mark.end and mark.start < find.end:
                further = covered | set(range(find.start, find.end))
                share = len(own & further) / len(own | further)
                if share > best:
                    covered, best = further, share
                    taken.append(find)
        if best >= _LEAST:
            matches.append(mark)
            used += len(taken)
            free = [find for find in free if find not in taken]
    return matches, used


def template_of(text: Marked) -> str:
    """The text with its spans' kinds in their places."""
    pieces, end = [], 0
    for span in sorted(text.spans, key=lambda span: span.start):
        pieces += [text.text[end : span.start], f"<{span.kind}>"]
        end = span.end
    return "".join(pieces) + text.text[end:]


def alike(texts: Iterable[Marked]) -> dict[int, int]:
    """For each template the lowest of those that it belongs with: seven tenths of their words are the same."""
    words: dict[int, list[str]] = {}
    for text in texts:
        words.setdefault(text.template, re.findall(r"<\w+>|\w+|\n|[^\w\s]", template_of(text).lower()))
    parent = {template: template for template in sorted(words)}

    def root(template: int) -> int:
        while parent[template] != template:
            template = parent[template]
        return template

    for first in parent:
        matcher = SequenceMatcher(None, autojunk=False)
        matcher.set_seq2(words[first])
        for second in parent:
            if second > first and root(first) != root(second):
                matcher.set_seq1(words[second])
                if min(matcher.real_quick_ratio(), matcher.quick_ratio(), matcher.ratio()) >= _ALIKE:
                    one, other = sorted((root(first), root(second)))
                    parent[other] = one
    return {template: root(template) for template in parent}


def compared(taggers: "Sequence[Tagger]", parts: Sequence[Sequence[Marked]]) -> dict[str, Any]:
    """The rules alone and each part's tagger with them, all parts together and one by one; for reports."""
    finders: dict[str, list[Callable[[str], Sequence[Finding]]]] = {
        "rules": [lambda text: find_personal(text, KINDS)] * len(parts),
        "tagger": [partial(find_personal, kinds=(*KINDS, *TAGGED), tagger=tagger) for tagger in taggers],
    }
    found = {}
    for name, finds in finders.items():
        agreements = [agreement(part, find) for part, find in zip(parts, finds, strict=True)]
        exact = [measure(part, find).together() for part, find in zip(parts, finds, strict=True)]
        kinds = sorted({kind for one in agreements for kind in one.by_kind})
        found[name] = {
            "any_kind": sum((one.any_kind for one in agreements), Tally()).to_dict(),
            "typed": sum((one.typed for one in agreements), Tally()).to_dict(),
            "exact": sum(exact, Tally()).to_dict(),
            "folds": [one.any_kind.f1 for one in agreements],
            "by_kind": {
                kind: sum((one.by_kind.get(kind, Tally()) for one in agreements), Tally()).to_dict() for kind in kinds
            },
        }
    return {"texts": sum(map(len, parts)), "by_finder": found}


def harmless(
    texts: Sequence[str], tagger: "Tagger | None", kinds: Collection[str] = ("NAME", "ADDRESS")
) -> dict[str, Any]:
    """How much of texts is taken for personal data of some kinds; for reports."""
    finds = [find_personal(text, kinds, tagger=tagger) for text in texts]
    words = sum(len(text.split()) for text in texts) or 1
    examples = [text[one.start : one.end] for text, found in zip(texts, finds, strict=True) for one in found]
    return {
        "texts": len(texts),
        "touched": sum(map(bool, finds)) / max(len(texts), 1),
        "per_1000_words": 1000 * len(examples) / words,
        "examples": examples[:: max(len(examples) // 20, 1)][:20],
    }


def folds(texts: Sequence[Marked], count: int, seed: int) -> Iterator[tuple[list[Marked], list[Marked]]]:
    """For each fold what is learned from and what is measured; every text is measured once.

    Raises:
        DataError: there are fewer templates than folds.
    """
    group = alike(texts)
    names = sorted(set(group.values()))
    if len(names) < count:
        raise DataError(f"{len(names)} kinds of templates cannot be divided into {count} folds")
    order = Permutation(len(names), key_of(seed, "folds"))(np.arange(len(names)))
    fold = {name: int(place) % count for name, place in zip(names, order, strict=True)}
    for number in range(count):
        test = [text for text in texts if fold[group[text.template]] == number]
        taken = {value for text in test for value in _values(text)}
        rest = (text for text in texts if fold[group[text.template]] != number)
        yield [text for text in rest if not taken & _values(text)], test


def _values(text: Marked) -> set[str]:
    """What may not be on both sides; a number of three digits is no name."""
    spans = (span for span in text.spans if span.kind in _SHARED and span.end - span.start > 3)
    return {text.text[span.start : span.end].casefold() for span in spans}

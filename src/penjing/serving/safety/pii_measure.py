"""How well personal data is found: precision, recall and F1 by kind, on texts whose spans somebody marked.

    precision = right / found        recall = right / marked        F1 = 2 precision recall / (precision + recall)

A find is right when its kind is the marked one's and its ends are exactly the marked ends (`exact`), or when the two
cover each other by at least half (`overlapping`): half a card number leaks as much as all of it, half an address less.
Each marked span is matched once.

The data read here is presidio's synthetic set: sentences from templates, filled with made-up names and numbers. A part
of its templates is for writing rules by, the other for measuring (`half`); sentences of a template never are in both.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from penjing.errors import DataError
from penjing.files import read_json
from penjing.serving.safety.findings import Finding

NAMES: Mapping[str, str] = {
    "EMAIL_ADDRESS": "EMAIL",
    "DOMAIN_NAME": "URL",
    "PHONE_NUMBER": "PHONE",
    "CREDIT_CARD": "CARD",
    "IBAN_CODE": "IBAN",
    "US_SSN": "SSN",
    "IP_ADDRESS": "IP",
    "US_DRIVER_LICENSE": "LICENCE",
    "ZIP_CODE": "ZIP",
    "AGE": "AGE",
    "PERSON": "NAME",
    "STREET_ADDRESS": "ADDRESS",
    "GPE": "PLACE",
    "ORGANIZATION": "ORGANISATION",
    "NRP": "NATIONALITY",
    "TITLE": "TITLE",
    "DATE_TIME": "DATE",
}
"""What presidio's kinds are called here. No rule looks for the last five, which say nothing about who somebody is
unless joined with something else; a tagger learns them."""
RULED = tuple(NAMES.values())[:12]
"""The kinds that rules look for."""
IDENTIFIERS = ("EMAIL", "URL", "PHONE", "CARD", "IBAN", "SSN", "IP", "LICENCE")
"""All of the set's kinds that by themselves lead to one person, account or machine, and have a form."""


@dataclass(frozen=True)
class Marked:
    """A text and what is in it."""

    text: str
    spans: tuple[Finding, ...]
    template: int


def read_presidio(path: Path) -> list[Marked]:
    """The texts of presidio's synthetic set; kinds that have no name here keep theirs.

    Raises:
        DataError: the file is missing or of another form.
    """
    rows = read_json(path, DataError)
    try:
        return [
            Marked(
                row["full_text"],
                tuple(
                    Finding(NAMES.get(s["entity_type"], s["entity_type"]), s["start_position"], s["end_position"])
                    for s in row["spans"]
                ),
                int(row["template_id"]),
            )
            for row in rows
        ]
    except (TypeError, KeyError, ValueError) as fault:
        raise DataError(f"{path}: not presidio's form of marked texts ({type(fault).__name__}: {fault})") from None


def half(texts: Iterable[Marked], which: Literal["rules", "measured"]) -> list[Marked]:
    """The texts of the templates that rules were written by, or of those that were never looked at."""
    return [
        text for text in texts if (sha256(b"template %d" % text.template).digest()[0] % 2 == 0) == (which == "rules")
    ]


@dataclass
class Tally:
    """Finds of one kind, or of several."""

    right: int = 0
    found: int = 0
    marked: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.right + other.right, self.found + other.found, self.marked + other.marked)

    @property
    def precision(self) -> float:
        """The share of finds that are right; 1 where nothing was found."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """The share of what is marked that was found; 1 where nothing is marked."""
        return self.right / self.marked if self.marked else 1.0

    @property
    def f1(self) -> float:
        """Their harmonic mean."""
        total = self.found + self.marked
        return 2 * self.right / total if total else 1.0

    def to_dict(self) -> dict[str, float]:
        """For reports."""
        scores = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return scores | {"right": self.right, "found": self.found, "marked": self.marked}


@dataclass(frozen=True)
class Measured:
    """What was found, by kind."""

    exact: Mapping[str, Tally]
    overlapping: Mapping[str, Tally]
    missed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Examples, for whoever improves the rules."""
    wrong: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def together(self, kinds: Iterable[str] | None = None, *, exact: bool = True) -> Tally:
        """Some kinds, or all, as if they were one (micro average)."""
        tallies = self.exact if exact else self.overlapping
        return sum((tallies[kind] for kind in (tallies if kinds is None else kinds) if kind in tallies), Tally())


def measure(texts: Iterable[Marked], find: Callable[[str], Sequence[Finding]]) -> Measured:
    """How well `find` finds what is marked."""
    counts = {mode: (Counter[str](), Counter[str](), Counter[str]()) for mode in ("exact", "overlapping")}
    missed: dict[str, list[str]] = {}
    wrong: dict[str, list[str]] = {}
    for marked in texts:
        finds = list(find(marked.text))
        for mode, (right, found, there) in counts.items():
            left = list(marked.spans)
            found.update(f.kind for f in finds)
            there.update(s.kind for s in left)
            for one in finds:
                match = next((s for s in left if s.kind == one.kind and _fits(one, s, mode == "exact")), None)
                if match is not None:
                    left.remove(match)
                    right[one.kind] += 1
                elif mode == "exact":
                    wrong.setdefault(one.kind, []).append(marked.text[one.start : one.end])
            if mode == "exact":
                for span in left:
                    missed.setdefault(span.kind, []).append(marked.text[max(0, span.start - 40) : span.end])
    tallies = {
        mode: {kind: Tally(right[kind], found[kind], there[kind]) for kind in sorted(found | there)}
        for mode, (right, found, there) in counts.items()
    }
    return Measured(tallies["exact"], tallies["overlapping"], missed, wrong)


def _fits(one: Finding, other: Finding, exact: bool) -> bool:
    if exact:
        return (one.start, one.end) == (other.start, other.end)
    shared = min(one.end, other.end) - max(one.start, other.start)
    return shared * 2 >= max(one.end, other.end) - min(one.start, other.start)

"""The cleaning pipeline: documents in, good documents without copies and personal data out, and a report of what went.

Quality, signatures and scrubbing are done on all cores; the comparison with what has been kept is done here, in the
documents' order, so that the first of several copies stays and the result is the same whatever the number of cores.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from penjing.data.cleaning.minhash import NearCopies, Signature, signature, words
from penjing.data.cleaning.personal import scrub
from penjing.data.cleaning.quality import Quality
from penjing.data.corpus import Document
from penjing.errors import ConfigError
from penjing.files import atomic_file
from penjing.workers import in_order

_BATCH = 200
_EXAMPLES = 5
"""How many documents are kept in the report for each reason."""


@dataclass(frozen=True)
class Cleaning:
    """What is done. Each part can be left out."""

    quality: Quality | None = field(default_factory=Quality)
    """Rules that a document must pass; None: all do."""
    exact: bool = True
    """Leave out documents whose words are those of one before."""
    near: float | None = 0.8
    """Leave out documents whose estimated similarity with one before is at least this; None: none."""
    personal: bool = True
    """Replace personal data."""

    def __post_init__(self) -> None:
        if self.near is not None and not 0.5 <= self.near <= 1:
            raise ConfigError(f"near is {self.near}; it is a similarity from 0.5, below which pairs are missed, to 1")


@dataclass
class Report:
    """What came of it."""

    read: int = 0
    kept: int = 0
    characters_read: int = 0
    characters_kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Documents by reason."""
    personal: Counter[str] = field(default_factory=Counter)
    """Replacements by kind."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Where the first few documents of each reason came from; for copies also what they copy."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**vars(self), "left_out": dict(self.left_out), "personal": dict(self.personal)}


@dataclass(frozen=True, slots=True)
class _Examined:
    """What a worker makes of a document."""

    text: str
    origin: str
    length: int
    fault: str | None
    digest: bytes
    signature: Signature | None
    personal: Counter[str]


@dataclass(frozen=True)
class _Examiner:
    """Does to a batch of documents what needs no other document."""

    cleaning: Cleaning

    def __call__(self, batch: list[tuple[str, str]]) -> list[_Examined]:
        return [self._one(text, origin) for text, origin in batch]

    def _one(self, text: str, origin: str) -> _Examined:
        cleaning = self.cleaning
        fault = cleaning.quality.fault(text) if cleaning.quality else None
        if fault:
            return _Examined("", origin, len(text), fault, b"", None, Counter())
        digest = blake2b(" ".join(words(text)).encode(), digest_size=16).digest() if cleaning.exact else b""
        near = signature(text) if cleaning.near is not None else None
        length = len(text)
        text, counts = scrub(text) if cleaning.personal else (text, Counter[str]())
        return _Examined(text, origin, length, None, digest, near, counts)


def clean(
    documents: Iterable[Document],
    cleaning: Cleaning | None = None,
    *,
    report: Report | None = None,
    workers: int = 1,
    progress: Callable[[Report], None] | None = None,
) -> Iterator[Document]:
    """The documents that are worth learning from.

    Args:
        documents: as a `Corpus` gives them; the pieces of a long one are put together, and it is taken whole or not.
        cleaning: what to do; by default everything.
        report: is filled as documents are read.
        workers: processes; 1 works here.
        progress: called with the report now and then.
    """
    cleaning, report = cleaning or Cleaning(), report if report is not None else Report()
    seen: set[bytes] = set()
    copies = NearCopies(cleaning.near) if cleaning.near is not None else None
    for examined in in_order(_Examiner(cleaning), _batches(documents), workers, processes=True):
        for document in examined:
            report.read += 1
            report.characters_read += document.length
            reason, copied = _reason(document, seen, copies)
            if reason:
                report.left_out[reason] += 1
                shown = report.examples.setdefault(reason, [])
                if len(shown) < _EXAMPLES:
                    shown.append(f"{document.origin} = {copied}" if copied else document.origin)
                continue
            if document.digest:
                seen.add(document.digest)
            if copies is not None and document.signature is not None:
                copies.keep(document.origin, document.signature)
            report.kept += 1
            report.characters_kept += len(document.text)
            report.personal += document.personal
            yield Document(document.text, document.origin)
        if progress is not None:
            progress(report)


def _reason(document: _Examined, seen: set[bytes], copies: NearCopies | None) -> tuple[str | None, str]:
    """Why a document is left out, and which one it copies."""
    if document.fault:
        return document.fault, ""
    if document.digest and document.digest in seen:
        return "copy", ""
    if copies is not None and document.signature is not None:
        found = copies.find(document.signature)
        if found is not None:
            return "near copy", f"{found[0]} ({found[1]:.0%})"
    return None, ""


def write_clean(
    documents: Iterable[Document], out: Path, cleaning: Cleaning, *, workers: int = 1,
    progress: Callable[[Report], None] | None = None,
) -> Report:  # fmt: skip
    """Cleans into a JSON-lines file with the fields `text` and `origin`, which appears whole or not at all.

    Raises:
        DataError: the documents cannot be read.
        PenjingError: the file cannot be written.
    """
    report = Report()
    with atomic_file(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for document in clean(documents, cleaning, report=report, workers=workers, progress=progress):
            file.write(json.dumps({"text": document.text, "origin": document.origin}, ensure_ascii=False) + "\n")
    return report


def _batches(documents: Iterable[Document]) -> Iterator[list[tuple[str, str]]]:
    whole = _whole(documents)
    while batch := list(islice(whole, _BATCH)):
        yield batch


def _whole(documents: Iterable[Document]) -> Iterator[tuple[str, str]]:
    """Texts and origins, pieces put together."""
    pieces: list[str] = []
    for document in documents:
        pieces.append(document.text)
        if not document.continues:
            yield "".join(pieces), document.origin
            pieces = []

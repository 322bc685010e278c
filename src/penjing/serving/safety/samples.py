"""Texts that people judged: what moderation is learned from and measured on.

Eight categories, those of OpenAI's moderation set. A judgement is often partial: a Chinese comment is known to be
hateful or not, and nothing else of it is known; of a toxic one it is known that it is hateful *or* harassing. What is
not known is not learned from.

Files of these kinds are read from a folder, any of them:

    openai_moderation*.jsonl[.gz]   {"prompt": ..., "S": 0, "H": 1, ...}      eight categories, English
    surge_toxicity*.csv             text, is_toxic                            toxic or not, English
    COLDataset*.csv                 TEXT, label, topic                        offensive about race, region or gender or
                                                                              not, Chinese
    *.samples.jsonl                 {"text": ..., "labels": {"hate": 1}, "harmful": true}     one's own

They are divided by text: texts that share half of their runs of five words are one group (exactly counted, joined
transitively), and a hash of the group says whether it is learned from, chosen by, or measured on. So a text and its
near copy never stand on two sides, and the division stays when files are added.

Sources: Markov et al., "A Holistic Approach to Undesired Content Detection in the Real World", 2022, arXiv:2208.03274
(categories); Deng et al., "COLD: A Benchmark for Chinese Offensive Language Detection", 2022, arXiv:2201.06025.
"""

import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from penjing.data.cleaning.minhash import shingles
from penjing.errors import DataError, nearest
from penjing.serving.safety.language import language_of

CATEGORIES: Mapping[str, str] = {
    "sexual": "S",
    "hate": "H",
    "violence": "V",
    "harassment": "HR",
    "self-harm": "SH",
    "sexual/minors": "S3",
    "hate/threatening": "H2",
    "violence/graphic": "V2",
}
"""By the names that OpenAI's API has for them, with their letters in the published set."""
SPLITS = {"train": 65, "validation": 15, "test": 20}
"""Percent of the groups."""
_ALIKE = 0.5
_COMMON = 400
"""Runs of words in more texts than this are phrases of the language, and join nothing."""


@dataclass(frozen=True)
class Sample:
    """A text and what is known of it."""

    text: str
    labels: Mapping[str, bool] = field(default_factory=dict)
    """Of the categories that were judged."""
    either: tuple[str, ...] = ()
    """Categories of which at least one holds."""
    harmful: bool = False
    """Whether any category holds, judged or not."""
    source: str = ""
    language: str = "en"

    @property
    def harmless(self) -> bool:
        """Not harmful."""
        return not self.harmful


def read_samples(folder: Path) -> list[Sample]:
    """All judged texts of a folder, in the order of the files' names; a text that comes twice counts once.

    Raises:
        DataError: there is no such folder, no file of a kind that is known, or one that is damaged.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    found: dict[str, Sample] = {}
    for path in sorted(folder.iterdir()):
        reader = next((read for fits, read in _READERS if fits(path.name)), None)
        if reader is None:
            continue
        try:
            for sample in reader(path):
                if sample.text.strip():
                    found.setdefault(sample.text, sample)
        except DataError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
            raise DataError(f"{path}: not of the form that its name says ({type(fault).__name__}: {fault})") from None
    if not found:
        raise DataError(
            f"{folder} has no judged texts; files are called openai_moderation*.jsonl, surge_toxicity*.csv, "
            "COLDataset*.csv or NAME.samples.jsonl"
        )
    return list(found.values())


def divide(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples by split; near copies are always in the same one."""
    parts: dict[str, list[Sample]] = {name: [] for name in SPLITS}
    for group in groups([sample.text for sample in samples]):
        first = min(samples[number].text for number in group)
        place, border = int.from_bytes(sha256(first.encode()).digest()[:4], "big") % 100, 0
        for name, percent in SPLITS.items():
            border += percent
            if place < border:
                parts[name] += [samples[number] for number in group]
                break
    return parts


def groups(texts: Sequence[str]) -> list[list[int]]:
    """The texts' numbers, near copies together: those whose runs of five words have a Jaccard similarity of 1/2."""
    runs = [frozenset(shingles(text).tolist()) for text in texts]
    holders = defaultdict[int, list[int]](list)
    parent = list(range(len(texts)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for number, own in enumerate(runs):
        met = {other for run in own if len(holders[run]) <= _COMMON for other in holders[run]}
        for other in met:
            if len(own & runs[other]) >= _ALIKE * len(own | runs[other]):
                parent[root(number)] = root(other)
        for run in own:
            holders[run].append(number)
    together = defaultdict[int, list[int]](list)
    for number in range(len(texts)):
        together[root(number)].append(number)
    return list(together.values())


def _openai(path: Path) -> Iterator[Sample]:
    for row in _json_lines(path):
        labels = {name: bool(row[letter]) for name, letter in CATEGORIES.items() if row.get(letter) is not None}
        yield _sample(str(row["prompt"]), labels, (), any(labels.values()), "openai")


def _surge(path: Path) -> Iterator[Sample]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            toxic = row["is_toxic"] == "Toxic"
            labels = {} if toxic else {"hate": False, "harassment": False, "hate/threatening": False}
            yield _sample(row["text"], labels, ("hate", "harassment") if toxic else (), toxic, "surge")


def _cold(path: Path) -> Iterator[Sample]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            offensive = row["label"] == "1"
            labels = {"hate": offensive}  # its topics are race, region and gender
            yield _sample(row["TEXT"], labels, (), offensive, "cold")


def _own(path: Path) -> Iterator[Sample]:
    for row in _json_lines(path):
        labels = {str(name): bool(value) for name, value in dict(row.get("labels", {})).items()}
        for name in labels:
            if name not in CATEGORIES:
                raise DataError(f"{path}: there is no category '{name}'{nearest(name, CATEGORIES)}")
        harmful = bool(row.get("harmful", any(labels.values())))
        either = tuple(CATEGORIES) if harmful and not any(labels.values()) else ()
        yield _sample(str(row["text"]), labels, either, harmful, path.name.removesuffix(".samples.jsonl"))


def _sample(text: str, labels: Mapping[str, bool], either: tuple[str, ...], harmful: bool, source: str) -> Sample:
    return Sample(text, dict(labels), either, harmful, source, language_of(text))


def _json_lines(path: Path) -> Iterable[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for line in data.decode("utf-8").splitlines():
        if line.strip():
            yield json.loads(line)


_READERS = (
    (lambda name: name.startswith("openai_moderation") and name.endswith((".jsonl", ".jsonl.gz")), _openai),
    (lambda name: name.startswith("surge_toxicity") and name.endswith(".csv"), _surge),
    (lambda name: name.startswith("COLDataset") and name.endswith(".csv"), _cold),
    (lambda name: name.endswith(".samples.jsonl"), _own),
)

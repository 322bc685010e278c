r"""A corpus: documents of text out of files, folders and Hugging Face datasets, streamed, and split in two.

    for document in documents("books/"):                  # every text, JSON and parquet file in it, in sorted order
        document.text, document.origin
    train, validation = Corpus("novel.txt").split(0.1)    # both can be read as often as needed

What is a document:
    .txt .md              the whole file; or, where the file has the separator `<|endoftext|>`, each part between two
    .jsonl .json          a record: its field (`text`), a string or a list of strings, which are then lines
    .parquet              a row: the same field
    hf:org/name           a row of a Hugging Face dataset, streamed: hf:NAME[:CONFIG[:SPLIT]]
    s3://bucket/folder/   as a local file, folder or pattern, wherever fsspec reaches; see `penjing.data.places`
Text and JSON files may be compressed (.gz, .zst). Documents without text are left out.

A document longer than a few million characters arrives in pieces, cut where tokenizers cut as well, so that memory
stays flat; all but the last say that they `continue`.

Which side of the split: the validation side gets each document whose hash, with the seed, falls into the fraction. It
is a property of the text (of the first million characters, and without the line ends around it), so copies of one
document never lie on both sides, whatever files they are in, and a corpus that grows keeps its split.
A corpus of few documents (a novel, ten plays) is split by position: the last part of each document is for validation.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from penjing.data import places, records, streams
from penjing.data.places import File
from penjing.errors import DataError

END_OF_TEXT = "<|endoftext|>"
PIECE = 1 << 21
"""Documents of more characters than this arrive in pieces of about this size."""

_TEXT_KINDS = (".txt", ".text", ".md", ".markdown")
_DOCUMENTS_EXPECTED = 10

Source = str | Path | Iterable[str | Path]


@dataclass(frozen=True, slots=True)
class Document:
    """A text, or a piece of a long one, and where it came from."""

    text: str
    origin: str = ""
    """The file and line, record or row, for error messages."""
    continues: bool = False
    """Whether the next document is the next piece of this one."""
    key: str = ""
    """What the split hashes for a piece: the beginning of its document. "" means the beginning of the text itself."""


class Corpus:
    """The documents of one or more sources, read anew by each iteration.

    Args:
        source: a file, a folder (searched as `places.files_in` does: hidden files and the runs in it are left out), a
            pattern such as `books/*.txt`, an address of any of these, `hf:NAME[:CONFIG[:SPLIT]]`, or several of these.
        field: which field of a record is the text.
        separator: what lies between the documents of a text file; None makes each file one document.
        encoding: of text and JSON files: "utf-8", "gb18030", ...
        errors: "strict" refuses bytes that are no text, "replace" reads them as U+FFFD.

    Raises:
        DataError: while reading: a source is missing, unreadable, malformed, of unknown kind, or has no text at all.
    """

    def __init__(
        self,
        source: Source,
        *,
        field: str = "text",
        separator: str | None = END_OF_TEXT,
        encoding: str = "utf-8",
        errors: str = "strict",
    ):
        self.sources = [source] if isinstance(source, str | Path) else list(source)
        self.field = field
        self.separator = separator
        self.encoding = encoding
        self.errors = errors

    def __iter__(self) -> Iterator[Document]:
        empty = True
        for source in self.sources:
            for document in self._read(source):
                empty = False
                yield document
        if empty:
            raise DataError(f"there is no text in {', '.join(map(str, self.sources))}")

    def identity(self) -> dict[str, Any]:
        """What tells these documents from any others without reading them, JSON-able; see `places.identity`.

        Raises:
            DataError: a source is missing or cannot be reached.
        """
        known = [
            [str(source)] if is_dataset(str(source)) else [str(source), places.identity(source)]
            for source in self.sources
        ]
        read_as = {name: getattr(self, name) for name in ("field", "separator", "encoding", "errors")}
        return {"sources": known, **read_as}

    def split(self, fraction: float, seed: int = 0) -> tuple[Iterable[Document], Iterable[Document]]:
        """The training and the validation documents, by document or by position (see the module).

        Args:
            fraction: the share that is for validation, more than 0 and less than 1.
            seed: which documents those are. A split by position does not depend on it.
        """
        if not 0 < fraction < 1:
            raise DataError(f"the validation fraction is {fraction}; it must lie between 0 and 1")
        enough = int(_DOCUMENTS_EXPECTED / fraction)
        ends = (document for document in self if not document.continues)
        few = sum(1 for _ in islice(ends, enough)) < enough
        lengths = _lengths(self) if few else None
        return _Part(self, fraction, seed, lengths, False), _Part(self, fraction, seed, lengths, True)

    def _read(self, source: str | Path) -> Iterator[Document]:
        if isinstance(source, str) and is_dataset(source):
            yield from self._documents(
                (row, f"{source}, row {number}") for number, row in enumerate(_hugging_face(source), 1)
            )
            return
        for file in places.files_at(source, _known, _kinds()):
            yield from self._file(file)

    def _file(self, path: File) -> Iterator[Document]:
        kind = records.kind_of(path)
        if kind in _TEXT_KINDS:
            blocks = streams.text_blocks(path, encoding=self.encoding, errors=self.errors)
            return _documents_of_text(blocks, str(path), self.separator)
        if kind in records.KINDS:
            rows = records.read(path, columns=[self.field], encoding=self.encoding, errors=self.errors)
            return self._documents((record.value, record.where) for record in rows)
        raise DataError(f"{path}: unknown kind of file '{kind}'; known: {_kinds()}")

    def _documents(self, rows: Iterable[tuple[Any, str]]) -> Iterator[Document]:
        for value, where in rows:
            text = self._text(value, where)
            if text and not text.isspace():
                yield from _pieces(text, where)

    def _text(self, value: Any, where: str) -> str:
        if isinstance(value, dict):
            if self.field not in value:
                present = ", ".join(map(str, value)) or "none"
                raise DataError(f"{where}: no field '{self.field}'; this record has: {present}")
            value = value[self.field]
        if value is None:
            return ""
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            value = "\n".join(value)
        if not isinstance(value, str):
            raise DataError(f"{where}: '{self.field}' is of type {type(value).__name__}, not a text or a list of lines")
        return streams.whole_characters(value, where, self.errors)


def documents(source: Source, **options: Any) -> Iterator[Document]:
    """The documents of a source, streamed: `iter(Corpus(source, **options))`."""
    return iter(Corpus(source, **options))


def is_dataset(source: str) -> bool:
    """Whether a source is `hf:NAME`, a dataset by name, and not `hf://`, a file on the Hub."""
    return source.startswith("hf:") and not source.startswith("hf://")


def is_validation(document: Document, fraction: float, seed: int = 0) -> bool:
    """Whether a document is for validation: by a hash of its beginning and the seed, the same on every machine."""
    text = document.key or _beginning(document.text)
    digest = blake2b(text.encode(), digest_size=8, key=b"penjing split %d" % seed).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def _known(path: File) -> bool:
    return records.kind_of(path) in (*_TEXT_KINDS, *records.KINDS)


def _kinds() -> str:
    return ", ".join((*_TEXT_KINDS, *records.KINDS)) + " (and .gz, .zst of the text and JSON ones)"


def _documents_of_text(blocks: Iterator[str], file: str, separator: str | None) -> Iterator[Document]:
    """The documents between separators; in pieces where one outgrows `PIECE`."""
    if separator == "":
        raise DataError("the separator of documents is empty; None makes each file a document")
    number, key, text = 1, "", ""
    longest = PIECE + len(separator or "")  # so that a separator that has only begun to arrive is never cut
    for block in blocks:
        parts = (text + block).split(separator) if separator else [text + block]
        for ended in parts[:-1]:
            # line ends around a separator are its own; a document that has begun to leave in pieces keeps them
            whole = ended if key else ended.strip("\n") if number > 1 else ended.rstrip("\n")
            if key or (whole and not whole.isspace()):
                yield Document(whole, f"{file}, document {number}", key=key)
            number, key = number + 1, ""
        text = parts[-1]
        if number > 1 and not key:
            text = text.lstrip("\n")
        while len(text) > longest:
            cut = _border(text)
            key = key or _beginning(text)
            yield Document(text[:cut], _nth(file, number), continues=True, key=key)
            text = text[cut:]
    if number > 1 and not key:
        text = text.rstrip("\n")
    if key or (text and not text.isspace()):
        yield Document(text, _nth(file, number), key=key)


def _nth(file: str, number: int) -> str:
    return file if number == 1 else f"{file}, document {number}"


def _pieces(text: str, origin: str) -> Iterator[Document]:
    """A document that is already in memory, in pieces if it is long."""
    key = _beginning(text) if len(text) > PIECE else ""
    start = 0
    while len(text) - start > PIECE:
        end = start + _border(text[start : start + PIECE + 2])
        yield Document(text[start:end], origin, continues=True, key=key)
        start = end
    yield Document(text[start:], origin, key=key)


_BORDERS = (
    re.compile(r"(?<=\S\n)(?=\w)"),
    re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])"),
    re.compile(r"(?<=\n)(?=\S)"),
)


def _border(text: str) -> int:
    r"""Where to cut a text longer than `PIECE`: close before that many characters, and where a tokenizer cuts as well.

    A single line end before a letter is such a place in all split patterns in use, and so is a space between two
    letters; after an empty line the patterns since cl100k cut. Text without any of these is cut at the limit.
    """
    for border in _BORDERS:
        places = [match.start() for match in border.finditer(text, PIECE - PIECE // 16, PIECE + 1)]
        if places:
            return places[-1]
    return PIECE


# the split


def _beginning(text: str) -> str:
    """What decides the side of a document: no more of it than its first piece has, outer line ends aside; never ""."""
    return text[:PIECE].lstrip("\n")[: PIECE // 2].rstrip("\n") or "\n"


class _Part:
    """One side of a corpus's split, read anew by each iteration."""

    def __init__(self, corpus: Corpus, fraction: float, seed: int, lengths: list[int] | None, validation: bool):
        self._corpus = corpus
        self._fraction = fraction
        self._seed = seed
        self._lengths = lengths
        self._validation = validation

    def __iter__(self) -> Iterator[Document]:
        if self._lengths is not None:
            return self._by_position(self._lengths)
        return (d for d in self._corpus if is_validation(d, self._fraction, self._seed) == self._validation)

    def _by_position(self, lengths: list[int]) -> Iterator[Document]:
        number, start = 0, 0
        for piece in self._corpus:
            border = int(lengths[number] * (1 - self._fraction))
            end = start + len(piece.text)
            at = max(0, border - start)
            text = piece.text[at:] if self._validation else piece.text[:at]
            if text:
                continues = piece.continues and (self._validation or end < border)
                yield replace(piece, text=text, continues=continues)
            number, start = (number, end) if piece.continues else (number + 1, 0)


def _lengths(corpus: Corpus) -> list[int]:
    """How many characters each document has."""
    lengths, length = [], 0
    for piece in corpus:
        length += len(piece.text)
        if not piece.continues:
            lengths.append(length)
            length = 0
    return lengths


# Hugging Face datasets


def _hugging_face(source: str) -> Iterator[Any]:
    """The rows of `hf:NAME[:CONFIG[:SPLIT]]`, streamed."""
    parts = source.removeprefix("hf:").split(":")
    if not parts[0] or len(parts) > 3:
        raise DataError(f"{source}: write it as hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
    name, config, split = (*parts, "", "")[:3]
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"{source}: Hugging Face datasets need an extra: pip install penjing[datasets]") from None
    try:
        yield from load_dataset(name, config or None, split=split or "train", streaming=True)
    except Exception as fault:  # the library has errors of many kinds for what can be mistyped or unreachable
        raise DataError(f"{source} cannot be read: {fault}") from fault

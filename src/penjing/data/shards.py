"""Token shards: a corpus as token ids on disk, memory-mapped, so that size costs no memory and no start-up time.

    folder/
      header.json          what is below, for whom: tokenizer fingerprint, counts, sizes, SHA-256 of each file
      tokens-00000.bin     token ids, little-endian uint16 (vocabularies up to 65,536) or uint32
      tokens-00001.bin     and so on, of equal size but for the last
      ends.bin             int64: where each document ends, in tokens from the beginning
      bytes.bin            int64: how many UTF-8 bytes of text there are up to each document's end

Each document ends with the tokenizer's end-of-document token, and begins with the begin token where the tokenizer's
model expects one. A document may go on in the next file. Writing is a stream with a bounded number of documents in
hand, on any number of threads or processes, with the same result; `shard_files` is the writing side.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

import numpy as np
from numpy.typing import NDArray

from penjing.data import shard_files
from penjing.data.corpus import Document
from penjing.data.shard_files import Encoder, Writer, tasks, token_file
from penjing.errors import DataError
from penjing.files import atomic_folder, read_json, write_json
from penjing.workers import in_order

if TYPE_CHECKING:
    from penjing.tokenizer.tokenizer import Tokenizer

FORMAT = "penjing token shards, version 1"
FILE_TOKENS = 1 << 29
"""How many tokens a file holds, the last one aside (1 GiB of uint16)."""

_MADE_OF = "made_of.json"


@dataclass(frozen=True)
class Header:
    """What header.json says."""

    tokenizer: str
    """The fingerprint of the tokenizer whose ids these are."""
    vocab_size: int
    eos_id: int
    dtype: str
    """Of a token on disk: "<u2" or "<u4"."""
    file_tokens: int
    """How many tokens each file holds, but the last."""
    documents: int
    tokens: int
    bytes: int
    """UTF-8 bytes of all text."""
    sha256: dict[str, str]
    """Of each file, by name."""


class Shards:
    """Token shards on disk; made by `write`, opened by `Shards.open`.

    Attributes:
        folder: where they lie.
        documents, tokens, bytes: how many documents, tokens (end tokens included) and UTF-8 bytes of text there are.
        ends: `(documents,)`, where each document ends in the stream of all tokens; memory-mapped.
        eos: the id that ends each document.
        counts: None: all tokens count in the loss.
        fingerprint: tells these shards from any others.
    """

    def __init__(self, folder: Path, header: Header):
        self.folder = folder
        self.header = header
        self.documents, self.tokens, self.bytes = header.documents, header.tokens, header.bytes
        self.eos = header.eos_id
        self.counts: NDArray[np.bool_] | None = None
        self.fingerprint = _digest(sorted(header.sha256.items()), header.tokenizer)
        self._files = [self._map(name, header.dtype, count) for name, count in _token_files(header)]
        self.ends: NDArray[np.int64] = self._map("ends.bin", "<i8", header.documents)
        self._bytes = self._map("bytes.bin", "<i8", header.documents)

    @classmethod
    def open(cls, folder: str | Path, tokenizer: "Tokenizer | None" = None) -> "Shards":
        """Opens shards; with a tokenizer, checks that their ids are that tokenizer's.

        Raises:
            DataError: they are missing, damaged, of another version, or were written with another tokenizer.
        """
        folder = Path(folder)
        path = folder / "header.json"
        if not path.exists():
            raise DataError(f"there are no token shards in {folder} (no header.json)")
        values = read_json(path, DataError)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise DataError(f"{path}: not a header of '{FORMAT}'; write the shards anew")
        header = _header(values, path)
        if tokenizer is not None and header.tokenizer != fingerprint(tokenizer):
            raise DataError(
                f"{folder}: these shards were written with another tokenizer (vocabulary of {header.vocab_size}, "
                f"yours has {tokenizer.vocab_size}); write them anew with this one"
            )
        return cls(folder, header)

    def __repr__(self) -> str:
        return f"Shards({self.folder}, documents={self.documents}, tokens={self.tokens})"

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger[Any]]:
        """Tokens `start` to `stop` of all documents in a row, `(stop - start,)`; a view where one file has them all."""
        size = self.header.file_tokens
        first, last = start // size, (stop - 1) // size
        if first == last:
            return self._files[first][start - first * size : stop - first * size]
        parts = [self._files[i][max(0, start - i * size) : stop - i * size] for i in range(first, last + 1)]
        return np.concatenate(parts)

    def document(self, number: int) -> NDArray[np.unsignedinteger[Any]]:
        """The tokens of a document, its end token included."""
        if not 0 <= number < self.documents:
            raise DataError(f"{self.folder}: there is no document {number}; there are {self.documents}, from 0")
        return self.read(int(self.ends[number - 1]) if number else 0, int(self.ends[number]))

    def document_bytes(self, number: int) -> int:
        """How many UTF-8 bytes of text a document has."""
        return int(self._bytes[number] - (self._bytes[number - 1] if number else 0))

    def place(self, token: int) -> str:
        """Which document a token of the stream is in, for error messages."""
        return f"{self.folder}, document {int(np.searchsorted(self.ends, token, side='right'))}"

    def verify(self) -> None:
        """Reads every file and compares it with its SHA-256.

        Raises:
            DataError: a file is not what was written; names it.
        """
        for name, expected in self.header.sha256.items():
            with (self.folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise DataError(f"{self.folder / name} is damaged: its SHA-256 is not the header's")

    def _map(self, name: str, dtype: str, count: int) -> NDArray[Any]:
        path = self.folder / name
        if not path.exists():
            raise DataError(f"{path} is missing; write the shards anew")
        expected, size = count * np.dtype(dtype).itemsize, path.stat().st_size
        if size != expected:
            raise DataError(f"{path} is damaged: it has {size:,} bytes, not {expected:,}; write the shards anew")
        return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)


def write(
    documents: Iterable[Document | str | NDArray[np.integer[Any]]],
    tokenizer: "Tokenizer",
    folder: str | Path,
    *,
    workers: int = 1,
    processes: bool = False,
    file_tokens: int = FILE_TOKENS,
    progress: Callable[[int], None] | None = None,
    made_of: Any = None,
) -> Shards:
    """Writes documents as token shards; the folder appears whole or not at all.

    Args:
        documents: texts, or arrays of ids, whose bytes the tokenizer tells. Each gets the end token (and the tokens
            that begin it, where the model expects any), unless it is an array that has them.
        tokenizer: makes the ids.
        folder: where; shards that are there are replaced.
        workers: how many threads tokenize. The result does not depend on it.
        processes: processes instead of threads: worth their start for much text on many cores.
        file_tokens: how many tokens a file holds.
        progress: called now and then with how many UTF-8 bytes of text are done.
        made_of: what tells the documents from any others (plain JSON). With it, writing that was stopped goes on from
            its last whole part, for which `documents` are read from their beginning again, but not tokenized; what is
            finished stays as it is. What is not finished lies beside the folder, as `.NAME.unfinished`.

    Raises:
        DataError: there is no document, the folder holds something else, the tokenizer has no end-of-document token, or
            what was left unfinished is of other documents or another tokenizer.
        PenjingError: the disk is full, or the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "header.json").exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there and holds no token shards; name another folder")
    eos = tokenizer.eos_id
    if eos is None:
        raise DataError("the tokenizer has no token that ends a document (eos); shards need one")
    print_of_tokenizer = fingerprint(tokenizer)
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    kept = None
    if made_of is not None:
        record = {"tokenizer": print_of_tokenizer, "file_tokens": file_tokens, "text": json.loads(json.dumps(made_of))}
        if (folder / _MADE_OF).exists() and read_json(folder / _MADE_OF, DataError) == record:
            return Shards.open(folder, tokenizer)
        kept = _unfinished(folder, record)
    with atomic_folder(folder) as temporary:
        place = kept or temporary
        with Writer(place, np.dtype(dtype), tokenizer.prefix_ids, eos, file_tokens) as writer:
            rest = itertools.islice(documents, writer.read, None)
            for number, pieces in enumerate(in_order(Encoder(tokenizer), tasks(rest), workers, processes=processes), 1):
                for piece in pieces:
                    writer.add(piece)
                if kept and number % shard_files.PART_TASKS == 0:
                    writer.end_part()
                if progress is not None:
                    progress(writer.bytes)
            writer.end_document()
            if kept:
                writer.end_part()
        if not writer.documents:
            if kept:
                shutil.rmtree(kept)
            raise DataError("there is no document to write: the corpus, or this side of its split, is empty")
        header = Header(
            tokenizer=print_of_tokenizer,
            vocab_size=tokenizer.vocab_size,
            eos_id=eos,
            dtype=dtype,
            file_tokens=file_tokens,
            documents=writer.documents,
            tokens=writer.tokens,
            bytes=writer.bytes,
            sha256=writer.sha256(),
        )
        if kept:
            for name in (*header.sha256, _MADE_OF):
                _also_at(kept / name, temporary / name)
        write_json(temporary / "header.json", {"format": FORMAT, **asdict(header)})
    if kept:
        shutil.rmtree(kept)
    return Shards(folder, header)


def _also_at(file: Path, place: Path) -> None:
    """The file in a second place, not moved there: a kill in between must leave the unfinished folder whole."""
    try:
        os.link(file, place)
    except OSError:  # a file system without links
        shutil.copyfile(file, place)


def _unfinished(folder: Path, made_of: dict[str, Any]) -> Path:
    """The folder for what is not finished, which may hold parts of the same documents already."""
    kept = folder.parent / f".{folder.name}.unfinished"
    record = kept / _MADE_OF
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise DataError(f"{kept} cannot be written: {fault.strerror}; name another folder") from None
    if not record.exists():
        write_json(record, made_of)
    elif (before := read_json(record, DataError)) != made_of:
        changed = [name for name in made_of if not isinstance(before, dict) or before.get(name) != made_of[name]]
        raise DataError(
            f"{kept} holds unfinished shards, and since then this has changed: {', '.join(changed)}; "
            "delete it to begin again"
        )
    return kept


def fingerprint(tokenizer: "Tokenizer") -> str:
    """Tells whether two tokenizers' ids mean the same: a hash of what each id stands for."""
    tokens = (tokenizer.token_bytes(number) for number in range(tokenizer.vocab_size))
    return _digest(sorted(tokenizer.special_tokens.items()), b"".join(b"%d:%b" % (len(t), t) for t in tokens))


def _token_files(header: Header) -> Iterator[tuple[str, int]]:
    for number in itertools.count():
        left = header.tokens - number * header.file_tokens
        if left <= 0:
            return
        yield token_file(number), min(left, header.file_tokens)


def _header(values: dict[str, Any], path: Path) -> Header:
    types: dict[str, Any] = {field.name: get_origin(field.type) or field.type for field in fields(Header)}
    if values.keys() == types.keys() and all(isinstance(values[name], kind) for name, kind in types.items()):
        header = Header(**values)
        if header.dtype in ("<u2", "<u4") and min(header.documents, header.tokens, header.file_tokens) > 0:
            return header
    raise DataError(f"{path}: the header is damaged; write the shards anew")


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:32]

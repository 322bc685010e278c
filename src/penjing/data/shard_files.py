"""The writing side of token shards: documents to ids on many workers, ids to files, in parts that survive a kill.

A part is some megabytes of text. After each, the files are flushed to disk and `parts.json` says how long they are by
then; a process that goes on cuts off what came after. As documents are read in one order and cut into tasks by their
lengths alone, the files come out the same whoever tokenizes what, and however often it was interrupted.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from penjing.data.corpus import Document
from penjing.data.streams import whole_characters
from penjing.errors import DataError
from penjing.files import read_json, write_json

if TYPE_CHECKING:
    from penjing.tokenizer.tokenizer import Tokenizer

TASK_CHARACTERS = 1 << 18
"""Documents of together so many characters are a task."""
PART_TASKS = 64
"""So many tasks are a part (16 MB of text)."""
PARTS = "parts.json"
_READ = 1 << 20

Entry = Document | NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Piece:
    """The ids of a document or of a piece of one."""

    ids: NDArray[np.integer[Any]]
    bytes: int
    continues: bool


class Encoder:
    """Documents to pieces of ids; called by several threads or processes at a time."""

    def __init__(self, tokenizer: "Tokenizer"):
        self._tokenizer = tokenizer
        self._lengths: NDArray[np.int64] | None = None

    def __call__(self, task: list[Entry]) -> list[Piece]:
        """What becomes of each document of a task."""
        return [self._encode(entry) for entry in task]

    def _encode(self, entry: Entry) -> Piece:
        if isinstance(entry, Document):
            size = len(whole_characters(entry.text, entry.origin or "a document").encode())
            return Piece(self._tokenizer.encode_array(entry.text), size, entry.continues)
        vocab_size = self._tokenizer.vocab_size
        if entry.size and not 0 <= int(entry.min()) <= int(entry.max()) < vocab_size:
            raise DataError(f"a document has ids from {entry.min()} to {entry.max()}; the vocabulary has {vocab_size}")
        if self._lengths is None:
            lengths = [len(self._tokenizer.token_bytes(number)) for number in range(vocab_size)]
            self._lengths = np.array(lengths, dtype=np.int64)
        return Piece(entry, int(self._lengths[entry].sum()), False)


class Writer:
    """Appends documents to the files of a folder, and goes on where `parts.json` says that an earlier one was.

    Args:
        folder: where the files lie; it exists.
        dtype: of a token on disk.
        prefix: ids that begin a document.
        eos: the id that ends one.
        file_tokens: how many tokens a file holds.

    Attributes:
        documents, tokens, bytes: how many there are so far.
        read: how many texts, or pieces of texts, were added.
    """

    def __init__(self, folder: Path, dtype: np.dtype[Any], prefix: list[int], eos: int, file_tokens: int):
        self._folder = folder
        self._dtype = dtype
        self._prefix = prefix
        self._eos = eos
        self._file_tokens = file_tokens
        self._files: dict[str, BinaryIO] = {}
        self._hashes: dict[str, Any] = {}
        self._finished: dict[str, str] = {}
        self._open = False
        self._last = -1
        self.documents = self.tokens = self.bytes = self.read = 0

    def __enter__(self) -> "Writer":
        if (self._folder / PARTS).exists():
            self._go_on(read_json(self._folder / PARTS, DataError))
        for name in ("ends.bin", "bytes.bin"):
            self._reach(name, 8 * self.documents)
        number, used = divmod(self.tokens, self._file_tokens)
        if used:
            self._reach(token_file(number), used * self._dtype.itemsize)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, piece: Piece) -> None:
        """Appends a document or a piece of one."""
        if not self._open and piece.ids[: len(self._prefix)].tolist() != self._prefix:
            self._append(np.array(self._prefix, dtype=self._dtype))
        self._open = True
        self._append(piece.ids.astype(self._dtype))
        self.bytes += piece.bytes
        self.read += 1
        if piece.ids.size:
            self._last = int(piece.ids[-1])
        if not piece.continues:
            self.end_document()

    def end_document(self) -> None:
        """Ends the document whose pieces were added, if there is one."""
        if not self._open:
            return
        if self._last != self._eos:
            self._append(np.array([self._eos], dtype=self._dtype))
        self._open, self._last = False, -1
        self.documents += 1
        for name, value in (("ends.bin", self.tokens), ("bytes.bin", self.bytes)):
            self._put(name, value.to_bytes(8, "little"))

    def end_part(self) -> None:
        """Makes sure that what was added so far survives a kill."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        numbers = {name: getattr(self, name) for name in ("read", "documents", "tokens", "bytes")}
        state = {**numbers, "open": self._open, "last": self._last, "finished": self._finished}
        write_json(self._folder / PARTS, state)

    def sha256(self) -> dict[str, str]:
        """Of each file, by name."""
        hashes = {name: value.hexdigest() for name, value in self._hashes.items()} | self._finished
        return {name: hashes[name] for name in sorted(hashes)}

    def _go_on(self, state: Any) -> None:
        try:
            self.read, self.documents, self.tokens, self.bytes = (
                int(state[name]) for name in ("read", "documents", "tokens", "bytes")
            )
            self._open, self._last, self._finished = bool(state["open"]), int(state["last"]), dict(state["finished"])
        except (TypeError, KeyError, ValueError):
            raise self._damaged() from None
        expected = self._file_tokens * self._dtype.itemsize
        for name in self._finished:
            if not (self._folder / name).exists() or (self._folder / name).stat().st_size != expected:
                raise self._damaged()

    def _reach(self, name: str, size: int) -> None:
        """Opens a file to go on after its first `size` bytes; what came after them is cut off."""
        path = self._folder / name
        path.touch()
        if path.stat().st_size < size:
            raise self._damaged()
        os.truncate(path, size)
        self._hashes[name] = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_READ):
                self._hashes[name].update(block)
        self._files[name] = path.open("ab", buffering=_READ)

    def _damaged(self) -> DataError:
        return DataError(f"{self._folder}: the unfinished shards are damaged; delete this folder to begin again")

    def _append(self, ids: NDArray[Any]) -> None:
        while ids.size:
            number, used = divmod(self.tokens, self._file_tokens)
            name = token_file(number)
            if used == 0:
                self._reach(name, 0)
            part, ids = ids[: self._file_tokens - used], ids[self._file_tokens - used :]
            self._put(name, part.tobytes())
            self.tokens += part.size
            if self.tokens % self._file_tokens == 0:
                file = self._files.pop(name)
                file.flush()
                os.fsync(file.fileno())
                file.close()
                self._finished[name] = self._hashes.pop(name).hexdigest()

    def _put(self, name: str, data: bytes) -> None:
        self._files[name].write(data)
        self._hashes[name].update(data)


def tasks(
    documents: Iterable[Entry | str],
) -> Iterator[list[Entry]]:
    """Groups of documents that are worth a thread's while."""
    task: list[Entry] = []
    size = 0
    for document in documents:
        entry = Document(document) if isinstance(document, str) else document
        task.append(entry)
        size += len(entry.text) if isinstance(entry, Document) else entry.size
        if size >= TASK_CHARACTERS:
            yield task
            task, size = [], 0
    if task:
        yield task


def token_file(number: int) -> str:
    """The name of a file of tokens."""
    return f"tokens-{number:05}.bin"

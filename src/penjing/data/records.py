r"""Records out of files: JSON lines, JSON lists and parquet, one at a time, each with where it came from.

A JSON list is read as a stream too: its elements are decoded as they arrive, so a list of many gigabytes needs no more
memory than its largest element.

    web.jsonl      {"text": "..."}\n{"text": "..."}\n          -> Record({...}, "web.jsonl, line 1"), ...
    poems.json     [{"title": ...}, {"title": ...}]            -> Record({...}, "poems.json, record 1"), ...
    one.json       {"title": ...}   or several, one after the other
    web.parquet    a table, read by row groups                 -> Record({...}, "web.parquet, row 1"), ...
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penjing.data import streams
from penjing.data.places import File
from penjing.errors import DataError

LINES = (".jsonl", ".ndjson")
KINDS = (*LINES, ".json", ".parquet")

_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Record:
    """One value of a file."""

    value: Any
    where: str
    """The file and the line, record or row, for error messages."""


def kind_of(path: File) -> str:
    """What a file's name says that it is, compression aside: `.jsonl` for `web.JSONL.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in streams.COMPRESSED else path.suffix.lower()


def read(
    path: File, *, columns: list[str] | None = None, encoding: str = "utf-8", errors: str = "strict"
) -> Iterator[Record]:
    """The records of a .jsonl, .json or .parquet file; of a parquet table only `columns`, if given.

    Raises:
        DataError: the file cannot be read or is malformed; names the file and the line, record or row.
    """
    kind = kind_of(path)
    if kind in LINES:
        return _json_lines(path, encoding, errors)
    if kind == ".json":
        return _json_stream(path, encoding, errors)
    if kind == ".parquet":
        return _parquet(path, columns)
    raise DataError(f"{path}: not a file of records; known: {', '.join(KINDS)} (and .gz, .zst of the JSON ones)")


def _json_lines(path: File, encoding: str, errors: str) -> Iterator[Record]:
    for number, line in streams.lines(path, encoding=encoding, errors=errors):
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as fault:
            raise DataError(f"{where}: not valid JSON ({_reason(fault)})") from None
        yield Record(value, where)


def _json_stream(path: File, encoding: str, errors: str) -> Iterator[Record]:
    text = _Unread(path, streams.text_blocks(path, encoding=encoding, errors=errors, newlines=False))
    in_list = text.skip("[")
    number = 0
    while (head := text.peek()) and not (in_list and head == "]"):
        if in_list and number and not text.skip(","):
            raise text.error(f"a comma is missing after record {number}")
        number += 1
        yield Record(text.decode(), f"{path}, record {number}")
    if in_list and not text.skip("]"):
        raise text.error(f"the list has no end; it breaks off after record {number}")
    if text.peek():
        raise text.error("there is more text after the list's end")


class _Unread:
    """Text that arrives in blocks, of which the beginning is looked at, skipped or decoded as JSON."""

    def __init__(self, path: File, blocks: Iterator[str]):
        self._path = path
        self._blocks = blocks
        self._decoder = json.JSONDecoder()
        self._text, self._at = "", 0
        self._line = 1

    def peek(self) -> str:
        """The next character that is not white space, "" at the end."""
        while True:
            start = self._at
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            self._line += self._text.count("\n", start, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more(1):
                return ""

    def skip(self, character: str) -> bool:
        """Takes the next character that is not white space if it is this one."""
        if self.peek() != character:
            return False
        self._at += 1
        return True

    def decode(self) -> Any:
        """Takes the next JSON value; each time it turns out to be longer, twice as much is read before the next try."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as fault:
                if _is_cut(fault) and self._more(len(self._text) - self._at):
                    continue
                self._line += self._text.count("\n", self._at, fault.pos)
                raise self.error(fault.msg) from None
            except (ValueError, RecursionError) as fault:
                raise self.error(_reason(fault)) from None
            if end == len(self._text) and self._more(1):
                continue  # a number may go on in the next block
            self._line += self._text.count("\n", self._at, end)
            self._at = end
            return value

    def error(self, message: str) -> DataError:
        """What to raise when the text here is not JSON."""
        return DataError(f"{self._path}, line {self._line}: not valid JSON ({message})")

    def _more(self, least: int) -> bool:
        parts = [self._text[self._at :]]
        while least > 0 and (block := next(self._blocks, "")):
            parts.append(block)
            least -= len(block)
        self._text, self._at = "".join(parts), 0
        return len(parts) > 1


def _is_cut(fault: json.JSONDecodeError) -> bool:
    """Whether the fault may be only that the text so far ends here: inside a string, or a word such as `-Infinity`."""
    return fault.msg.startswith("Unterminated string") or fault.pos >= len(fault.doc) - len("-Infinity")


def _reason(fault: Exception) -> str:
    if isinstance(fault, RecursionError):
        return "nested too deep"
    if isinstance(fault, json.JSONDecodeError):
        return f"{fault.msg}, character {fault.pos + 1}"
    return str(fault)


def _parquet(path: File, columns: list[str] | None) -> Iterator[Record]:
    from pyarrow import ArrowException, parquet

    try:
        with ExitStack() as stack:
            source = path if isinstance(path, Path) else stack.enter_context(path.open())
            if not isinstance(source, Path) and not source.seekable():
                raise DataError(
                    f"{path}: this server sends files only whole, and parquet is read in parts: download it"
                )
            file = stack.enter_context(parquet.ParquetFile(source))
            missing = [column for column in columns or () if column not in file.schema_arrow.names]
            if missing:
                present = ", ".join(file.schema_arrow.names)
                raise DataError(f"{path}: no column '{missing[0]}'; this table has: {present}")
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for value in batch.to_pylist():
                    row += 1
                    yield Record(value, f"{path}, row {row}")
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (ArrowException, OSError) as fault:
        raise DataError(f"{path}: not a parquet file that can be read ({str(fault).splitlines()[0]})") from None

"""Files as streams of text: decompressed, decoded and checked, a block at a time, so that size never matters.

Whatever is wrong with a file (missing, damaged, not in the encoding it should be in) is a `DataError` that says which
file and where in it.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import zstandard

from penjing.data.places import File
from penjing.errors import DataError, nearest

COMPRESSED = (".gz", ".zst")
BLOCK = 1 << 20
"""How many bytes are read at a time."""
FEED = 1 << 12
"""How many bytes of a .zst file are decompressed at a time: they are at most 128 MiB of text."""
LONGEST_LINE = 1 << 28
"""A line of more bytes than this (256 MiB) is taken for a file that is not made of lines."""


@contextmanager
def open_bytes(path: File) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed where its name ends in .gz or .zst.

    Raises:
        DataError: the file is missing, cannot be read, or its compressed data is damaged or cut short.
    """
    compression = path.suffix.lower()
    try:
        with cast(io.BufferedReader, path.open("rb")) as raw:
            if compression in COMPRESSED and not raw.peek(1):
                raise EOFError("it is empty")
            if compression == ".gz":
                yield cast(BinaryIO, gzip.GzipFile(fileobj=raw))
            elif compression == ".zst":
                yield io.BufferedReader(_Frames(raw), BLOCK)
            else:
                yield raw
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as fault:
        raise DataError(f"{path}: the compressed data is damaged or cut short ({fault})") from None
    except OSError as fault:
        raise DataError(f"{path} cannot be read: {fault.strerror or fault}") from None


def text_blocks(path: File, *, encoding: str = "utf-8", errors: str = "strict", newlines: bool = True) -> Iterator[str]:
    r"""The text of a file in blocks, without a byte-order mark and, with `newlines`, with every line end as `\n`.

    Args:
        path: the file, here or far away; .gz and .zst are decompressed.
        encoding: a name that Python knows: "utf-8", "gb18030", "utf-16", ...
        errors: "strict" refuses bytes that are no text in that encoding, "replace" reads them as U+FFFD.
        newlines: whether `\r\n` and `\r` become `\n`.

    Raises:
        DataError: the file cannot be read, or has a byte that is no text; names the file and the byte's offset.
    """
    decoder = _decoder(encoding, errors)
    translate = io.IncrementalNewlineDecoder(None, translate=True) if newlines else None
    offset, first = 0, True
    with open_bytes(path) as file:
        while True:
            block = file.read(BLOCK)
            waiting = len(decoder.getstate()[0])  # bytes of a character that the last block cut in two
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as fault:
                raise DataError(_not_text(path, f"byte {offset - waiting + fault.start}", fault)) from None
            offset += len(block)
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            if translate is not None:
                text = translate.decode(cast(bytes, text), final=not block)
            if text:
                yield text
            if not block:
                return


def lines(path: File, *, encoding: str = "utf-8", errors: str = "strict") -> Iterator[tuple[int, str]]:
    """The lines of a file that are not blank, each with its number, counted from 1.

    The encoding must write a line end as the one byte 0A (all but UTF-16 and UTF-32 do).

    Raises:
        DataError: the file cannot be read, a line is no text in that encoding, or is longer than `LONGEST_LINE`.
    """
    _decoder(encoding, errors)
    with open_bytes(path) as file:
        number = 0
        while raw := file.readline(LONGEST_LINE):
            number += 1
            if len(raw) == LONGEST_LINE:
                raise DataError(f"{path}, line {number}: longer than {LONGEST_LINE >> 20} MiB; is it a file of lines?")
            try:
                text = raw.decode(encoding, errors)
            except UnicodeDecodeError as fault:
                raise DataError(_not_text(path, f"line {number}, byte {fault.start}", fault)) from None
            if number == 1:
                text = text.removeprefix("\ufeff")
            if text and not text.isspace():
                yield number, text


def whole_characters(text: str, where: str, errors: str = "strict") -> str:
    """The text, which must be writable as UTF-8: JSON can spell half of a surrogate pair, UTF-8 cannot.

    Raises:
        DataError: it is not, unless `errors` is "replace", which makes a `?` of such a half.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        if errors == "strict":
            raise DataError(f"{where}: half a character (a lone surrogate); read with errors='replace'") from None
        return text.encode(errors="replace").decode()
    return text


class _Frames(io.RawIOBase):
    """What the frames of a .zst file hold; zstandard's own reader takes a frame without end for one that ended."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._frame: Any = None
        self._unread, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._unread or self._file.read(FEED)
            if not data:
                if self._frame is not None:
                    raise EOFError("its last frame has no end")
                return 0
            frame = self._frame or self._decompressor.decompressobj()
            self._ready = memoryview(frame.decompress(data))
            self._unread = frame.unused_data
            self._frame = None if frame.eof else frame
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _decoder(encoding: str, errors: str) -> codecs.IncrementalDecoder:
    if errors not in ("strict", "replace"):
        raise DataError(f"errors is '{errors}'{nearest(errors, ('strict', 'replace'))}")
    try:
        return codecs.getincrementaldecoder(encoding)(errors)
    except LookupError:
        raise DataError(f"there is no text encoding named '{encoding}'; try utf-8, gb18030 or utf-16") from None


def _not_text(path: File, where: str, fault: UnicodeDecodeError) -> str:
    byte = fault.object[fault.start]
    return (
        f"{path}, {where}: 0x{byte:02x} is not {fault.encoding} text; "
        "name the file's encoding (gb18030?), or read with errors='replace'"
    )

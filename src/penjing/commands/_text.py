"""Text that a user hands to a command: UTF-8, or an error that says where it is not."""

import sys
from collections.abc import Iterable, Iterator
from typing import cast

from penjing.errors import DataError
from penjing.inference.text import writable


def decoded(data: bytes, name: object) -> str:
    """The text in `data`, which is what `name` holds.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02X}; convert it first"
        ) from None


def standard_input() -> str:
    """All of the standard input. Errors as of `decoded`."""
    return decoded(b"".join(_lines()), "the standard input")


def standard_lines() -> Iterator[str]:
    """The lines of the standard input, each as soon as it is there. Errors as of `decoded`."""
    for number, line in enumerate(_lines(), 1):
        yield decoded(line, f"line {number} of the standard input")


def argument(text: str, name: str) -> str:
    """`text`, which was typed behind a command.

    Raises:
        DataError: it is not UTF-8.
    """
    if not writable(text):
        raise DataError(f"{name} holds bytes that are not UTF-8 text")
    return text


def _lines() -> Iterable[bytes]:
    return () if sys.stdin is None else cast("Iterable[bytes]", sys.stdin.buffer)

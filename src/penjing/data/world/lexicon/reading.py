"""Reads the lexicon's tables: a tab-separated file with a header line, each row one frozen dataclass."""

import dataclasses
import importlib.resources
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from penjing.errors import DataError

Row = TypeVar("Row")


def _yes_or_no(cell: str) -> bool:
    return {"yes": True, "no": False}[cell]


def _list(cell: str) -> tuple[str, ...]:
    return tuple(cell.split(","))


_READERS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    bool: _yes_or_no,
    int | None: int,
    bool | None: _yes_or_no,
    tuple[str, ...]: _list,
}


def read_table(file: str, kind: type[Row]) -> tuple[Row, ...]:
    """All rows of one of the lexicon's files.

    Args:
        file: the file's name in this package, such as `things.tsv`.
        kind: a dataclass whose field names are the columns.

    Raises:
        DataError: a column, a cell or a required value is missing or unreadable; says file and line.
    """
    return parse_table((importlib.resources.files(__package__) / file).read_text(encoding="utf-8"), kind, file)


def parse_table(text: str, kind: type[Row], file: str) -> tuple[Row, ...]:
    """The rows of a table given as text; `file` is what errors name."""
    header, *lines = text.splitlines()
    columns = header.split("\t")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if set(columns) != set(fields) or len(columns) != len(fields):
        raise DataError(f"{file}: the columns are {columns}, but should be {list(fields)}")
    types = typing.get_type_hints(kind)
    rows = []
    for number, line in enumerate(lines, start=2):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise DataError(f"{file}, line {number}: {len(cells)} cells, but {len(columns)} columns")
        values = {}
        for column, cell in zip(columns, cells, strict=True):
            if not cell and fields[column].default is dataclasses.MISSING:
                raise DataError(f"{file}, line {number}: column {column!r} is empty")
            if cell:
                try:
                    values[column] = _READERS[types[column]](cell)
                except (ValueError, KeyError):
                    raise DataError(f"{file}, line {number}: {cell!r} cannot stand in column {column!r}") from None
        rows.append(kind(**values))
    return tuple(rows)

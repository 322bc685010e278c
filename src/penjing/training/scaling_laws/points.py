"""Training runs as points: parameters, tokens, loss; read from CSV files of any of the usual column names."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from penjing.errors import DataError

_COLUMNS = {
    "parameters": ("n", "parameters", "params", "model size", "model_size"),
    "tokens": ("d", "tokens", "training tokens", "training_tokens"),
    "flops": ("c", "flops", "training flop", "training flops", "compute"),
    "loss": ("loss", "l", "validation_loss"),
}
_LARGEST = 1e40
"""Above any number of parameters, tokens or operations; beyond it arithmetic ends."""
_LARGEST_FILE = 2**25
"""Characters."""
FLOPS_PER_WEIGHT = 6
"""Floating-point operations for a parameter and a token, forward and backward (Kaplan et al., 2020, section 2.1)."""


@dataclass(frozen=True)
class Points:
    """Finished runs, one entry each in all arrays."""

    parameters: Float[np.ndarray, " runs"]
    tokens: Float[np.ndarray, " runs"]
    flops: Float[np.ndarray, " runs"]
    """As reported, or 6 N D."""
    loss: Float[np.ndarray, " runs"]
    """Nats a token, of text that the run had not seen."""

    @classmethod
    def of(cls, parameters: object, tokens: object, loss: object) -> "Points":
        """Points whose compute is 6 N D. The three are sequences of equal length."""
        n, d, l = (np.asarray(values, np.float64) for values in (parameters, tokens, loss))
        return cls(n, d, FLOPS_PER_WEIGHT * n * d, l)

    @classmethod
    def read(cls, path: str | Path) -> "Points":
        """Points of a CSV file with a header.

        It needs a column `loss` and two of: parameters (or N, params, model size), tokens (or D), flops (or C, training
        flop); the third follows from C = 6 N D. Other columns are passed over; case does not count.

        Raises:
            DataError: there is no such file, a column is missing or there twice, or a number is none, naming the line.
        """
        rows = _rows(path)
        header = [name.strip().lower() for name in rows[0][1]] if rows else []
        found = {
            what: next((header.index(name) for name in names if name in header), None)
            for what, names in _COLUMNS.items()
        }
        sizes = [what for what in ("parameters", "tokens", "flops") if found[what] is not None]
        if found["loss"] is None or len(sizes) < 2:
            raise DataError(
                f"{path} needs a column 'loss' and two of 'parameters', 'tokens', 'flops'; it has: "
                f"{', '.join(header) or 'nothing'} (columns are separated by commas)"
            )
        for what in (*sizes, "loss"):
            if header.count(header[found[what] or 0]) > 1:
                raise DataError(f"{path} has several columns '{header[found[what] or 0]}'; leave one")
        values: dict[str, list[float]] = {what: [] for what in (*sizes, "loss")}
        for line, row in rows[1:]:
            for what, column in values.items():
                column.append(_number(path, line, row, found[what], what))
        if not values["loss"]:
            raise DataError(f"{path} has a header and no runs")
        known = {what: np.array(column) for what, column in values.items()}
        if "flops" not in known:
            known["flops"] = FLOPS_PER_WEIGHT * known["parameters"] * known["tokens"]
        elif "tokens" not in known:
            known["tokens"] = known["flops"] / (FLOPS_PER_WEIGHT * known["parameters"])
        elif "parameters" not in known:
            known["parameters"] = known["flops"] / (FLOPS_PER_WEIGHT * known["tokens"])
        return cls(**known)

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, which: "Int[np.ndarray, ' some'] | Bool[np.ndarray, ' runs']") -> "Points":
        """Some of the runs, by index or by mask; an index may come more than once."""
        return Points(self.parameters[which], self.tokens[which], self.flops[which], self.loss[which])

    def without_highest(self, count: int) -> "Points":
        """All but the runs of highest loss, in their order."""
        if not 0 <= count < len(self):
            raise DataError(f"cannot leave out {count} of {len(self)} runs")
        return self.take(np.sort(np.argsort(self.loss, kind="stable")[: len(self) - count]))


def _rows(path: str | Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, with their lines."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            text = file.read(_LARGEST_FILE + 1)
        if len(text) > _LARGEST_FILE:
            raise DataError(f"{path} is longer than {_LARGEST_FILE:,} characters, too long for a table of runs")
        reader = csv.reader(io.StringIO(text, newline=""))
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from None


def _number(path: str | Path, line: int, row: list[str], column: int | None, what: str) -> float:
    assert column is not None
    text = row[column].strip() if column < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{path}, line {line}: {what} is '{text}', no number") from None
    if not (math.isfinite(value) and value > 0):
        raise DataError(f"{path}, line {line}: {what} is {text}; it must be a finite number above 0")
    if value > _LARGEST:
        raise DataError(f"{path}, line {line}: {what} is {text}; no run has more than {_LARGEST:g}")
    return value

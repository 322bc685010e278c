"""Work on data that a kill does not undo: units, each written down as soon as it is done.

    with Units(folder, {"model": "tiny"}) as units:
        for name in names:
            if name not in units.done:
                units.add(name, {"records": [...]})
        results = units.done.values()

The journal is a file of JSON lines in a folder of its own: a header that says what it is for, then a unit a line. Each
is flushed to the disk. A line that a kill cut off is dropped, and its unit is done again.
"""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from penjing.errors import ConfigError, DataError, PenjingError
from penjing.training.lock import only_run_in


class Units:
    """A journal, open.

    Args:
        folder: where it is; it is made when there is none.
        made_for: what its results depend on, as JSON holds it.

    Raises:
        ConfigError: it was made for something else; each difference is named.
        DataError: it is damaged, other than by a kill.
        TrainingError: another process is writing it.
    """

    def __init__(self, folder: Path, made_for: Mapping[str, Any]):
        self.path = folder / "units.jsonl"
        self._made_for = json.loads(json.dumps(made_for))
        self.done: dict[str, Any] = {}
        """Results by the unit's name, in the order in which they were found."""
        self._held = ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "Units":
        self._held.enter_context(only_run_in(self.path.parent))
        try:
            self._file = self._held.enter_context(self.path.open("ab+"))
            self._read()
        except OSError as fault:
            self._held.close()
            raise PenjingError(f"{self.path} cannot be written: {fault.strerror}") from None
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def add(self, name: str, result: Any) -> None:
        """Writes down a unit's result."""
        self._write({"unit": name, "result": result})
        self.done[name] = result

    def _read(self) -> None:
        assert self._file
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                value = json.loads(line)
                if number == 1:
                    self._check(value["made_for"])
                else:
                    self.done[value["unit"]] = value["result"]
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{self.path}, line {number}: damaged; remove the file to begin anew") from None
            whole += len(line)
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)
        if not whole:
            self._write({"made_for": self._made_for})

    def _check(self, before: Mapping[str, Any]) -> None:
        differ = [
            f"{name} was {before.get(name)!r}, now it is {self._made_for.get(name)!r}"
            for name in sorted({*before, *self._made_for})
            if before.get(name) != self._made_for.get(name)
        ]
        if differ:
            raise ConfigError(
                f"{self.path} was begun in another way: {'; '.join(differ)}. Undo the change to go on with it, write "
                "to another place, or remove it"
            )

    def _write(self, value: Any) -> None:
        assert self._file
        try:
            self._file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as fault:
            raise PenjingError(f"{self.path} could not be written: {fault.strerror}; what it has is kept") from None

"""Training runs for the page: which there are, their curves as they grow, their samples, plots and reports.

A run is a folder below `runs/` with a `metrics.jsonl` in it. The page asks for what is new:

    curves(folder, "first/pretrain")            -> points, a mark
    curves(folder, "first/pretrain", mark)      -> the points since then

The mark says which file was read and up to which byte. A run that resumes writes its file anew without the steps that
it lost (`training.metrics`); the file is then another one, and the page starts over. Nothing outside the folder is
read, whatever a name says: it is resolved, links and all, before it is opened.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penjing.errors import PenjingError
from penjing.training.metrics import SAMPLES

DEEPEST = 4
"""Folders between `runs/` and a run at most."""
MOST_RUNS = 500
"""Runs that are listed at most, the newest."""
MOST_POINTS = 3_000
"""Steps that one answer has at most; of more, evenly chosen ones."""
MOST_BYTES = 64 * 2**20
"""Bytes of a metrics file that are read for one answer; what is left comes with the next."""
MOMENT = 120.0
"""Seconds since the last line until which a run counts as active."""
_PAGES = ("report.md", "samples.md")
_PLOTS = ".png"
_LARGEST = 8 * 2**20


class RunsError(PenjingError):
    """There is no such run or file."""


@dataclass(frozen=True)
class Run:
    """A training run in the list."""

    name: str
    """Its folder, from `runs/` on."""
    updated: float
    """When its metrics were last written, in seconds since 1970."""
    active: bool
    """Whether that was a moment ago."""
    step: int
    """The last step, 0 before the first."""
    loss: float | None
    """The last training loss."""


@dataclass(frozen=True)
class Curves:
    """What is new in a run's metrics."""

    lines: list[dict[str, Any]]
    """As in `metrics.jsonl`; of very many, evenly chosen ones."""
    mark: str
    """What to ask with next time."""
    again: bool
    """Whether these lines are all there are, because the file is another one than before."""
    more: bool
    """Whether there is more to be asked for at once."""


def runs(folder: Path) -> list[Run]:
    """All runs below a folder, the last written first."""
    found = [run for path in _metrics_files(folder, DEEPEST) if (run := _run(folder, path)) is not None]
    return sorted(found, key=lambda run: run.updated, reverse=True)[:MOST_RUNS]


def curves(folder: Path, name: str, mark: str = "") -> Curves:
    """The lines of a run's metrics since a mark.

    Raises:
        RunsError: there is no such run.
    """
    path = _inside(folder, name) / "metrics.jsonl"
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            identity = f"{facts.st_ino:x}-"
            known = mark.startswith(identity) and mark[len(identity) :].isdecimal()
            start = int(mark[len(identity) :]) if known else 0
            if start > facts.st_size:
                known, start = False, 0
            file.seek(start)
            read = file.read(MOST_BYTES)
    except OSError:
        raise RunsError(f"there is no run {name!r} with metrics in {folder}") from None
    whole = read[: read.rfind(b"\n") + 1]
    lines = [line for text in whole.splitlines() if (line := _line(text)) is not None]
    end = start + len(whole)
    return Curves(_thinned(lines), f"{identity}{end}", not known, len(read) == MOST_BYTES and len(whole) > 0)


def samples(folder: Path, name: str, last: int = 20) -> list[dict[str, Any]]:
    """The last texts that the model wrote while it was trained: `step` and `text`, the newest first.

    Raises:
        RunsError: there is no such run.
    """
    path = _inside(folder, name) / SAMPLES
    by_step: dict[int, str] = {}
    for raw in _tail(path):
        line = _line(raw)
        if line is not None and isinstance(line.get("text"), str):
            # steps after this one were lost when the run was resumed before them
            by_step = {step: text for step, text in by_step.items() if step < line["step"]}
            by_step[line["step"]] = line["text"]
    newest = sorted(by_step.items(), reverse=True)[:last]
    return [{"step": step, "text": text} for step, text in newest]


def files(folder: Path, name: str) -> list[str]:
    """The plots and pages of a run, and of the recipe that it is a stage of, as paths from `runs/` on.

    Raises:
        RunsError: there is no such run.
    """
    place = _inside(folder, name)
    root = folder.resolve()
    places = [place] if place.parent == root or place == root else [place, place.parent]
    found = [
        path.relative_to(root).as_posix()
        for where in places
        for path in sorted(where.iterdir())
        if path.is_file() and (path.suffix == _PLOTS or path.name in _PAGES)
    ]
    return found


def file(folder: Path, name: str) -> Path:
    """A plot or page of a run.

    Raises:
        RunsError: there is none of that name, or it is neither.
    """
    path = _inside(folder, name)
    if not path.is_file() or not (path.suffix == _PLOTS or path.name in _PAGES) or path.stat().st_size > _LARGEST:
        raise RunsError(f"there is no plot or report {name!r} in {folder}")
    return path


def _inside(folder: Path, name: str) -> Path:
    """What a name stands for below the folder."""
    root = folder.resolve()
    try:
        path = (root / name).resolve()
    except (OSError, ValueError):  # a zero byte, a loop of links
        raise RunsError(f"there is no run {name!r} in {folder}") from None
    if not path.is_relative_to(root) or not path.exists():
        raise RunsError(f"there is no run {name!r} in {folder}")
    return path


def _metrics_files(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name == "metrics.jsonl" and entry.is_file(follow_symlinks=False):
            yield Path(entry.path)
        elif depth and entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _metrics_files(Path(entry.path), depth - 1)


def _run(folder: Path, path: Path) -> Run | None:
    step, loss = 0, None
    try:
        updated = path.stat().st_mtime
        for raw in reversed(_tail(path)):
            line = _line(raw)
            if line is None:
                continue
            step = max(step, line["step"])
            if isinstance(line.get("loss"), float | int):
                loss = float(line["loss"])
                break
    except OSError:
        return None  # it went away meanwhile
    name = path.parent.relative_to(folder).as_posix()
    return Run(name, updated, time.time() - updated < MOMENT, step, loss)


def _tail(path: Path, most: int = 2**16) -> list[bytes]:
    """The whole lines among the last bytes of a file; none where there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            text = file.read(most)
    except OSError:
        return []
    if size > most:
        text = text[text.find(b"\n") + 1 :]
    return text[: text.rfind(b"\n") + 1].splitlines()


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text, parse_constant=lambda name: None)  # NaN is no JSON that a browser reads
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def _thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `MOST_POINTS` training steps, evenly chosen, the last among them; validations all stay."""
    every = -(-len(lines) // MOST_POINTS)
    last = len(lines) - 1
    return (
        [line for place, line in enumerate(lines) if place % every == 0 or place == last or "validation" in line]
        if every > 1
        else lines
    )

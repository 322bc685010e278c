"""Reads an answer file and compares its functions with ours: what all checks of the learning path share."""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch


class Checks:
    """The checks of one chapter: a list of exercises, each with the cases that decide it."""

    def __init__(self) -> None:
        self._exercises: list[tuple[str, Callable[[Callable[..., Any]], str | None]]] = []

    def exercise(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Marks what decides the exercise `name`: from the reader's function to the first difference, or None."""

        def add(decide: Callable[..., Any]) -> Callable[..., Any]:
            self._exercises.append((name, decide))
            return decide

        return add

    def main(self, arguments: list[str]) -> int:
        """Checks the file that the command line names, and prints a line for each exercise; 0 when all is right."""
        if len(arguments) != 1 or not Path(arguments[0]).is_file():
            names = ", ".join(name for name, _ in self._exercises)
            print(f"Give the file with your answers. It defines: {names}", file=sys.stderr)
            return 2
        answers = load(Path(arguments[0]))
        return max([self._one(name, decide, answers) for name, decide in self._exercises])

    def _one(self, name: str, decide: Callable[..., Any], answers: ModuleType) -> int:
        function = getattr(answers, name, None)
        if function is None:
            print(f"-        {name}: not written yet")
            return 1
        try:
            wrong = decide(function)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            wrong = f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
        print(f"wrong    {name}: {wrong}" if wrong else f"right    {name}")
        return 1 if wrong else 0


def load(path: Path) -> ModuleType:
    """The answer file as a module."""
    spec = importlib.util.spec_from_file_location("answers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def differ(call: str, given: Any, expected: Any, tolerance: float = 1e-5) -> str | None:
    """A sentence about the first difference between what a call gave and what it should give; None when they agree.

    Tensors and numbers agree within `tolerance`, absolute and relative; everything else must be equal.
    """
    if isinstance(expected, torch.Tensor):
        if not isinstance(given, torch.Tensor):
            return f"{call} gives {type(given).__name__}, not a tensor"
        if given.shape != expected.shape:
            return f"{call} has the shape {tuple(given.shape)}, not {tuple(expected.shape)}"
        far = (given.double() - expected.double()).abs() > tolerance * (1 + expected.double().abs())
        far |= given.isnan()
        if not far.any():
            return None
        place = tuple(np.argwhere(far.numpy())[0].tolist())
        return f"{call}{list(place)} is {given[place].item():.6g}, not {expected[place].item():.6g}"
    if isinstance(expected, float):
        close = isinstance(given, int | float) and abs(given - expected) <= tolerance * (1 + abs(expected))
        return None if close else f"{call} is {given!r}, not {expected:.6g}"
    return None if given == expected else f"{call} is {given!r}, not {expected!r}"


def first(*findings: str | None) -> str | None:
    """The first of several differences."""
    return next((finding for finding in findings if finding), None)

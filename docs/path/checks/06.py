"""Checks chapter 6: python docs/path/checks/06.py my_answer.py."""

import random
import sys

import numpy as np
import torch
from checking import Checks, differ

from penjing.data import packing
from penjing.data.loader import assemble

checks = Checks()


class Documents:
    """A stream of ids, as `assemble` reads it."""

    counts = None

    def __init__(self, documents: list[list[int]]):
        self.ids = np.array([number for document in documents for number in document])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids start .. stop - 1."""
        return self.ids[start:stop]


@checks.exercise("best_fit")
def _(best_fit):
    dice = random.Random(1)
    cases = [([5, 3, 3, 2, 1], 6), ([6, 6, 6], 6), ([4, 4, 4, 2, 2, 2], 6), ([], 5), ([1] * 10, 3)]
    cases += [([dice.randint(1, 50) for _ in range(dice.randint(5, 60))], 50) for _ in range(20)]
    for lengths, capacity in cases:
        call = f"best_fit({lengths}, {capacity})"
        rows = [list(row) for row in best_fit(list(lengths), capacity)]
        if sorted(number for row in rows for number in row) != list(range(len(lengths))):
            return f"{call} gives {rows}: not every document is in exactly one row"
        space = [capacity - sum(lengths[number] for number in row) for row in rows]
        if any(left < 0 for left in space):
            return f"{call} gives {rows}: a row holds more than {capacity}"
        expected = packing.best_fit(lengths, capacity)
        spaces = sorted(capacity - sum(lengths[number] for number in row) for row in expected)
        if sorted(space) != spaces:
            return f"{call} gives {len(rows)} rows with {sorted(space)} free; best fit decreasing leaves {spaces}"
    return None


@checks.exercise("lay_out")
def _(lay_out):
    dice = random.Random(1)
    cases = [([[5, 6, 7, 0]], 3), ([[5, 0], [6, 7, 0], [8, 9, 8, 0]], 6), ([[5, 6, 0], [7, 0]], 8)]
    for _ in range(10):
        documents = [[dice.randint(1, 9) for _ in range(dice.randint(1, 8))] + [0] for _ in range(dice.randint(2, 5))]
        cases.append((documents, sum(len(document) - 1 for document in documents) + dice.randint(0, 4)))
    names = ("tokens", "targets", "mask", "positions", "documents")
    for documents, context in cases:
        stops = np.cumsum([len(document) for document in documents])
        spans = [(int(stop) - len(document), int(stop) - 1) for document, stop in zip(documents, stops, strict=True)]
        batch = assemble([(Documents(documents), spans)], context)
        given = lay_out([list(document) for document in documents], context)
        for name in names:
            ours = getattr(batch, name)
            if ours is None:  # one document that fills its row needs neither
                ours = torch.arange(context)[None] if name == "positions" else torch.zeros(1, context)
            call = f"lay_out({documents}, {context})['{name}']"
            wrong = differ(call, [int(number) for number in given[name]], ours[0].long().tolist())
            if wrong:
                return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

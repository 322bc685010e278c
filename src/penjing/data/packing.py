"""Packing: how documents become rows of `context` tokens, and in which order.

A row is a list of spans of the token stream; the tokens of a span are inputs, and each is to predict the one after it:

    stream      the stream of all documents is cut every `context` tokens, whatever it cuts
    random      as many windows of the stream, at random places (nanoGPT's sampling): some tokens twice, some not at all
    best_fit    documents stay whole where they can: one longer than a row is split into rows and a rest, and what is
                shorter shares rows, best fit decreasing; what no document fills is padding
    padded      as best_fit, but each document has rows of its own (for models that cannot keep neighbours apart)
    grouped     as padded; the loader puts rows of like length into a batch, which is as wide as its longest

A span lies within one document. The token that ends a document is predicted, but never an input, as nothing follows it:
where a window crosses a border, a place is left for padding. In all packings but random, each epoch gives every token
of every document, its first aside, to be predicted exactly once.

Best fit decreasing: the longest document first, each into the row with the least space that still holds it.

    lengths 5 3 3 2 1, rows of 6:    [5 1] [3 3] [2]

Source: Johnson et al., "Worst-case performance bounds for simple one-dimensional packing algorithms", 1974; for
language models: Ding et al., "Fewer truncations improve language modeling", 2024, arXiv:2404.10830, section 3.

Rows come in blocks. A block is made from its number alone (`order.Permutation` says which documents or windows it
holds), so memory is bounded by a block, and three numbers (epoch, block, row) say where an order stands.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penjing.data.order import Permutation, key_of, random_below
from penjing.errors import ConfigError, DataError, nearest

Row = list[tuple[int, int]]
"""Spans `(start, stop)`: the inputs are tokens start .. stop - 1 of the stream, their targets start + 1 .. stop."""

BLOCK_ROWS = 4096
BLOCK_TOKENS = 1 << 20
BLOCK_DOCUMENTS = 1 << 16


class Tokens(Protocol):
    """What can be packed: documents, one after the other in a stream of tokens. `shards.Shards` is one."""

    documents: int
    tokens: int
    ends: NDArray[np.int64]
    """Where each document ends in the stream, `(documents,)`."""
    counts: NDArray[np.bool_] | None
    """Which tokens are worth predicting, `(tokens,)`; None: all."""
    fingerprint: str
    """Tells this data from any other."""

    def read(self, start: int, stop: int) -> NDArray[np.integer]:
        """Tokens start .. stop - 1."""

    def place(self, token: int) -> str:
        """Where a token comes from, for error messages."""


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which documents share a row: their numbers, row by row, best fit decreasing. Empty documents are left out.

    Equal lengths are taken in the order given, and of rows with equal space the oldest is filled first.

    Raises:
        ConfigError: a document is longer than a row.
    """
    rows: list[list[int]] = []
    with_space: dict[int, deque[int]] = {}
    spaces = 0  # a set of numbers as bits: bit s says that some row has exactly s tokens of space
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        length = lengths[number]
        if length > capacity:
            raise ConfigError(f"a document of {length} tokens does not fit into a row of {capacity}")
        if length == 0:
            break
        enough = spaces >> length
        if enough:
            space = length + (enough & -enough).bit_length() - 1  # the lowest bit: the least space that is enough
            row = with_space[space].popleft()
            if not with_space[space]:
                spaces ^= 1 << space
        else:
            space, row = capacity, len(rows)
            rows.append([])
        rows[row].append(number)
        if left := space - length:
            with_space.setdefault(left, deque()).append(row)
            spaces |= 1 << left
    return rows


def split(
    starts: NDArray[np.int64], stops: NDArray[np.int64], capacity: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spans no longer than a row: the starts and stops of each span's full rows and of its rest, in order.

    Shapes: `(spans,)` to `(parts,)`.
    """
    parts = -(-(stops - starts) // capacity)
    owner = np.repeat(np.arange(len(starts)), parts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)  # 0, 1, .. within each span
    begins = starts[owner] + number * capacity
    return begins, np.minimum(begins + capacity, stops[owner])


def within_documents(data: Tokens, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> list[Row]:
    """Windows `(start, stop)` of the stream as rows, cut where documents end; a window with nothing left has no row.

    Shapes: `(windows,)`.
    """
    first = np.searchsorted(data.ends, starts, side="right").tolist()
    after = np.searchsorted(data.ends, stops, side="right").tolist()  # ends[first:after] are those in (start, stop]
    rows: list[Row] = []
    for i, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        ends = data.ends[first[i] : after[i]].tolist() if first[i] < after[i] else []
        spans = [*zip([start, *ends], [*(end - 1 for end in ends), stop], strict=True)]
        if row := [span for span in spans if span[0] < span[1]]:
            rows.append(row)
    return rows


def efficiency(rows: Sequence[Row], capacity: int) -> float:
    """The share of the rows' places that hold a token and not padding."""
    return sum(stop - start for row in rows for start, stop in row) / max(len(rows) * capacity, 1)


class Rows(ABC):
    """Rows without end, epoch after epoch, each epoch in an order of its own; can be entered anywhere.

    Args:
        data: the documents.
        context: input tokens of a row.
        seed: of the order; None leaves windows and documents in the order of the data (parts of very long ones aside).
    """

    def __init__(self, data: Tokens, context: int, seed: int | None):
        if data.tokens <= data.documents:
            raise DataError("there is nothing to predict: all documents are empty")
        self.data = data
        self.context = context
        self._seed = seed
        self._epoch = self._block = self._row = 0
        self._ready: list[Row] | None = None

    @property
    @abstractmethod
    def _blocks(self) -> int:
        """How many blocks an epoch has."""

    @abstractmethod
    def _make(self, epoch: int, block: int) -> list[Row]:
        """The rows of a block."""

    @property
    def epoch(self) -> float:
        """How often the data has been gone through: 1.5 in the middle of the second time."""
        part = self._row / len(self._current()) if self._row else 0.0
        return self._epoch + (self._block + part) / self._blocks

    def take(self, count: int) -> list[Row]:
        """The next `count` rows."""
        rows: list[Row] = []
        while len(rows) < count:
            block = self._current()
            part = block[self._row : self._row + count - len(rows)]
            rows += part
            self._row += len(part)
            if self._row >= len(block):
                self._ready, self._row, self._block = None, 0, self._block + 1
            if self._block == self._blocks:
                self._block, self._epoch = 0, self._epoch + 1
        return rows

    def one_epoch(self) -> Iterator[Row]:
        """All rows of the first epoch."""
        for block in range(self._blocks):
            yield from self._make(0, block)

    def state(self) -> dict[str, int]:
        """Where the order stands."""
        return {"epoch": self._epoch, "block": self._block, "row": self._row}

    def load(self, state: Mapping[str, int]) -> None:
        """Goes to where `state` was taken."""
        self._epoch, self._block, self._row = state["epoch"], state["block"], state["row"]
        self._ready = None

    def _current(self) -> list[Row]:
        """The rows of the block that is being gone through."""
        if self._ready is None:
            self._ready = self._make(self._epoch, self._block)
        return self._ready

    def _shuffled(self, size: int, begin: int, end: int, *use: int | str) -> NDArray[np.int64]:
        """Places `begin` to `end` of a shuffle of `size` numbers that belongs to this use of the seed."""
        places = np.arange(begin, min(end, size))
        return places if self._seed is None else Permutation(size, key_of(self._seed, *use))(places)


class StreamRows(Rows):
    """The stream cut every `context` tokens; the last row may be shorter."""

    @property
    def _windows(self) -> int:
        return -(-(self.data.tokens - 1) // self.context)

    @property
    def _blocks(self) -> int:
        return -(-self._windows // BLOCK_ROWS)

    def _make(self, epoch: int, block: int) -> list[Row]:
        first = block * BLOCK_ROWS
        starts = self.context * self._shuffled(self._windows, first, first + BLOCK_ROWS, "stream", epoch)
        return within_documents(self.data, starts, np.minimum(starts + self.context, self.data.tokens - 1))


class RandomRows(StreamRows):
    """Windows at random places; an epoch is as many of them as would cover the stream."""

    def __init__(self, data: Tokens, context: int, seed: int | None):
        super().__init__(data, context, seed)
        if seed is None:
            raise ConfigError("random packing needs a seed")
        if data.tokens <= context:
            raise DataError(f"random windows of {context} tokens need more than that; there are {data.tokens}")

    def _make(self, epoch: int, block: int) -> list[Row]:
        first = block * BLOCK_ROWS
        places = np.arange(first, min(first + BLOCK_ROWS, self._windows))
        starts = random_below(self.data.tokens - self.context, places, key_of(self._seed, "random", epoch))
        return within_documents(self.data, starts, starts + self.context)


class PaddedRows(Rows):
    """Each document in rows of its own."""

    def __init__(self, data: Tokens, context: int, seed: int | None):
        super().__init__(data, context, seed)
        self._longest = max(BLOCK_TOKENS // context, 1) * context
        self._further = self._parts_after_the_first()  # (2, parts)
        self._items = data.documents + self._further.shape[1]
        self._block_items = min(max(BLOCK_TOKENS * self._items // data.tokens, 1), BLOCK_DOCUMENTS)

    @property
    def _blocks(self) -> int:
        return -(-self._items // self._block_items)

    def _make(self, epoch: int, block: int) -> list[Row]:
        first = block * self._block_items
        items = self._shuffled(self._items, first, first + self._block_items, "documents", epoch)
        starts, stops = split(*self._spans(items), self.context)
        spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
        rows = [[spans[number] for number in row] for row in self._pack((stops - starts).tolist())]
        return [rows[number] for number in self._shuffled(len(rows), 0, len(rows), "rows", epoch, block)]

    def _pack(self, lengths: list[int]) -> list[list[int]]:
        return [[number] for number in range(len(lengths))]

    def _spans(self, items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where items start and stop; item number `documents + i` is the i-th part of a very long document."""
        starts, stops = np.empty_like(items), np.empty_like(items)
        whole = items < self.data.documents
        numbers = items[whole]
        starts[whole] = np.where(numbers > 0, self.data.ends[numbers - 1], 0)
        stops[whole] = np.minimum(self.data.ends[numbers] - 1, starts[whole] + self._longest)
        starts[~whole], stops[~whole] = self._further[:, items[~whole] - self.data.documents]
        return starts, stops

    def _parts_after_the_first(self) -> NDArray[np.int64]:
        """Documents too long for a block are taken in parts; the starts and stops of all but their first parts."""
        found = [np.empty((2, 0), dtype=np.int64)]
        for first in range(0, self.data.documents, 1 << 20):
            stops = np.asarray(self.data.ends[first : first + (1 << 20)]) - 1
            before = self.data.ends[first - 1] if first else 0
            starts = np.concatenate([[before], stops[:-1] + 1]) + self._longest
            long = starts < stops
            found.append(np.stack(split(starts[long], stops[long], self._longest)))
        return np.concatenate(found, axis=1)


class BestFitRows(PaddedRows):
    """Documents that share rows."""

    def _pack(self, lengths: list[int]) -> list[list[int]]:
        return best_fit(lengths, self.context)


PACKINGS: dict[str, type[Rows]] = {
    "best_fit": BestFitRows,
    "stream": StreamRows,
    "random": RandomRows,
    "padded": PaddedRows,
    "grouped": PaddedRows,
}


def rows_of(packing: str, data: Tokens, context: int, seed: int | None) -> Rows:
    """The rows of `data` by the name of a packing.

    Raises:
        ConfigError: there is no such packing.
    """
    if packing not in PACKINGS:
        raise ConfigError(f"there is no packing '{packing}'{nearest(packing, PACKINGS)}")
    return PACKINGS[packing](data, context, seed)

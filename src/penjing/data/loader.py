"""Loaders: batches without end, in an order that a seed decides and a checkpoint can resume.

    loader = PackedLoader.Config(batch=16, context=256, seed=1).build(Shards.open(folder))
    batch = next(loader)
    saved = loader.state_dict()             # a few numbers, JSON-able
    other.load_state_dict(saved)            # goes on with the very next batch, bit for bit

A loader takes rows from one or more `packing.Rows` and fills them into tensors. With several shards, each row comes
from the one that is furthest behind its share. A batch is that of all ranks together, whatever their number: each takes
its own rows of it, the first ones one more where they do not divide evenly. So ranks never see the same row, and a run
may resume with another number of them.

Where rows are "grouped", each is one document, the next fifty batches' rows are sorted by length, and these batches
come in a random order: a batch is then hardly wider than its shortest row, and what is left of padding is little.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from penjing.data.batch import TokenBatch
from penjing.data.order import Permutation, key_of
from penjing.data.packing import Row, Tokens, rows_of, within_documents
from penjing.errors import ConfigError, DataError

_WINDOW = 50
"""Batches whose rows are sorted by length together."""
_WIDTH = 8
"""Grouped batches are as wide as a multiple of this, which matrix products like."""


@dataclass(frozen=True)
class LoaderConfig:
    """What every loader must know."""

    batch: int
    """Rows of a batch, of all ranks together."""
    context: int
    """Input tokens of a row."""
    seed: int = 0
    """Decides the order."""
    packing: str = "best_fit"
    """How documents become rows: "best_fit", "stream", "random", "padded" or "grouped": `penjing.data.packing`."""
    rank: int = 0
    """Which of the processes of a distributed run this is."""
    world_size: int = 1
    """How many processes there are."""

    def __post_init__(self) -> None:
        for name in ("batch", "context", "world_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; a loader needs at least 1")
        if self.batch < self.world_size:
            raise ConfigError(f"a batch of {self.batch} has not a row for each of {self.world_size} ranks")
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(
                f"rank is {self.rank}; with a world_size of {self.world_size} it is 0 to {self.world_size - 1}"
            )

    @property
    def part(self) -> slice:
        """Which rows of a batch are this rank's."""
        size, more = divmod(self.batch, self.world_size)
        start = self.rank * size + min(self.rank, more)
        return slice(start, start + size + (self.rank < more))


def check_weights(weights: Sequence[float]) -> None:
    """Whether sources can be mixed so.

    Raises:
        ConfigError: a weight is negative or no number, or none is above 0.
    """
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise ConfigError(f"weights are {tuple(weights)}; they must be numbers from 0 on, at least one above 0")


class Loader(Iterator[TokenBatch]):
    """Batches without end; what `PackedLoader` and `InstructionLoader` have in common.

    Args:
        config: the rows' shape and order.
        sources: where rows come from, one or more.
        weights: each source's share of the rows, in any unit, 0 for none; empty: by size, so that all begin anew at the
            same time.
    """

    def __init__(self, config: LoaderConfig, sources: Sequence[Tokens], weights: Sequence[float] = ()):
        if not sources:
            raise DataError("a loader needs at least one set of shards")
        if weights:
            check_weights(weights)
            if len(weights) != len(sources):
                raise ConfigError(f"weights are {tuple(weights)}; each of the {len(sources)} sources needs one")
        self._config = config
        self._sources = [rows_of(config.packing, source, config.context, config.seed) for source in sources]
        shares = np.array(weights or [source.tokens for source in sources], dtype=np.float64)
        self._shares = (shares / shares.sum()).tolist()
        self._taken = [0] * len(sources)
        self._slots = self._filled = 0
        self._groups: deque[list[tuple[Tokens, Row]]] = deque()
        self._before, self._before_epoch = self._positions(), 0.0

    def __next__(self) -> TokenBatch:
        config = self._config
        first = self._handed_out + config.part.start
        everyones, width = self._next_rows()
        rows = everyones[config.part]
        batch = assemble(rows, width)
        self._slots += batch.tokens.numel()
        self._filled += sum(stop - start for _, row in rows for start, stop in row)
        source, row = rows[0]
        origin = f"rows {first} to {first + len(rows) - 1}, the first from {source.place(row[0][0])}"
        return TokenBatch(batch.tokens, batch.targets, batch.mask, batch.positions, batch.documents, origin)

    @property
    def epoch(self) -> float:
        """How often the data has been gone through, 1.5 in the middle of the second time; of several, the furthest."""
        now = max(source.epoch for source in self._sources)
        return now if not self._groups else now - (now - self._before_epoch) * len(self._groups) / _WINDOW

    @property
    def rows(self) -> int:
        """How many rows a batch has, on all ranks together."""
        return self._config.batch

    @property
    def efficiency(self) -> float:
        """The share of the places of all batches so far that held a token and not padding."""
        return self._filled / max(self._slots, 1)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, between two batches; JSON-able. The same on every rank."""
        return {
            "made_for": self._made_for(),
            "sources": self._before if self._groups else self._positions(),
            **({"group": self._group} if self._config.packing == "grouped" else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state` was taken.

        Raises:
            DataError: it is of other data, or of an order of other rows.
        """
        try:
            before = dict(state["made_for"])
            names = ("epoch", "block", "row", "taken")
            positions = [{name: int(source[name]) for name in names} for source in state["sources"]]
            group = int(state.get("group", 0))
        except (KeyError, TypeError, ValueError):
            raise DataError("this is no saved position of a loader") from None
        for name, now in self._made_for().items():
            if before.get(name) != now:
                what = "the data has changed" if name == "data" else f"{name} was {before.get(name)}, now it is {now}"
                raise DataError(f"the saved position in the data does not fit: {what}")
        if len(positions) != len(self._sources):
            raise DataError("this is no saved position of a loader")
        for source, position in zip(self._sources, positions, strict=True):
            source.load(position)
        self._taken = [position["taken"] for position in positions]
        self._groups.clear()
        if group:
            self._look_ahead()
            for _ in range(group):
                self._groups.popleft()

    def _made_for(self) -> dict[str, Any]:
        """What an order of rows depends on."""
        config = self._config
        return {
            "packing": config.packing,
            "context": config.context,
            "seed": config.seed,
            "shares": self._shares,
            "data": [source.data.fingerprint for source in self._sources],
            **({"batch": config.batch} if config.packing == "grouped" else {}),
        }

    def _positions(self) -> list[dict[str, int]]:
        return [{**source.state(), "taken": n} for source, n in zip(self._sources, self._taken, strict=True)]

    @property
    def _group(self) -> int:
        """How many batches have been handed out of those that were sorted together."""
        return _WINDOW - len(self._groups) if self._groups else 0

    @property
    def _handed_out(self) -> int:
        """How many rows have been."""
        return sum(self._taken) - len(self._groups) * self._config.batch

    def _next_rows(self) -> tuple[list[tuple[Tokens, Row]], int]:
        """The rows of a batch, and how wide it is."""
        context = self._config.context
        if self._config.packing != "grouped":
            return self._take(self._config.batch), context
        if not self._groups:
            self._look_ahead()
        rows = self._groups.popleft()
        return rows, min(-(-max(map(_length, rows)) // _WIDTH) * _WIDTH, context)

    def _look_ahead(self) -> None:
        """Takes the rows of the next batches and sorts them by length."""
        config = self._config
        self._before, self._before_epoch = self._positions(), max(source.epoch for source in self._sources)
        key = key_of(config.seed, "groups", sum(self._taken))
        rows = sorted(self._take(_WINDOW * config.batch), key=_length)
        for place in Permutation(_WINDOW, key)(np.arange(_WINDOW)).tolist():
            self._groups.append(rows[place * config.batch : (place + 1) * config.batch])

    def _take(self, count: int) -> list[tuple[Tokens, Row]]:
        if len(self._sources) == 1:
            self._taken[0] += count
            return [(self._sources[0].data, row) for row in self._sources[0].take(count)]
        rows = []
        for number in range(sum(self._taken) + 1, sum(self._taken) + count + 1):
            behind = [share * number - taken for share, taken in zip(self._shares, self._taken, strict=True)]
            chosen = behind.index(max(behind))
            self._taken[chosen] += 1
            rows.append((self._sources[chosen].data, self._sources[chosen].take(1)[0]))
        return rows


def _length(row: tuple[Tokens, Row]) -> int:
    return sum(stop - start for start, stop in row[1])


class PackedLoader(Loader):
    """Batches of documents from token shards, for pretraining."""

    @dataclass(frozen=True)
    class Config(LoaderConfig):
        """The rows' shape and order, and how shards are mixed."""

        weights: tuple[float, ...] = ()
        """Each shards' share of the rows; empty: by size."""

        def build(self, shards: Tokens | Sequence[Tokens]) -> "PackedLoader":
            """The loader over one or more sets of shards (or of anything else that is `packing.Tokens`)."""
            return PackedLoader(self, shards if isinstance(shards, Sequence) else [shards], self.weights)


def validation_batches(
    shards: Tokens, context: int, batch: int, *, packing: str = "stream", limit: int | None = None
) -> Iterator[TokenBatch]:
    """Every token once, in the order of the data; the last batch may have fewer rows.

    Args:
        shards: the documents.
        context: input tokens of a row.
        batch: rows of a batch.
        packing: "stream" uses all of the context wherever documents begin; "best_fit" lets documents begin a row or
            follow one another, as they do in training with it.
        limit: at most this many batches.
    """
    rows = ((shards, row) for row in rows_of(packing, shards, context, None).one_epoch())
    return islice(_batches(rows, context, batch), limit)


def windows(shards: Tokens, count: int, context: int, batch: int) -> Iterator[TokenBatch]:
    """The same `count` windows of the token stream each time, evenly spaced from its beginning to its end.

    Raises:
        DataError: the shards have too few tokens for one window.
    """
    spare = shards.tokens - 1 - context
    if spare < 0:
        raise DataError(f"a window of {context} tokens needs {context + 1}; there are {shards.tokens}")
    starts = np.arange(count) * spare // max(count - 1, 1)
    return _batches(((shards, row) for row in within_documents(shards, starts, starts + context)), context, batch)


def _batches(rows: Iterator[tuple[Tokens, Row]], context: int, batch: int) -> Iterator[TokenBatch]:
    while some := list(islice(rows, batch)):
        yield assemble(some, context)


def assemble(rows: Sequence[tuple[Tokens, Row]], context: int) -> TokenBatch:
    """Rows as tensors of shape `(len(rows), context)`: each span is a document, what they leave is padding."""
    shape = (len(rows), context)
    tokens, targets = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    mask, begins = np.ones(shape, np.bool_), np.zeros(shape, np.bool_)
    filled = np.zeros((len(rows), 1), np.int64)
    for i, (source, row) in enumerate(rows):
        column = 0
        for start, stop in row:
            ids = source.read(start, stop + 1)
            end = column + stop - start
            tokens[i, column:end] = ids[:-1]
            targets[i, column:end] = ids[1:]
            begins[i, column] = True
            if source.counts is not None:
                mask[i, column:end] = source.counts[start + 1 : stop + 1]
            column = end
        filled[i] = column
    index = np.arange(context)
    padding = index >= filled
    mask &= ~padding
    documents = np.where(padding, -1, np.cumsum(begins, axis=1) - 1)
    positions = np.where(padding, 0, index - np.maximum.accumulate(np.where(begins, index, 0), axis=1))
    plain = not documents.any()  # each row is one document without padding
    return TokenBatch(
        tokens=torch.from_numpy(tokens),
        targets=torch.from_numpy(targets),
        mask=torch.from_numpy(mask),
        positions=None if plain else torch.from_numpy(positions),
        documents=None if plain else torch.from_numpy(documents),
    )

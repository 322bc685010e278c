"""Where each token of a forward pass stands, and whom it may see. Made once per forward, shared by all layers.

A row may hold several documents side by side (packing), padding on the left (document -1) and, when a state is used,
keys of earlier calls. Query `i` sees key `j` when `j` came no later, both are of the same document, and, in a layer
with a sliding window, `j` is one of the last `window` keys, `i` itself included:

    visible[i, j] = j <= i  and  document[i] == document[j]  and  i - j < window

In a bidirectional pass (an encoder's) the first condition falls away, and a window reaches as far to both sides.
Masks are made only where one is needed: a whole causal sequence and a single decoding step need none.
"""

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from penjing.nn.rope import Rope


class Sequence:
    """The queries of this pass and the keys that they may see.

    Attributes:
        positions: `(1 or batch, queries)`, counted from each document's start.
        start: how many keys came before the first query (in a state); a query's slot is `start + index`.
        queries, keys: how many of each; `keys = start + queries`.
        documents: `(batch, keys)` or None when each row is one unpadded document.
        bidirectional: whether queries see later keys too.
        wanted: the queries, as places in the flattened batch, whose results are needed after the last block; None for
            all. A block that is told of some may return these alone, `(places, width)`.
    """

    def __init__(
        self,
        positions: Int[Tensor, "rows queries"],
        start: int = 0,
        documents: Int[Tensor, "batch keys"] | None = None,
        *,
        bidirectional: bool = False,
    ):
        self.positions = positions
        self.start = start
        self.queries = positions.shape[1]
        self.keys = start + self.queries
        self.documents = documents
        self.bidirectional = bidirectional
        self.wanted: Int[Tensor, " places"] | None = None
        self._starts: tuple[NDArray[np.int64] | None] | None = None
        self._masks: dict[int | None, Bool[Tensor, "rows 1 queries keys"]] = {}
        self._biases: dict[tuple[int | None, torch.dtype], Float[Tensor, "rows 1 queries keys"]] = {}
        self._rotations: dict[object, tuple[Tensor, Tensor]] = {}

    def ending_in(self, wanted: Int[Tensor, " places"]) -> "Sequence":
        """The same pass for its last block, after which only some results are needed; it shares all masks."""
        last = copy.copy(self)
        last.wanted = wanted
        return last

    def select(self, x: Float[Tensor, "batch queries width"]) -> Float[Tensor, "*places width"]:
        """The rows of `x` that are wanted."""
        return x if self.wanted is None else x.flatten(0, 1).index_select(0, self.wanted)

    def is_causal(self, window: int | None) -> bool:
        """Whether the mask is the plain lower triangle, which kernels know without being given one."""
        return self.start == 0 and self.documents is None and self._limit(window) is None and not self.bidirectional

    def starts(self, batch: int, window: int | None) -> NDArray[np.int64] | None:
        """Where documents begin in the flattened batch, and at last the number of its tokens.

        None where it is not so that each token sees its own document up to itself, and documents lie whole in a row.
        """
        if self.start or self.bidirectional or self._limit(window) is not None:
            return None
        if self.documents is None:
            return np.arange(batch + 1) * self.queries
        if self._starts is None:
            documents = self.documents.numpy()
            begins = np.ones_like(documents, dtype=bool)
            begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
            rows, places = np.nonzero(begins)
            numbers = np.stack([rows, documents[rows, places]])[:, documents[rows, places] >= 0]  # not of padding
            whole = np.unique(numbers, axis=1).shape == numbers.shape
            self._starts = (np.append(rows * self.queries + places, documents.size) if whole else None,)
        return self._starts[0]

    def mask(self, window: int | None = None) -> Bool[Tensor, "rows 1 queries keys"] | None:
        """True where a query sees a key; None when every query sees every key."""
        window = self._limit(window)
        if self.documents is None and (self.queries == 1 or self.bidirectional) and window is None:
            return None
        if window not in self._masks:
            self._masks[window] = self._visible(window)
        return self._masks[window]

    def bias(self, dtype: torch.dtype, window: int | None = None) -> Float[Tensor, "rows 1 queries keys"] | None:
        """The mask as numbers to add to scores: 0 where a key is seen, -infinity elsewhere."""
        mask = self.mask(window)
        if mask is None:
            return None
        key = (self._limit(window), dtype)
        if key not in self._biases:
            zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            self._biases[key] = zeros.masked_fill_(~mask, float("-inf"))
        return self._biases[key]

    def rotation(self, rope: "Rope", dtype: torch.dtype) -> tuple[Float[Tensor, "rows queries dim"], ...]:
        """The cosines and sines of a rope at the queries' positions; layers with equal ropes share them."""
        key = (rope.config, rope.dim, dtype)
        if key not in self._rotations:
            self._rotations[key] = rope(self.positions, dtype)
        return self._rotations[key]

    def _limit(self, window: int | None) -> int | None:
        return None if window is None or window >= self.keys else window

    def _visible(self, window: int | None) -> Bool[Tensor, "rows 1 queries keys"]:
        device = self.positions.device
        query = torch.arange(self.start, self.keys, device=device)[:, None]  # (queries, 1)
        key = torch.arange(self.keys, device=device)[None, :]  # (1, keys)
        visible = (key <= query) | self.bidirectional  # (queries, keys)
        if window is not None:
            visible &= (query - key).abs() < window
        visible = visible[None, None]  # (1, 1, queries, keys)
        if self.documents is not None:
            same = self.documents[:, self.start :, None] == self.documents[:, None, :]  # (batch, queries, keys)
            visible = visible & same[:, None]  # (batch, 1, queries, keys)
        return visible


def positions_in_documents(documents: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Counts each token from the start of its document.

    >>> positions_in_documents(torch.tensor([[-1, 0, 0, 0, 1, 1]]))
    tensor([[0, 0, 1, 2, 0, 1]])
    """
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return index - torch.where(begins, index, 0).cummax(dim=1).values

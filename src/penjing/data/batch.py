"""What every training step eats: tokens, what each should predict, and where each stands in its document.

    tokens     7  4  9  |  5  2  8  8       two documents packed in one row
    positions  0  1  2  |  0  1  2  3       counted from each document's start
    documents  0  0  0  |  1  1  1  1       attention never crosses a border
    targets    4  9  e  |  2  8  8  e       the next token of the same document
    mask       1  1  1  |  0  1  1  1       which predictions count in the loss

The end tokens `e` are predicted, but need not be seen: no document follows another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Rows of packed token documents with their targets.

    Shapes: all `(batch, seq)`. `documents` is None when every row is one unpadded document; else a document's tokens
    share a number within their row, and padding has the number -1. `positions` None counts from each row's start.
    """

    tokens: Int[Tensor, "batch seq"]
    targets: Int[Tensor, "batch seq"]
    mask: Bool[Tensor, "batch seq"]
    positions: Int[Tensor, "batch seq"] | None = None
    documents: Int[Tensor, "batch seq"] | None = None
    origin: str = ""
    """Where the batch came from (shard and offset), for error messages."""

    @cached_property
    def weight(self) -> int:
        """How many predictions count."""
        return len(self.counted)

    @cached_property
    def counted(self) -> Int[Tensor, " counted"]:
        """Which predictions count, as places in the flattened batch."""
        return self.mask.flatten().nonzero().squeeze(1)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "TokenBatch":
        """The same batch with each of its tensors changed in one way, as by taking some of the rows."""
        tensors = (self.tokens, self.targets, self.mask, self.positions, self.documents)
        parts: list[Any] = [None if x is None else change(x) for x in tensors]
        tokens, targets, mask, positions, documents = parts
        return TokenBatch(tokens, targets, mask, positions, documents, self.origin)

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on another device."""
        moved = self.changed(lambda tensor: tensor.to(device, non_blocking=True))
        counted = self.counted.to(device, non_blocking=True)  # found where the mask is: asking a GPU would wait for it
        moved.__dict__["counted"] = counted
        return moved

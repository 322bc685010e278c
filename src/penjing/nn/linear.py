"""Linear maps and embedding tables whose weights are zero until `initialise` or a checkpoint fills them.

PyTorch's own draw from the global random generator when they are built, which costs time and makes what follows depend
on how many layers were built before. Here all randomness comes from the one generator that `LanguageModel.initialise`
is given.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Product(Protocol):
    """Another way of computing a linear map's product, used while it is `active`."""

    active: bool

    def __call__(self, x: Tensor) -> Tensor:
        """`x W^T + b`."""


class Linear(nn.Linear):
    """`y = x W^T + b`, zero until filled. Shapes: weight `(outputs, inputs)`, bias `(outputs,)`."""

    packed: Product | None = None
    """The weight in a layout for decoding steps, which alone switch it on (`inference.packing`)."""

    def forward(self, x: Tensor) -> Tensor:
        """The product, from the packed weight while decoding."""
        packed = self.packed
        if packed is not None and packed.active:
            return packed(x)
        return F.linear(x, self.weight, self.bias)

    def reset_parameters(self) -> None:
        """Zero instead of random."""
        _zero(self.weight)
        if self.bias is not None:
            _zero(self.bias)


class Embedding(nn.Embedding):
    """A row per token or position, zero until filled. Shape: weight `(rows, width)`."""

    def reset_parameters(self) -> None:
        """Zero instead of random."""
        _zero(self.weight)


def fill_normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """Draws `weight` from N(0, std^2) with the generator, the same values on every device and for every dtype."""
    draw = torch.empty(weight.shape, dtype=torch.float32).normal_(0.0, std, generator=generator)
    with torch.no_grad():
        weight.copy_(draw)


def initialise_linear(linear: nn.Linear, std: float, generator: torch.Generator) -> None:
    """Weight from N(0, std^2), bias zero; `std` 0 gives a zero weight and draws nothing."""
    if std:
        fill_normal(linear.weight, std, generator)
    else:
        _zero(linear.weight)
    if linear.bias is not None:
        _zero(linear.bias)


def _zero(weight: Tensor) -> None:
    with torch.no_grad():
        weight.zero_()

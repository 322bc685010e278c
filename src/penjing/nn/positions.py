"""Learned positions: a vector per position, added to the token's embedding.

Source: Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018, section 3.1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penjing.nn.linear import Embedding, fill_normal


class LearnedPositions(nn.Module):
    """A table of position vectors. Shapes: `(rows, seq)` to `(rows, seq, width)`."""

    @dataclass(frozen=True)
    class Config:
        """How many positions there are is the model's context."""

        def build(self, context: int, width: int) -> "LearnedPositions":
            """A table for `context` positions."""
            return LearnedPositions(self, context, width)

    def __init__(self, config: Config, context: int, width: int):
        super().__init__()
        self.config = config
        self.table = Embedding(context, width)

    def forward(self, positions: Int[Tensor, "rows seq"]) -> Float[Tensor, "rows seq width"]:
        """The vectors to add."""
        return self.table(positions)

    def initialise(self, generator: torch.Generator, std: float) -> None:
        """Fills the table from N(0, std^2)."""
        fill_normal(self.table.weight, std, generator)

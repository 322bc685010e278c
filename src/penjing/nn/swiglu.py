"""SwiGLU: a perceptron whose hidden numbers are opened and closed by a gate of their own.

    y = W_down (silu(W_gate x) * W_up x),    silu(g) = g / (1 + exp(-g))

Source: Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202, section 2.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from penjing.nn.linear import Linear, initialise_linear, together


class SwiGLU(nn.Module):
    """A gated perceptron. Shapes: `(..., width)` to the same."""

    @dataclass(frozen=True)
    class Config:
        """How wide the perceptron is."""

        hidden: int
        """Numbers between the maps, usually about 8/3 * width."""
        bias: bool = False
        """Whether the three maps have a bias."""

        def build(self, width: int) -> "SwiGLU":
            """The layer for vectors of `width` numbers."""
            return SwiGLU(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.gate = Linear(width, config.hidden, bias=config.bias)
        self.up = Linear(width, config.hidden, bias=config.bias)
        self.down = Linear(config.hidden, width, bias=config.bias)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Gate, multiply, down."""
        gate, up = together(x, self.gate, self.up)
        return self.down(F.silu(gate) * up)

    def initialise(self, generator: torch.Generator, std: float, output_std: float) -> None:
        """Maps from N(0, std^2), the one that writes to the residual stream from N(0, output_std^2)."""
        initialise_linear(self.gate, std, generator)
        initialise_linear(self.up, std, generator)
        initialise_linear(self.down, output_std, generator)

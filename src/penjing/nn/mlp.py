"""The two-layer perceptron of a transformer block.

    y = W_down activation(W_up x)

Activations: GELU, exact `x Phi(x)` or by tanh, ReLU, its square, and SiLU.

Sources: Vaswani et al., 2017, arXiv:1706.03762, section 3.3; Hendrycks, Gimpel, "Gaussian Error Linear Units", 2016,
arXiv:1606.08415; So et al., "Primer", 2021, arXiv:2109.08668 (squared ReLU).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from penjing.errors import ConfigError, nearest
from penjing.nn.linear import Linear, initialise_linear


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2."""
    return F.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, GPT-2's."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "relu_squared": relu_squared,
    "silu": F.silu,
}


class MLP(nn.Module):
    """Two linear maps with an activation between. Shapes: `(..., width)` to the same."""

    shares: ClassVar[dict[str, int]] = {"up": 0, "down": 1}  # as `Attention.shares`

    @dataclass(frozen=True)
    class Config:
        """How wide the perceptron is and what bends it."""

        hidden: int
        """Numbers between the two maps, usually 4 * width."""
        activation: str = "gelu"
        """A name of `ACTIVATIONS`."""
        bias: bool = True
        """Whether both maps have a bias."""

        def build(self, width: int) -> "MLP":
            """The layer for vectors of `width` numbers."""
            return MLP(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        if config.activation not in ACTIVATIONS:
            raise ConfigError(f"there is no activation '{config.activation}'" + nearest(config.activation, ACTIVATIONS))
        self.config = config
        self.activation = ACTIVATIONS[config.activation]
        self.up = Linear(width, config.hidden, bias=config.bias)
        self.down = Linear(config.hidden, width, bias=config.bias)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Up, bend, down."""
        return self.down(self.activation(self.up(x)))

    def initialise(self, generator: torch.Generator, std: float, output_std: float) -> None:
        """Maps from N(0, std^2), the one that writes to the residual stream from N(0, output_std^2)."""
        initialise_linear(self.up, std, generator)
        initialise_linear(self.down, output_std, generator)

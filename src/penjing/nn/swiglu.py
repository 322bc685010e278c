"""SwiGLU: a perceptron whose hidden numbers are opened and closed by a gate of their own.

    y = W_down (silu(W_gate x) * W_up x),    silu(g) = g / (1 + exp(-g))

Source: Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202, section 2.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from penjing.nn import passes
from penjing.nn.linear import Linear, can_join, initialise_linear, joined, together


class SwiGLU(nn.Module):
    """A gated perceptron. Shapes: `(..., width)` to the same."""

    joint = ("gate", "up")  # maps with the same input
    shares: ClassVar[dict[str, int]] = {"gate": 0, "up": 0, "down": 1}  # as `Attention.shares`

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
        if can_join(x, self.gate, self.up):
            return self.down(_Gated.apply(joined(x, self.gate, self.up)))
        gate, up = together(x, self.gate, self.up)
        return self.down(F.silu(gate) * up)

    def initialise(self, generator: torch.Generator, std: float, output_std: float) -> None:
        """Maps from N(0, std^2), the one that writes to the residual stream from N(0, output_std^2)."""
        initialise_linear(self.gate, std, generator)
        initialise_linear(self.up, std, generator)
        initialise_linear(self.down, output_std, generator)


class _Gated(torch.autograd.Function):
    """silu of the first half times the second, its gradient written into one piece, as `joined` wants it."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        if passes.serves(both):
            ctx.save_for_backward(both, None)
            return passes.gate(both)
        gate, up = both.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(both, opened)
        return opened * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        both, opened = ctx.saved_tensors
        if opened is None:
            return passes.gate_gradient(both, grad.contiguous())
        gate, up = both.chunk(2, dim=-1)
        both_grad = torch.empty_like(both)
        gate_grad, up_grad = both_grad.chunk(2, dim=-1)
        torch.mul(grad, opened, out=up_grad)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=gate_grad)
        return both_grad

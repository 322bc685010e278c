"""Linear maps and embedding tables whose weights are zero until `initialise` or a checkpoint fills them.

PyTorch's own draw from the global random generator when they are built, which costs time and makes what follows depend
on how many layers were built before. Here all randomness comes from the one generator that `LanguageModel.initialise`
is given.
"""

from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Product(Protocol):
    """Another way of computing the product of a linear map, or of several with the same input, while it is `active`."""

    active: bool
    sizes: tuple[int, ...]
    """The outputs of the maps."""

    def __call__(self, x: Tensor) -> Tensor:
        """`x W^T + b`, of several maps side by side."""


class Linear(nn.Linear):
    """`y = x W^T + b`, zero until filled. Shapes: weight `(outputs, inputs)`, bias `(outputs,)`."""

    direct: Product | None = None
    """A product for very few vectors, which decoding steps alone switch on (`inference.direct`)."""
    packed: Product | None = None
    """The weight in a layout for a batch's decoding steps, which alone switch it on (`inference.packing`)."""

    def reset_parameters(self) -> None:
        """Zero instead of random."""
        _zero(self.weight)
        if self.bias is not None:
            _zero(self.bias)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The mapped vectors, while decoding by a product made for that."""
        for product_ in (self.direct, self.packed):
            if product_ is not None and product_.active and len(product_.sizes) == 1:
                return product_(x)
        if torch.is_grad_enabled() and onednn_is_faster(x, self.weight):
            return _Product.apply(x, self.weight, self.bias)
        return product(x, self.weight, self.bias)


def together(x: Float[Tensor, "*batch inputs"], *maps: Linear) -> tuple[Float[Tensor, "*batch outputs"], ...]:
    """What several maps make of the same vectors: in training and in decoding one product, where that is faster.

    In float32 on a CPU it is not: cutting the result apart takes longer than a larger product saves.
    """
    for product_ in (maps[0].direct, maps[0].packed):
        if product_ is not None and product_.active and len(product_.sizes) == len(maps):
            return product_(x).split(product_.sizes, dim=-1)
    if can_join(x, *maps) and not (x.dtype == torch.float32 and x.device.type == "cpu"):
        return joined(x, *maps).split([map_.weight.shape[0] for map_ in maps], dim=-1)
    return tuple(map_(x) for map_ in maps)


def can_join(x: Tensor, *maps: Linear) -> bool:
    """Whether `joined` gives what the maps would, and is of use: in training, of plain maps, uncompiled."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
        return False
    return all(type(map_) is Linear for map_ in maps) and len({map_.bias is None for map_ in maps}) == 1


def joined(x: Float[Tensor, "*batch inputs"], *maps: Linear) -> Float[Tensor, "*batch outputs"]:
    """What several maps make of the same vectors, side by side: one product of their weights below each other."""
    biases = tuple(map_.bias for map_ in maps if map_.bias is not None)
    weight = torch.cat(tuple(map_.weight for map_ in maps))  # (all outputs, inputs)
    return _Product.apply(x, weight, torch.cat(biases) if biases else None)


def product(
    x: Float[Tensor, "*batch inputs"], weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None
) -> Float[Tensor, "*batch outputs"]:
    """`x W^T + b` by the faster of PyTorch's two matrix libraries. With oneDNN it has no gradient of its own."""
    if onednn_is_faster(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def onednn_is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is one that oneDNN computes faster than MKL, which PyTorch takes for float32 on a CPU.

    It is where there are many rows: 1.1 to 1.4 times as fast on Zen 4 for 64 to 4,096 rows, slower for one.
    """
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() >= 64 * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class _Product(torch.autograd.Function):
    """`product` with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        x_grad = product(grad, weight.t(), None) if wants_x else None
        weight_grad = rows.t() @ x.flatten(0, -2) if wants_weight else None
        return x_grad, weight_grad, rows.sum(dim=0) if wants_bias else None


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

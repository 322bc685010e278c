"""Kernels for training on a CPU that go over memory once, where PyTorch's operators take three to six passes.

    gate      y = silu(g) u                    g and u side by side, as one product gives them
    rotate    [a, b] cos + [b, a] sin          rotary positions, and back
    norm      y = weight x / rms(x)
    loss      logsumexp(logits) - logit of the target, and softmax(logits) - onehot(target) in the logits' place

Matrix products aside, a step's time on a CPU is the time to read and write activations, 2 to 11 MB each in the smallest
models worth training. Compiled by numba, these take a half to a quarter of the time of the same in PyTorch's operators
(float32, two Zen 3 cores). They are for many numbers: `serves` says when. What they compute is that of the operators in
`swiglu`, `rope`, `norms` and `cross_entropy`, against which they are tested; whatever lies between is float32.

Rows are divided into `jobs`, one for each of PyTorch's threads. No result depends on their number.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16)
"""The dtypes that these kernels read and write."""

MANY = 2**17
"""Numbers from which a kernel is worth its call, and compiling it once on a machine its seconds."""

_PARTS = 16  # sums over rows are added up in so many parts, whatever the number of threads


def serves(x: Tensor, *others: Tensor) -> bool:
    """Whether these kernels take an activation, and the other tensors that go with it."""
    if x.device.type != "cpu" or x.dtype not in DTYPES or x.numel() < MANY or torch.compiler.is_compiling():
        return False
    return all(
        type(tensor) in (Tensor, nn.Parameter) and tensor.dtype == x.dtype and tensor.is_contiguous()
        for tensor in (x, *others)
    )


def gate(both: Tensor) -> Tensor:
    """silu(g) u, where `both` holds g and then u in its last dimension."""
    from penjing.nn import pass_kernels as kernels

    out = both.new_empty(*both.shape[:-1], both.shape[-1] // 2)
    kernels.gate(_rows(both), _rows(out), torch.get_num_threads())
    return out


def gate_gradient(both: Tensor, grad: Tensor) -> Tensor:
    """The gradient of `both`, from that of what `gate` made of it."""
    from penjing.nn import pass_kernels as kernels

    out = torch.empty_like(both)
    kernels.gate_gradient(_rows(both), _rows(grad), _rows(out), torch.get_num_threads())
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """Heads `(batch, seq, heads, dim)` turned by angles `(rows, seq, 1, dim)`, rows 1 or batch; -1 turns them back."""
    from penjing.nn import pass_kernels as kernels

    out = torch.empty_like(x)
    turned, told = (_array(heads.detach().view(-1, *x.shape[2:])) for heads in (x, out))
    kernels.rotate(turned, _rows(cos), _rows(sin), told, np.float32(direction), torch.get_num_threads())
    return out


def norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm, and `1 / rms` of each vector `(..., 1)`, float32."""
    from penjing.nn import pass_kernels as kernels

    out, inverse = torch.empty_like(x), torch.empty(*x.shape[:-1], 1)
    scale = _array(weight.detach())
    kernels.norm(_rows(x), scale, np.float32(eps), _rows(out), _flat(inverse), torch.get_num_threads())
    return out, inverse


def norm_gradient(x: Tensor, weight: Tensor, inverse: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `x` and, float32, of `weight`, from that of what `norm` made of them."""
    from penjing.nn import pass_kernels as kernels

    out, parts = torch.empty_like(x), torch.zeros(_PARTS, x.shape[-1])
    arrays = _rows(x), _array(weight.detach()), _flat(inverse), _rows(grad), _rows(out), parts.numpy()
    kernels.norm_gradient(*arrays, torch.get_num_threads())
    return out, parts.sum(dim=0)


def softmax_loss(logits: Tensor, targets: Tensor, wants_gradient: bool) -> Tensor:
    """Cross-entropy of each row of float32 logits `(rows, vocab)` with its target, `(rows,)`.

    With `wants_gradient` the logits are overwritten by its gradient.
    """
    from penjing.nn import pass_kernels as kernels

    losses = logits.new_empty(len(logits))
    kernels.softmax_loss(_array(logits), _array(targets), _array(losses), wants_gradient, torch.get_num_threads())
    return losses


def _array(x: Tensor) -> NDArray[Any]:
    from penjing.nn.few import array

    return array(x)


def _rows(x: Tensor) -> NDArray[Any]:
    return _array(x.detach().view(-1, x.shape[-1]))


def _flat(x: Tensor) -> NDArray[Any]:
    return _array(x.view(-1))

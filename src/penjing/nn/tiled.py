"""Attention in tiles, for training on a CPU: sixteen queries at a time, scores never in memory, forward or backward.

    for each document, head, and block of 16 queries:
        S = K Q^T      P = exp(S - max) / sum      O = P^T V           and keep  log sum exp  of each query
    backward, with P made again from what was kept, D = sum(dO * O):
        dS = P * (V dO^T - D)      dQ = dS^T K      dK += dS Q      dV += P dO

This is what flash attention does for a GPU (Dao et al., "FlashAttention", 2022, arXiv:2205.14135, algorithms 1 and 4;
Dao, "FlashAttention-2", 2023, arXiv:2307.08691, section 3.1): the matrices of scores, the largest thing in a step, stay
in the fastest memory. Departures: a block of queries meets all its keys at once, since the scores of 16 queries with a
few thousand keys fit a core's cache, so the softmax needs no running correction; and it is the *documents* of a packed
row that are gone through, not the row, so the work is the sum of their squares, not the row's square.

Beside PyTorch's fused kernel, forward and backward, float32, two Zen 3 cores: 2.3 times as fast on rows of 192 tokens
that hold documents of 48, 1.7 times on whole rows of 256. The kernels are in `tile_kernels`; `kernels.reference` is
what they are tested against.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from penjing.nn import passes
from penjing.nn.sequence import Sequence

TILE = 16
"""Queries at a time, and what the numbers of a head must be a multiple of."""

LONGEST = 4096
"""Tokens of a document; beyond, scores no longer stay in a core's cache."""

Heads = Float[Tensor, "batch heads seq head_dim"]


def starts_for(
    query: Heads, key: Heads, value: Heads, sequence: Sequence, window: int | None
) -> NDArray[np.int64] | None:
    """The documents that these kernels are to go through; None where they do not compute this attention.

    They compute causal attention within whole documents, in float32 on a CPU, of so many numbers that it pays.
    """
    rows = [heads.transpose(1, 2) for heads in (query, key)]
    if query.dtype != torch.float32 or query.shape[-1] % TILE or not passes.serves(*rows):
        return None
    if type(sequence) is not Sequence or type(value) is not Tensor or value.dtype != query.dtype:
        return None
    starts = sequence.starts(len(query), window)
    return None if starts is None or np.diff(starts).max() > LONGEST else starts


def attend(query: Heads, key: Heads, value: Heads, starts: NDArray[np.int64], scale: float) -> Heads:
    """softmax(scale * q k^T) v over each token's own document up to itself."""
    told = (heads.transpose(1, 2).contiguous() for heads in (query, key, value))  # (batch, seq, heads, head_dim)
    mixed: Tensor = _Tiled.apply(*told, starts, scale)
    return mixed.transpose(1, 2)


class _Tiled(torch.autograd.Function):
    """Shapes: `(batch, seq, heads, head_dim)`, contiguous."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, starts: NDArray[np.int64], scale: float) -> Tensor:
        from penjing.nn import tile_kernels as kernels

        out, log_sums = torch.empty_like(query), query.new_empty(query.shape[:3])
        kernels.forward(
            *(_tokens(query), _tokens(key), _tokens(value)),
            *(starts, np.diff(starts).max(), np.float32(scale)),
            *(_tokens(out), log_sums.flatten(0, 1).numpy(), torch.get_num_threads()),
        )
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.starts, ctx.scale = starts, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from penjing.nn import tile_kernels as kernels

        query, key, value, out, log_sums = ctx.saved_tensors
        grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        kernels.backward(
            *(_tokens(query), _tokens(key), _tokens(value)),
            *(ctx.starts, np.diff(ctx.starts).max(), np.float32(ctx.scale)),
            *(_tokens(out), log_sums.flatten(0, 1).numpy(), _tokens(grad.contiguous())),
            *(_tokens(grads[0]), _tokens(grads[1]), _tokens(grads[2]), torch.get_num_threads()),
        )
        return *grads, None, None


def _tokens(x: Float[Tensor, "batch seq heads head_dim"]) -> NDArray[Any]:
    return x.detach().flatten(0, 1).numpy()

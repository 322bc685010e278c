"""The ways in which attention is computed; all give the same numbers up to rounding.

    reference   einsum and softmax, a line per step: what the others are tested against
    fused       PyTorch's fused kernels (flash attention): the scores are never held in memory
    blocked     batched matrix products over the lower triangle alone, a block of queries at a time
    products    batched matrix products over all scores, keys first: for few queries that look back into a cache

Which is taken is a matter of measurement. On a GPU it is the fused kernels; on a CPU in float32 too, where the tiles of
`nn.tiled`, for training, do not serve. On a CPU in bfloat16, where the fused kernels compute in float32 inside, the
blocked products train 1.7 to 2.7 times as fast (forward and backward, 64 to 1,024 tokens), and one decoding step of 16
rows over 400 keys takes 1.0 ms by products, 3.7 ms fused (Zen 4, one thread).
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from penjing.nn.dropout import dropout as drop

BLOCK = 64  # queries at a time; measured best for 256 to 1,024 tokens on Zen 4

Query = Float[Tensor, "batch heads queries head_dim"]
Keys = Float[Tensor, "batch kv_heads keys head_dim"]


def reference(
    query: Query,
    key: Keys,
    value: Keys,
    visible: Bool[Tensor, "rows 1 queries keys"] | None,
    scale: float,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Query:
    """softmax(scale * q k^T) v over the visible keys; query heads share key heads in consecutive groups."""
    weights = drop(attention_weights(query, key, visible, scale, softcap), dropout)
    value = value.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # (batch, heads, keys, dim)
    return torch.einsum("bhqk,bhkd->bhqd", weights, value)


def attention_weights(
    query: Query,
    key: Keys,
    visible: Bool[Tensor, "rows 1 queries keys"] | None,
    scale: float,
    softcap: float | None = None,
) -> Float[Tensor, "batch heads queries keys"]:
    """softmax(scale * q k^T) over the visible keys: how much each query takes from each key."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # (batch, heads, keys, dim)
    scores = scale * torch.einsum("bhqd,bhkd->bhqk", query, key)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if visible is not None:
        scores = scores.masked_fill(~visible, -math.inf)
    return scores.softmax(dim=-1)


def fused(
    query: Query,
    key: Keys,
    value: Keys,
    visible: Bool[Tensor, "rows 1 queries keys"] | None,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
) -> Query:
    """PyTorch's fused attention.

    `causal` stands for the lower triangle, and only where the first query is the first key: with fewer queries than
    keys, PyTorch would align the triangle to the first key, not to the last.
    """
    mask = None if causal else visible
    group = query.shape[1] // key.shape[1]
    if group > 1 and mask is not None and query.is_cuda:  # CUDA's kernels that take a mask do not share heads
        key, value, group = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1), 1
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scale, dropout_p=dropout, enable_gqa=group > 1
    )


def products(
    query: Query,
    key: Keys,
    value: Keys,
    bias: Float[Tensor, "rows 1 queries keys"] | None,
    scale: float,
    dropout: float = 0.0,
) -> Query:
    """Two batched products for each group of heads. `bias` is 0 where a key is seen and -infinity elsewhere."""
    queries = query.shape[2]
    rows = _rows(query.unflatten(1, (key.shape[1], -1)) * scale)  # (batch, kv_heads, group * queries, head_dim)
    scores = (key @ rows.transpose(-1, -2)).transpose(-1, -2)  # (batch, kv_heads, group * queries, keys)
    if bias is not None:
        scores = (scores.unflatten(2, (-1, queries)) + bias[:, :, None]).flatten(2, 3)
    weights = drop(scores.softmax(dim=-1), dropout)
    return _heads(weights @ value, queries)


def blocked(
    query: Query,
    key: Keys,
    value: Keys,
    bias: Float[Tensor, "rows 1 queries keys"],
    scale: float,
    block: int = BLOCK,
) -> Query:
    """Causal attention of a whole sequence, a block of queries at a time, each against the keys up to its own end.

    `bias` is 0 where a key is seen and -infinity elsewhere; what it says of later keys is never read.
    """
    return _Blocked.apply(query, key, value, bias, scale, block, torch.is_grad_enabled())


class _Blocked(torch.autograd.Function):
    """With n blocks, (n + 1) / 2n of the work of a full matrix of scores."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float, block: int, keep: bool
    ) -> Tensor:
        batch, heads, seq, head_dim = query.shape
        kv_heads = key.shape[1]
        grouped = query.unflatten(1, (kv_heads, -1))  # (batch, kv_heads, group, seq, head_dim)
        mixed = query.new_empty(batch, seq, heads, head_dim)
        kept = []
        for start in range(0, seq, block):
            end = min(start + block, seq)
            rows = _rows(grouped[..., start:end, :] * scale)  # (batch, kv_heads, group * block, head_dim)
            scores = rows @ key[:, :, :end].transpose(-1, -2)  # (batch, kv_heads, group * block, end)
            scores.unflatten(2, (-1, end - start)).add_(bias[:, :, None, start:end, :end])
            weights = scores.softmax(dim=-1)
            mixed[:, start:end] = _heads(weights @ value[:, :, :end], end - start).transpose(1, 2)
            if keep:
                kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scale, ctx.block = scale, block
        return mixed.transpose(1, 2)  # (batch, heads, seq, head_dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        batch, heads, seq, head_dim = query.shape
        kv_heads = key.shape[1]
        grouped, grad = (x.unflatten(1, (kv_heads, -1)) for x in (query, grad))
        query_grad = query.new_empty(batch, seq, heads, head_dim).transpose(1, 2)
        exact = torch.promote_types(key.dtype, torch.float32)
        key_grad, value_grad = torch.zeros(2, batch, kv_heads, seq, head_dim, dtype=exact, device=key.device)
        for index, weights in enumerate(kept):
            start = index * ctx.block
            end = min(start + ctx.block, seq)
            rows, row_grads = _rows(grouped[..., start:end, :] * ctx.scale), _rows(grad[..., start:end, :])
            weight_grads = row_grads @ value[:, :, :end].transpose(-1, -2)
            score_grads = torch._softmax_backward_data(weight_grads, weights, -1, weights.dtype)
            query_grad[:, :, start:end] = _heads(score_grads @ key[:, :, :end], end - start).mul_(ctx.scale)
            key_grad[:, :, :end] += score_grads.transpose(-1, -2) @ rows
            value_grad[:, :, :end] += weights.transpose(-1, -2) @ row_grads
        return query_grad, key_grad.to(key.dtype), value_grad.to(value.dtype), None, None, None, None


def _rows(x: Float[Tensor, "batch kv_heads group block head_dim"]) -> Float[Tensor, "batch kv_heads rows head_dim"]:
    """The queries of a group of heads below each other, so that one product serves them all."""
    return x.flatten(2, 3)


def _heads(x: Float[Tensor, "batch kv_heads rows head_dim"], block: int) -> Float[Tensor, "batch heads block head_dim"]:
    return x.unflatten(2, (-1, block)).flatten(1, 2)

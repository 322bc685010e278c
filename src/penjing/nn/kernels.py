"""The three ways in which attention is computed; all give the same numbers up to rounding.

reference   einsum and softmax, one line per step: what the other two are tested against
plain       the same as two batched matrix products, grouped heads without copies; fastest for short sequences on a CPU
fused       PyTorch's fused kernels (flash attention): the scores are never held in memory
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

Query = Float[Tensor, "batch heads queries head_dim"]
Keys = Float[Tensor, "batch kv_heads keys head_dim"]


def reference(
    query: Query,
    key: Keys,
    value: Keys,
    visible: Bool[Tensor, "rows 1 queries keys"],
    scale: float,
    softcap: float | None = None,
) -> Query:
    """softmax(scale * q k^T) v over the visible keys; query heads share key heads in consecutive groups."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)  # (batch, heads, keys, dim)
    scores = scale * torch.einsum("bhqd,bhkd->bhqk", query, key)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~visible, -math.inf).softmax(dim=-1)
    return torch.einsum("bhqk,bhkd->bhqd", weights, value)


def plain(
    query: Query,
    key: Keys,
    value: Keys,
    bias: Float[Tensor, "rows 1 queries keys"] | None,
    scale: float,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Query:
    """Two batched matrix products. `bias` is 0 where a key is seen and -infinity elsewhere."""
    batch, heads, queries, head_dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch, kv_heads, -1, head_dim)  # (batch, kv_heads, group * queries, head_dim)
    scores = grouped @ key.transpose(-1, -2)  # (batch, kv_heads, group * queries, keys)
    scores = scores.view(batch, heads, queries, -1) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    mixed = weights.view(batch, kv_heads, -1, weights.shape[-1]) @ value  # (batch, kv_heads, group * queries, head_dim)
    return mixed.view(batch, heads, queries, head_dim)


def fused(
    query: Query,
    key: Keys,
    value: Keys,
    visible: Bool[Tensor, "rows 1 queries keys"] | None,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
) -> Query:
    """PyTorch's fused attention. `causal` asks that the first query is the first key: its triangle is the upper
    left.
    """
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if causal else visible,
        is_causal=causal,
        scale=scale,
        dropout_p=dropout,
        enable_gqa=query.shape[1] != key.shape[1],
    )

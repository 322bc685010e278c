"""Answers to chapter 5: ours."""

import torch

from penjing.nn.kernels import reference


def grouped_attention(query, key, value):
    queries, keys = query.shape[1], key.shape[1]
    visible = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    return reference(query[None], key[None], value[None], visible[None, None], query.shape[-1] ** -0.5)[0]


def tokens_that_fit(memory, layers, kv_heads, head_dim, bytes_per_number):
    return memory // (2 * layers * kv_heads * head_dim * bytes_per_number)

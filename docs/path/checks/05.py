"""Checks chapter 5: python docs/path/checks/05.py my_answer.py."""

import sys

import torch
from checking import Checks, differ

from penjing.nn import kernels
from penjing.nn.attention import Attention
from penjing.nn.rope import Rope

checks = Checks()


@checks.exercise("grouped_attention")
def _(grouped_attention):
    generator = torch.Generator().manual_seed(1)
    for heads, kv_heads, queries, keys, dim in (
        (1, 1, 3, 3, 4),
        (4, 4, 1, 6, 8),
        (6, 2, 5, 5, 8),
        (8, 1, 3, 7, 2),
        (8, 4, 2, 9, 4),
    ):
        query = torch.randn(heads, queries, dim, generator=generator)
        key, value = torch.randn(2, kv_heads, keys, dim, generator=generator)
        start = keys - queries  # the queries are the last of the keys
        visible = torch.arange(keys)[None, :] <= start + torch.arange(queries)[:, None]  # (queries, keys)
        expected = kernels.reference(query[None], key[None], value[None], visible[None, None], dim**-0.5)[0]
        call = f"grouped_attention(query {heads, queries, dim}, key {kv_heads, keys, dim}, value)"
        wrong = differ(call, grouped_attention(query, key, value), expected)
        if wrong:
            return wrong
    return None


@checks.exercise("tokens_that_fit")
def _(tokens_that_fit):
    for memory, layers, kv_heads, head_dim, size in (
        (10_000, 2, 1, 8, 4),
        (99_999, 3, 4, 16, 2),
        (16 << 30, 32, 8, 128, 2),
    ):
        layer = Attention.Config(heads=kv_heads, head_dim=head_dim, rope=Rope.Config()).build(head_dim)
        dtype = {2: torch.bfloat16, 4: torch.float32}[size]
        cache = layer.new_state(1, 10, dtype=dtype, device=torch.device("cpu"))
        expected = memory // (layers * (cache.keys.nbytes + cache.values.nbytes) // 10)
        call = f"tokens_that_fit({memory}, {layers}, {kv_heads}, {head_dim}, {size})"
        wrong = differ(call, tokens_that_fit(memory, layers, kv_heads, head_dim, size), expected)
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

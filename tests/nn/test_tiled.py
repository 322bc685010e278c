"""Attention in tiles beside the reference, document by document, forward and backward."""

import numpy as np
import pytest
import torch

from penjing.nn import kernels, passes, tiled
from penjing.nn.attention import Attention
from penjing.nn.sequence import Sequence, positions_in_documents

# sums of up to 70 products in another order, e^x to two units in the last place
TOLERANCE = {"rtol": 1e-5, "atol": 5e-6}


@pytest.fixture(autouse=True)
def _all_sizes(monkeypatch):
    monkeypatch.setattr(passes, "MANY", 1)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def documents_of(*rows):
    """`(batch, seq)`: of rows given as documents' lengths."""
    return torch.stack([torch.cat([torch.full((n,), index) for index, n in enumerate(row)]) for row in rows])


def sequence_of(documents, batch, seq):
    if documents is None:
        return Sequence(torch.arange(seq)[None])
    return Sequence(positions_in_documents(documents), 0, documents)


CASES = {
    "whole rows": (None, 2, 33, 4, 4, 16),
    "one token": (None, 3, 1, 2, 2, 16),
    "a tile to the last": (None, 1, 32, 2, 1, 32),
    "grouped heads": (documents_of([5, 1, 17, 16], [39]), 2, 39, 6, 2, 48),
    "documents of all lengths": (documents_of([1, 2, 3, 64], [16, 15, 17, 22], [70]), 3, 70, 3, 3, 32),
    "padding on both sides": (torch.tensor([[-1] * 3 + [4] * 20 + [2] * 16 + [-1] * 2]), 1, 41, 2, 2, 16),
    "one key head": (documents_of([31, 9], [8, 32]), 2, 40, 5, 1, 64),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_equals_the_reference(case):
    documents, batch, seq, heads, kv_heads, dim = case
    sequence = sequence_of(documents, batch, seq)
    inputs = [numbers(batch, h, seq, dim, seed=n) for n, h in enumerate((heads, kv_heads, kv_heads))]
    grad = numbers(batch, heads, seq, dim, seed=9)
    if documents is not None:
        grad *= (documents >= 0)[:, None, :, None]
    layer = Attention.Config(heads, kv_heads, dim).build(heads * dim)

    exact = [x.double().requires_grad_() for x in inputs]
    y = kernels.reference(*exact, sequence.mask(), layer.scale)
    wanted = y.detach(), *torch.autograd.grad(y, exact, grad.double())
    ours = [x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs]
    assert tiled.starts_for(*ours, sequence, None) is not None
    y = layer.attend(*ours, sequence)
    for got, right in zip((y.detach(), *torch.autograd.grad(y, ours, grad)), wanted, strict=True):
        if documents is not None:  # what padding sees is nobody's affair
            got, right = got[:, :, (documents >= 0)[0]], right[:, :, (documents >= 0)[0]]
        torch.testing.assert_close(got.double(), right, **TOLERANCE)


def test_a_document_is_computed_alike_wherever_it_stands():
    """To the last bit: what stands beside it is not even read; nor does it matter how many threads share the work."""
    alone, beside = (numbers(1, 40, 2, 16, seed=n).transpose(1, 2) for n in (0, 1))
    starts = np.array([0, 40])
    right = tiled.attend(alone, alone, alone, starts, 0.3)
    both = torch.cat([beside[:, :, :7], alone, beside], dim=2)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            packed = tiled.attend(both, both, both, np.array([0, 7, 47, 87]), 0.3)
        finally:
            torch.set_num_threads(1)
        assert packed[:, :, 7:47].equal(right)


def test_scores_far_apart_do_not_overflow_and_what_is_no_number_stays_none():
    query, key, value = (numbers(1, 20, 1, 16, seed=n).transpose(1, 2) for n in range(3))
    sequence = sequence_of(None, 1, 20)
    layer = Attention.Config(1).build(16)
    far = layer.attend(300 * query, 300 * key, value, sequence)
    exact = kernels.reference(300 * query.double(), 300 * key.double(), value.double(), sequence.mask(), layer.scale)
    # a score of some 1e5 is known to 1e-2, and so are the weights
    torch.testing.assert_close(far.double(), exact, rtol=0.05, atol=0.05)
    for spoilt in (query, key, value):  # one number of token 5
        at = torch.zeros_like(spoilt)
        at[0, 0, 5, 3] = float("nan")
        parts = [x + at if x is spoilt else x for x in (query, key, value)]
        y = layer.attend(*(x.transpose(1, 2).contiguous().transpose(1, 2) for x in parts), sequence)
        assert y[0, 0, 5, 3].isnan()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"window": 5}, "a window"),
        ({"dim": 24}, "heads that no tile fits"),
        ({"dtype": torch.float64}, "another precision"),
        ({"documents": torch.tensor([[0] * 10 + [1] * 20 + [0] * 10])}, "a document in two pieces"),
        ({"start": 3}, "keys of earlier calls"),
        ({"bidirectional": True}, "an encoder"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_other_attention_is_left_to_other_kernels(change, why):
    heads = numbers(1, 40, 2, change.get("dim", 16)).to(change.get("dtype", torch.float32)).transpose(1, 2)
    documents, start = change.get("documents"), change.get("start", 0)
    sequence = Sequence(torch.arange(40)[None], start, documents, bidirectional=change.get("bidirectional", False))
    assert tiled.starts_for(heads, heads, heads, sequence, change.get("window")) is None, why
    plain = Sequence(torch.arange(40)[None])
    usual = numbers(1, 40, 2, 16).transpose(1, 2)
    assert tiled.starts_for(usual, usual, usual, plain, 40) is not None

"""Chunked cross-entropy against PyTorch's."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import penjing.nn.cross_entropy as module
from penjing.nn.cross_entropy import cross_entropy
from penjing.nn.head import Head


def setup(bias: bool, softcap: float | None, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, Head]:
    head = Head(12, 31, bias=bias, softcap=softcap).to(dtype)
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    return torch.randn(3, 10, 12, dtype=dtype, requires_grad=True), head


CASES = list(itertools.product([False, True], [None, 2.5], [1, 7, 30, 100, None]))


@pytest.mark.parametrize(("bias", "softcap", "chunk"), CASES)
def test_sum_and_gradients_equal_pytorch(bias, softcap, chunk):
    """Against F.cross_entropy(reduction="sum") of the head's logits: 1e-5 relative, gradients 1e-5 of their largest."""
    hidden, head = setup(bias, softcap)
    targets, mask = torch.randint(31, (3, 10)), torch.rand(3, 10) < 0.6
    inputs = [hidden, *head.parameters()]
    expected = F.cross_entropy(head(hidden)[mask], targets[mask], reduction="sum")
    wanted = torch.autograd.grad(expected * 0.3, inputs)
    found = cross_entropy(hidden, head, targets, mask, chunk)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    for mine, theirs in zip(torch.autograd.grad(found * 0.3, inputs), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize(("bias", "softcap"), [(False, None), (True, 2.5)])
def test_has_the_gradient_of_its_output(bias, softcap):
    """gradcheck in float64: finite differences along random directions of hidden vectors, weight and bias."""
    hidden, head = setup(bias, softcap, torch.float64)
    targets, mask = torch.randint(31, (3, 10)), torch.rand(3, 10) < 0.5

    def loss(hidden, weight, bias=None):
        return cross_entropy(
            hidden, SimpleNamespace(weight=weight, bias=bias, softcap=softcap, share=None), targets, mask, chunk=4
        )

    assert torch.autograd.gradcheck(loss, (hidden, *head.parameters()), fast_mode=True)


def test_without_a_mask_everything_counts():
    hidden, head = setup(False, None)
    targets = torch.randint(31, (3, 10))
    everything = torch.ones(3, 10, dtype=torch.bool)
    assert torch.equal(cross_entropy(hidden, head, targets), cross_entropy(hidden, head, targets, everything))


def test_what_is_not_counted_may_be_anything():
    """Targets of -100 outside the mask; nothing counted gives a zero with zero gradients."""
    hidden, head = setup(False, None)
    targets, mask = torch.full((3, 10), -100), torch.zeros(3, 10, dtype=torch.bool)
    loss = cross_entropy(hidden, head, targets, mask)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().max() == 0
    assert head.weight.grad.abs().max() == 0


def test_extreme_logits_neither_overflow_nor_vanish():
    """Logits of +-1e4: the loss of a wrong certainty is the distance, that of a right one is 0."""
    head = Head(1, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1e4], [-1e4]]))
    hidden = torch.ones(1, 1)
    assert cross_entropy(hidden, head, torch.tensor([1])).item() == pytest.approx(2e4)
    assert cross_entropy(hidden, head, torch.tensor([0])).item() == 0


def test_a_frozen_head_gets_no_gradient_and_hidden_vectors_do():
    hidden, head = setup(True, None)
    targets = torch.randint(31, (3, 10))
    cross_entropy(hidden, head, targets).backward()
    expected = hidden.grad.clone()
    hidden.grad = head.weight.grad = head.bias.grad = None
    head.requires_grad_(False)
    cross_entropy(hidden, head, targets).backward()
    assert torch.equal(hidden.grad, expected)
    assert head.weight.grad is None


def test_without_gradients_the_sum_is_the_same():
    hidden, head = setup(True, 2.0)
    targets = torch.randint(31, (3, 10))
    with torch.no_grad():
        assert not cross_entropy(hidden, head, targets).requires_grad
        torch.testing.assert_close(cross_entropy(hidden, head, targets), cross_entropy(hidden, head, targets, chunk=3))


def test_bfloat16_accumulates_in_float32():
    """2,000 tokens: the sum is within 0.1 % and gradients within 1 % of the same bfloat16 numbers in float64."""
    head = Head(32, 50).bfloat16()
    torch.nn.init.normal_(head.weight, 0, 0.5)
    hidden, targets = torch.randn(2000, 32).bfloat16().requires_grad_(), torch.randint(50, (2000,))
    loss = cross_entropy(hidden, head, targets, chunk=100)
    loss.backward()
    h, w = hidden.detach().double().requires_grad_(), head.weight.detach().double().requires_grad_()
    exact = F.cross_entropy(h @ w.t(), targets, reduction="sum")
    exact.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-3)
    assert (head.weight.grad.double() - w.grad).norm() < 0.01 * w.grad.norm()
    assert (hidden.grad.double() - h.grad).norm() < 0.01 * h.grad.norm()


def test_without_gradients_none_is_computed(monkeypatch):
    """A head's weight wants a gradient even where autograd is off; computing it would double what validation costs."""
    asked = []

    def spy(logits, targets, softcap, wants_gradient, share):
        asked.append(wants_gradient)
        return loss_and_gradient(logits, targets, softcap, wants_gradient, share)

    loss_and_gradient = module._loss_and_gradient
    monkeypatch.setattr(module, "_loss_and_gradient", spy)
    head, hidden = Head(8, 20), torch.randn(6, 8)
    with torch.no_grad():
        without = cross_entropy(hidden, head, torch.arange(6))
    assert torch.equal(without, cross_entropy(hidden, head, torch.arange(6)))
    assert asked == [False, True]


def test_places_say_the_same_as_a_mask():
    head, hidden, targets = Head(8, 20), torch.randn(2, 3, 8), torch.arange(6).view(2, 3)
    head.weight.data.normal_()
    mask = torch.tensor([[True, False, True], [False, False, True]])
    places = torch.tensor([0, 2, 5])
    by_places = cross_entropy(hidden.flatten(0, 1)[places], head, targets.flatten()[places])
    assert torch.equal(by_places, cross_entropy(hidden, head, targets, mask))

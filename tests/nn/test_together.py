"""Several maps as one product: the same numbers and the same gradients as one by one."""

import pytest
import torch
from torch import nn

from penjing.nn.linear import Linear, can_join, initialise_linear, joined, together
from penjing.nn.swiglu import SwiGLU


def maps(bias: bool, dtype: torch.dtype = torch.float64) -> list[Linear]:
    generator = torch.Generator().manual_seed(0)
    built = [Linear(12, outputs, bias=bias).to(dtype) for outputs in (8, 4, 4)]
    for linear in built:
        initialise_linear(linear, 0.5, generator)
    return built


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_equal_to_one_by_one(bias, frozen):
    """Within 1e-12 in float64: sums may be taken in another order."""
    linears = maps(bias)
    for linear in linears:
        linear.requires_grad_(not frozen)
    x = torch.randn(3, 5, 12, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(3, 5, linear.out_features, dtype=torch.float64) for linear in linears]
    inputs = [x] if frozen else [x, *(p for linear in linears for p in linear.parameters())]

    def gradients(outputs):
        total = sum((y * w).sum() for y, w in zip(outputs, weights, strict=True))
        return [*outputs, *torch.autograd.grad(total, inputs)]

    ours, theirs = gradients(together(x, *linears)), gradients([linear(x) for linear in linears])
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=0, atol=1e-12)


def test_a_result_that_is_not_used_costs_nothing_wrong():
    linears = maps(False)
    x = torch.randn(2, 12, dtype=torch.float64)
    together(x, *linears)[1].sum().backward()
    assert torch.equal(linears[0].weight.grad, torch.zeros_like(linears[0].weight))
    torch.testing.assert_close(linears[1].weight.grad, x.sum(dim=0).expand(4, 12))


def test_other_layers_in_their_place_are_called():
    class Adapted(Linear):
        def forward(self, x):
            return super().forward(x) + 1

    linears: list[nn.Module] = [*maps(False)[:2], Adapted(12, 4, bias=False).double()]
    x = torch.randn(2, 12, dtype=torch.float64)
    assert torch.equal(together(x, *linears)[2], torch.ones(2, 4, dtype=torch.float64))


def test_in_float32_on_a_cpu_they_stay_apart_and_joined_ones_agree():
    """Rounding aside: float32 products of other widths may be summed in another order."""
    linears = maps(True, torch.float32)
    x = torch.randn(2, 12)
    apart = together(x, *linears)
    assert all(torch.equal(y, linear(x)) for y, linear in zip(apart, linears, strict=True))
    torch.testing.assert_close(joined(x, *linears), torch.cat(apart, dim=-1), rtol=1e-5, atol=1e-5)


def test_no_join_where_it_would_be_wrong_or_of_no_use():
    with_bias, without = maps(True), maps(False)
    x = torch.randn(2, 12, dtype=torch.float64)
    assert can_join(x, *without)
    assert not can_join(x, with_bias[0], without[1])
    with torch.no_grad():
        assert not can_join(x, *without)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_join(x, *without)


@pytest.mark.parametrize("bias", [False, True])
def test_a_gated_perceptron_and_its_gradients_are_the_same_joined_and_apart(bias):
    """Within 1e-12 in float64, against the maps called one by one."""
    layer = SwiGLU(SwiGLU.Config(hidden=10, bias=bias), 12).double()
    layer.initialise(torch.Generator().manual_seed(0), 0.5, 0.5)
    x = torch.randn(3, 5, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 5, 12, dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    apart = layer.down(torch.nn.functional.silu(layer.gate(x)) * layer.up(x))
    for ours, theirs in zip(
        torch.autograd.grad((layer(x) * weight).sum(), inputs),
        torch.autograd.grad((apart * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)

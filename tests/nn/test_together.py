"""Several maps as one product: the same numbers and the same gradients as one by one."""

import pytest
import torch
from torch import nn

from penjing.nn.linear import Linear, initialise_linear, together


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

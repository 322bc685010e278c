"""Dropout drops as often as asked, keeps the mean, and has the gradient of what it did."""

import pytest
import torch

from penjing.nn.dropout import dropout


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_scale(chance):
    """200,001 draws: the share is within 5 standard deviations (0.6 %), and what is kept is 1 / (1 - p)."""
    torch.manual_seed(0)
    y = dropout(torch.ones(200_001), chance)
    spread = (chance * (1 - chance) / len(y)) ** 0.5
    assert abs((y == 0).double().mean().item() - chance) < 5 * spread
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - chance)), rtol=1e-3, atol=0)


def test_neighbours_are_dropped_independently():
    """Four numbers share a draw: their pairs must be as often dropped together as chance has it (5 deviations)."""
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(200_000), 0.3) == 0).double().view(-1, 4)
    for other in (1, 2, 3):
        both = (dropped[:, 0] * dropped[:, other]).mean().item()
        assert abs(both - 0.09) < 5 * (0.09 * 0.91 / len(dropped)) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_goes_where_numbers_were_kept(dtype):
    x = torch.randn(7, 9, dtype=dtype, requires_grad=True)
    y = dropout(x, 0.4)
    assert y.dtype == dtype
    y.sum().backward()
    kept = y != 0
    assert torch.equal(x.grad == 0, ~kept)
    torch.testing.assert_close(x.grad[kept].float(), torch.full((int(kept.sum()),), 1 / 0.6), rtol=1e-2, atol=0)


def test_the_same_seed_drops_the_same():
    torch.manual_seed(3)
    one = dropout(torch.ones(50), 0.5)
    torch.manual_seed(3)
    assert torch.equal(one, dropout(torch.ones(50), 0.5))


def test_nothing_is_dropped_with_no_chance():
    x = torch.randn(5)
    assert dropout(x, 0.0) is x

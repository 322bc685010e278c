"""Rotary positions. Frequencies of every scaling are compared with transformers in tests/parity."""

import math

import pytest
import torch

from penjing.errors import ConfigError
from penjing.nn.rope import DynamicScaling, LinearScaling, Rope, YarnScaling, ntk_theta, rotate


def angles(rope: Rope, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rope(positions, torch.float64)


def test_is_multiplication_by_a_complex_number():
    """Oracle: torch.polar on (first half) + i (second half), float64 products of float32 angles, to 1e-6."""
    rope = Rope.Config(theta=500.0).build(8)
    x, positions = torch.randn(2, 5, 3, 8, dtype=torch.float64), torch.tensor([[0, 1, 7, 30, 100]])
    turn = positions[0, :, None] * 500.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    expected = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(turn), turn)[None, :, None]
    found = rotate(x, *angles(rope, positions))
    torch.testing.assert_close(found, torch.cat([expected.real, expected.imag], -1), atol=1e-5, rtol=0)


def test_products_depend_on_distance_alone():
    """q at 3 and k at 9 have the product that q at 53 and k at 59 have, to 1e-5."""
    rope = Rope.Config().build(16)
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)

    def product(i: int, j: int) -> float:
        turned = [rotate(x, *angles(rope, torch.tensor([[p]]))) for x, p in ((q, i), (k, j))]
        return float((turned[0] * turned[1]).sum())

    assert product(3, 9) == pytest.approx(product(53, 59), abs=1e-4)
    assert product(3, 9) != pytest.approx(product(3, 10), abs=1e-2)


def test_has_the_gradient_of_its_output():
    """gradcheck in float64 against finite differences."""
    cos, sin = angles(Rope.Config(fraction=0.5).build(8), torch.arange(3)[None])
    x = torch.randn(2, 3, 2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), x)


def test_turns_only_its_fraction_of_a_head():
    x = torch.randn(1, 4, 1, 12)
    found = rotate(x, *Rope.Config(fraction=1 / 3).build(12)(torch.arange(4)[None], torch.float32))
    assert torch.equal(found[..., 4:], x[..., 4:])
    assert not torch.allclose(found[:, 1:, :, :4], x[:, 1:, :, :4])


def test_casting_the_model_does_not_round_the_frequencies():
    """A bfloat16 model turns position 1,000 by the angle of the float32 one; rounded frequencies would be 3 rad off."""
    rope = Rope.Config().build(32)
    expected = rope(torch.tensor([[1000]]), torch.float32)
    found = torch.nn.Sequential(rope).bfloat16()[0](torch.tensor([[1000]]), torch.float32)
    assert torch.equal(found[0], expected[0])


def test_ntk_keeps_the_highest_frequency_and_stretches_the_lowest():
    """theta' = ntk_theta(theta, dim, 4): first frequency as before, last one a quarter, to 1e-6."""
    before = Rope.Config(theta=1e4).build(64).frequencies
    after = Rope.Config(theta=ntk_theta(1e4, 64, 4.0)).build(64).frequencies
    assert after[0] == before[0]
    assert float(before[-1] / after[-1]) == pytest.approx(4.0, rel=1e-5)


def test_dynamic_scaling_begins_beyond_the_trained_context():
    """Equal to the plain rope up to 16 tokens, slower at 17, and equal to it again for a short text afterwards."""
    plain, dynamic = Rope.Config().build(8), Rope.Config(scaling=DynamicScaling(4.0, 16)).build(8)
    short, long = torch.arange(16)[None], torch.arange(17)[None]
    assert torch.equal(dynamic(short, torch.float32)[0], plain(short, torch.float32)[0])
    assert not torch.equal(dynamic(long, torch.float32)[0], plain(long, torch.float32)[0])
    assert torch.equal(dynamic(short, torch.float32)[0], plain(short, torch.float32)[0])


def test_linear_scaling_is_smaller_positions():
    scaled, plain = Rope.Config(scaling=LinearScaling(4.0)).build(8), Rope.Config().build(8)
    found = scaled(torch.tensor([[40]]), torch.float64)[0]
    torch.testing.assert_close(found, plain(torch.tensor([[10]]), torch.float64)[0], atol=1e-6, rtol=0)


def test_yarn_sharpens_scores_by_its_attention_factor():
    """The paper's 0.1 ln(s) + 1, on cosines and sines."""
    rope = Rope.Config(scaling=YarnScaling(8.0, 32)).build(8)
    cos, sin = rope(torch.tensor([[0]]), torch.float64)
    torch.testing.assert_close(cos, torch.full_like(cos, 0.1 * math.log(8) + 1))
    assert torch.equal(sin.abs(), torch.zeros_like(sin))


def test_refuses_heads_that_have_no_pairs():
    with pytest.raises(ConfigError, match="pairs"):
        Rope.Config().build(7)

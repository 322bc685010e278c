"""Muon against PyTorch's, against a singular value decomposition, and against itself one matrix at a time."""

import pytest
import torch
from torch import nn

from penjing.errors import ConfigError
from penjing.training.adamw import AdamW
from penjing.training.muon import COEFFICIENTS, MINIMAX, Muon, hidden_matrices, orthogonalize
from tests.training import tiny


class Matrices(nn.Module):
    """Some hidden matrices and nothing else."""

    def __init__(self, *shapes: tuple[int, int]):
        super().__init__()
        torch.manual_seed(5)
        self.all = nn.ParameterList(torch.randn(shape) for shape in shapes)

    def set_gradients(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for weight in self.all:
            weight.grad = torch.randn(weight.shape, generator=generator)


SHAPES = [(16, 16), (24, 16), (16, 24), (24, 16), (33, 7)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_equals_torch_muon(precision):
    """torch.optim.Muon with AdamW's scale, ten steps; its products are bf16: updates agree within 2 % of their norm."""
    ours, theirs, start = Matrices(*SHAPES), Matrices(*SHAPES), Matrices(*SHAPES)
    own = Muon.Config(learning_rate=0.01, momentum=0.9, weight_decay=0.2, precision=precision).build(ours)
    peer = torch.optim.Muon(
        theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(10):
        ours.set_gradients(step)
        theirs.set_gradients(step)
        own.step()
        peer.step()
    for mine, its, first in zip(ours.all, theirs.all, start.all, strict=True):
        assert (mine - its).norm() < 0.02 * (its - first).norm()


def test_newton_schulz_applies_its_polynomial_to_singular_values():
    """In float64: U p(p(p(p(p(S))))) V^T by SVD; equal within 1e-9."""
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, 13, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalize(matrices), u @ torch.diag_embed(s) @ v, rtol=0, atol=1e-9)
    assert s.min() > 0.6
    assert s.max() < 1.3


@pytest.mark.parametrize("iterations", MINIMAX)
def test_no_polynomial_does_better_than_minimax(iterations):
    """Chebyshev: of odd polynomials of three terms the best is the one whose error alternates between four extremes of
    one size. Each iteration's extremes on what the one before left agree within 1e-4 of 1; all end within 0.12 of 1."""
    low, steps = MINIMAX[iterations]
    high = 1.0
    for a, b, c in steps:
        x = low * (high / low) ** torch.linspace(0, 1, 200_001, dtype=torch.float64)
        error = a * x + b * x**3 + c * x**5 - 1
        size = error.abs().max().item()
        signs = error[error.abs() > size - 1e-4].sign()
        assert len(torch.unique_consecutive(signs)) >= 4
        low, high = 1 - size, 1 + size
    assert size < 0.12


@pytest.mark.parametrize("shape", [(3, 12, 13), (3, 12, 40)])
@pytest.mark.parametrize("iterations", MINIMAX)
def test_minimax_iterations_apply_their_polynomials_to_singular_values(iterations, shape):
    """In float64, square and long (by Gram matrices): U p3(p2(p1(S))) V^T by SVD, equal within 1e-9; S over its 4-norm
    and 1.01."""
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = s / (s**4).sum(dim=-1, keepdim=True) ** 0.25 / 1.01
    for a, b, c in MINIMAX[iterations][1]:
        s = a * s + b * s**3 + c * s**5
    found = orthogonalize(matrices, iterations, "minimax")
    torch.testing.assert_close(found, u @ torch.diag_embed(s) @ v, rtol=0, atol=1e-9)


@pytest.mark.parametrize("polynomials", ["fixed", "minimax"])
def test_long_matrices_in_float32_equal_float64(polynomials):
    """By Gram matrices, singular values from 1 to 1e-4; entries of size 0.1, equal within 2e-3: the smallest ones are
    not resolved in float32's Gram matrix, and are next to nothing in the result."""
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 16, dtype=torch.float64)).Q for n in (16, 64))
    matrix = (u * torch.logspace(0, -4, 16, dtype=torch.float64)) @ v.mT
    exact, found = (orthogonalize(matrix[None].to(dtype), 5, polynomials) for dtype in (torch.float64, torch.float32))
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-3)


def test_a_stack_equals_one_matrix_at_a_time():
    """Same-shape matrices, tall ones transposed, are one product; each alone in an optimizer of its own; 1e-5."""
    together, alone = Matrices(*SHAPES), Matrices(*SHAPES)
    config = Muon.Config(learning_rate=0.02, precision="fp32")
    one = config.build(together)
    many = [config.build(nn.ParameterList([weight])) for weight in alone.all]
    for step in range(3):
        together.set_gradients(step)
        alone.set_gradients(step)
        one.step()
        for optimizer in many:
            optimizer.step()
    for mine, its in zip(together.all, alone.all, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-5)


def test_an_update_is_as_large_as_one_of_adamw():
    """Root mean square 0.2 times the learning rate, whatever the shape, within the 30 % that Newton-Schulz leaves."""
    model = Matrices(*SHAPES)
    before = [weight.detach().clone() for weight in model.all]
    model.set_gradients(1)
    Muon.Config(learning_rate=1.0, weight_decay=0.0, precision="fp32").build(model).step()
    for weight, old in zip(model.all, before, strict=True):
        assert 0.14 < (weight - old).square().mean().sqrt() < 0.26


def test_embeddings_head_and_norms_are_left_to_adamw():
    """By name on a real model: all but seven projections in each of two layers; and they step as by AdamW alone."""
    model, control = tiny.model(), tiny.model()
    hidden = hidden_matrices(model)
    assert len(hidden) == 14
    assert all(name.startswith("blocks.") and "norm" not in name for name in hidden)
    adamw = AdamW.Config(learning_rate=0.03)
    optimizers = Muon.Config(adamw=adamw).build(model), adamw.build(control)
    for built in (model, control):
        built(torch.arange(6)[None]).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
    pairs = zip(model.named_parameters(), control.parameters(), strict=True)
    assert all(torch.equal(mine, its) == (name not in hidden) for (name, mine), its in pairs)


def test_refuses_an_unknown_precision():
    with pytest.raises(ConfigError, match="did you mean 'bf16'"):
        Muon.Config(precision="bf_16")


def test_refuses_unknown_polynomials_and_iterations_that_minimax_has_not():
    with pytest.raises(ConfigError, match="did you mean 'minimax'"):
        Muon.Config(polynomials="minmax", iterations=3)
    with pytest.raises(ConfigError, match="for 3, 4, 5 iterations, not 2"):
        Muon.Config(polynomials="minimax", iterations=2)

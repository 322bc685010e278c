"""Norms, perceptrons and blocks."""

import pytest
import torch
from torch.nn import functional as F

from penjing.errors import ConfigError
from penjing.nn.attention import Attention
from penjing.nn.block import Block, ParallelBlock
from penjing.nn.linear import Linear
from penjing.nn.mlp import ACTIVATIONS, MLP
from penjing.nn.norms import LayerNorm, RMSNorm
from penjing.nn.sequence import Sequence
from penjing.nn.swiglu import SwiGLU


def test_rms_norm_has_the_gradient_of_its_output():
    """gradcheck in float64 against finite differences, for the vectors and for the weight."""
    norm = RMSNorm.Config(eps=1e-3).build(5).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    call = lambda x, w: torch.func.functional_call(norm, {"weight": w}, x)  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, weight))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_rms_norm_equals_pytorch_in_training_and_in_inference(dtype, tolerance):
    """Output and gradients against F.rms_norm in float64, relative to their size."""
    norm = RMSNorm.Config(eps=1e-5).build(64).to(dtype)
    torch.nn.init.normal_(norm.weight)
    x, grad = torch.randn(3, 50, 64).to(dtype).requires_grad_(), torch.randn(3, 50, 64).to(dtype)
    found = norm(x)
    found.backward(grad)
    exact_x, exact_weight = (t.detach().double().requires_grad_() for t in (x, norm.weight))
    exact = F.rms_norm(exact_x, (64,), exact_weight, 1e-5)
    exact.backward(grad.double())
    with torch.no_grad():
        inferred = norm(x)
    for mine, theirs in (
        (found, exact),
        (inferred, exact),
        (x.grad, exact_x.grad),
        (norm.weight.grad, exact_weight.grad),
    ):
        assert mine.dtype == dtype
        assert (mine.double() - theirs).norm() < tolerance * theirs.norm()


def test_norms_of_large_bfloat16_vectors_are_computed_in_float32():
    """The mean of squares of 3e19 overflows neither; the result is 1 in each place."""
    x = torch.full((2, 8), 3e18, dtype=torch.bfloat16)
    assert torch.equal(RMSNorm.Config().build(8).bfloat16()(x), torch.ones(2, 8, dtype=torch.bfloat16))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_formulas(name):
    """Oracle: the definition, in float64, to 1e-12."""
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    formula = {
        "gelu": x * torch.special.ndtr(x),
        "gelu_tanh": 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
        "relu": x * (x > 0),
        "relu_squared": (x * (x > 0)) ** 2,
        "silu": x / (1 + torch.exp(-x)),
    }[name]
    torch.testing.assert_close(ACTIVATIONS[name](x), formula, atol=1e-12, rtol=0)


def test_an_unknown_activation_is_an_error_that_suggests_one():
    with pytest.raises(ConfigError, match="did you mean 'relu_squared'"):
        MLP.Config(hidden=8, activation="relu_sqared").build(4)


def test_swiglu_is_its_formula():
    """W_down (silu(W_gate x) * W_up x) with biases, in float64 to 1e-12."""
    layer = SwiGLU.Config(hidden=7, bias=True).build(5).double()
    for weight in layer.parameters():
        torch.nn.init.normal_(weight)
    x = torch.randn(3, 5, dtype=torch.float64)
    gate, up = (x @ m.weight.t() + m.bias for m in (layer.gate, layer.up))
    expected = (gate * torch.sigmoid(gate) * up) @ layer.down.weight.t() + layer.down.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", [Block, ParallelBlock])
def test_blocks_add_what_their_parts_write(kind):
    """The residual equations of the module, spelled out; and with a dropout of 0.999 hardly anything is added."""
    mixer, mlp = Attention.Config(heads=2), MLP.Config(hidden=12)
    block = kind.Config(mixer=mixer, mlp=mlp, norm=LayerNorm.Config(), dropout=0.999).build(8)
    for weight in block.parameters():
        torch.nn.init.normal_(weight)
    x, place = torch.randn(2, 5, 8), Sequence(torch.arange(5)[None])
    block.eval()
    middle = x + block.mixer(block.mixer_norm(x), place)
    if kind is Block:
        expected = middle + block.mlp(block.mlp_norm(middle))
    else:
        expected = middle + block.mlp(block.mlp_norm(x))
    torch.testing.assert_close(block(x, place), expected, atol=1e-5, rtol=1e-5)
    block.train()
    assert (block(x, place) == x).float().mean() > 0.95


@pytest.mark.parametrize("rows", [1, 64, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_maps_equal_pytorch_with_few_rows_and_with_many(rows, bias):
    """Output and gradients against F.linear in float64, to 1e-5 of the largest; many rows take oneDNN on a CPU."""
    layer = Linear(24, 40, bias=bias)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight)
    x, grad = torch.randn(2, rows, 24, requires_grad=True), torch.randn(2, rows, 40)
    inputs = [x, *layer.parameters()]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = F.linear(*exact)
    wanted = torch.autograd.grad(expected, exact, grad.double())
    found = layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), found)
    for mine, theirs in zip([found, *torch.autograd.grad(found, inputs, grad)], [expected, *wanted], strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


def test_a_frozen_linear_map_passes_gradients_on():
    layer = Linear(8, 8)
    torch.nn.init.normal_(layer.weight)
    layer.requires_grad_(False)
    x = torch.randn(100, 8, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(dim=0).expand(100, 8), rtol=1e-5, atol=1e-5)
    assert layer.weight.grad is None

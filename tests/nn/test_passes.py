"""Kernels that go over memory once, beside the same in PyTorch's operators."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from penjing.models.language_model import LanguageModel
from penjing.nn import passes
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope, rotate
from penjing.nn.swiglu import SwiGLU

# float32: sums in another order, and e^x to one or two units in the last place; bf16: one rounding where the operators
# round two or three times, so it is held against the exact value, from which one rounding is 2^-9 of it away
TOLERANCE = {torch.float32: {"rtol": 2e-6, "atol": 2e-6}, torch.bfloat16: {"rtol": 2**-8, "atol": 2**-8}}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(autouse=True)
def _all_sizes(monkeypatch):
    monkeypatch.setattr(passes, "MANY", 1)


def numbers(*shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def differentiated(function, grad, *inputs):
    """What a function gives, and the gradients of its inputs."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = function(*inputs)
    return y.detach(), *torch.autograd.grad(y, inputs, grad.to(y.dtype))


@DTYPES
@pytest.mark.parametrize("hidden", [1, 7, 64])
def test_gating_equals_silu_and_a_product(dtype, hidden):
    both, grad = 5 * numbers(3, 11, 2 * hidden, dtype=dtype), numbers(3, 11, hidden, dtype=dtype, seed=1)

    def exact(x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    y, both_grad = differentiated(exact, grad, both.double())
    torch.testing.assert_close(passes.gate(both).double(), y, **TOLERANCE[dtype])
    torch.testing.assert_close(passes.gate_gradient(both, grad).double(), both_grad, **TOLERANCE[dtype])


def test_gates_far_from_zero_and_what_is_no_number():
    """Far gates are 0 or wide open, without overflow; NaN stays NaN, so that a run stops at it."""
    gates = torch.tensor([-1e4, -100.0, -88.0, 0.0, 88.0, 100.0, 1e4, float("nan")])
    y = passes.gate(torch.cat([gates, torch.ones(8)])[None])[0]
    torch.testing.assert_close(y[:7], F.silu(gates[:7]), rtol=2e-6, atol=1e-33)
    assert y[7].isnan()


@DTYPES
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dim", [2, 10, 64])
def test_rotation_equals_the_operators(dtype, rows, dim):
    x, grad = numbers(3, 5, 2, dim, dtype=dtype), numbers(3, 5, 2, dim, dtype=dtype, seed=1)
    positions = torch.arange(15).view(3, 5)[:rows]
    cos, sin = Rope.Config().build(dim)(positions, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "MANY", 1 << 60)
        y, x_grad = differentiated(lambda x: rotate(x, cos.double(), sin.double()), grad, x.double())
    ours, ours_grad = differentiated(lambda x: rotate(x, cos, sin), grad, x)
    torch.testing.assert_close(ours.double(), y, **TOLERANCE[dtype])
    torch.testing.assert_close(ours_grad.double(), x_grad, **TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("width", [1, 5, 96])
def test_the_norm_equals_pytorchs(dtype, width):
    x, grad = numbers(7, 9, width, dtype=dtype), numbers(7, 9, width, dtype=dtype, seed=1)
    weight = 1 + 0.2 * numbers(width, dtype=dtype, seed=2)
    exact = differentiated(lambda x, w: F.rms_norm(x, (width,), w, 1e-2), grad, x.double(), weight.double())
    norm = RMSNorm(RMSNorm.Config(eps=1e-2), width)

    def ours(x, w):
        return torch.func.functional_call(norm, {"weight": w}, (x,))

    for one, other in zip(differentiated(ours, grad, x, weight), exact, strict=True):
        torch.testing.assert_close(one.double(), other, **{**TOLERANCE[dtype], "atol": TOLERANCE[dtype]["atol"] * 8})


@pytest.mark.parametrize("vocab", [1, 5, 333])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_the_loss_and_its_gradient_equal_pytorchs(vocab, size):
    """Against float64: the loss within 2e-6 of the largest logit's size, the gradient, which is a part of 1, 2e-6."""
    logits = size * numbers(9, vocab, dtype=torch.float32)
    targets = torch.arange(9) * 7 % vocab
    exact = logits.double().requires_grad_()
    loss = F.cross_entropy(exact, targets, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), exact)
    kept = logits.clone()
    for wanted in (False, True):
        losses = passes.softmax_loss(kept, targets, wanted)
        torch.testing.assert_close(losses.double(), loss.detach(), rtol=2e-6, atol=2e-6 * max(size, 1))
        assert wanted or kept.equal(logits)
    torch.testing.assert_close(kept.double(), gradient, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_loss_of_what_is_no_number_is_none(odd):
    logits = torch.zeros(2, 40)
    logits[1, 17] = odd
    losses = passes.softmax_loss(logits, torch.tensor([3, 4]), True)
    assert losses[0].isfinite()
    assert losses[1].isnan()


def test_results_do_not_depend_on_threads():
    """To the bit: a run that goes on with fewer threads meets no new rounding here."""
    x, grad, weight = (numbers(*shape, dtype=torch.float32) for shape in ((33, 40), (33, 40), (40,)))
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y, inverse = passes.norm(x, weight, 1e-6)
        found.append(torch.cat([y.flatten(), *(t.flatten() for t in passes.norm_gradient(x, weight, inverse, grad))]))
    torch.set_num_threads(before)
    assert all(np.array_equal(found[0].numpy(), other.numpy()) for other in found[1:])


def test_a_model_gives_the_same_with_and_without(monkeypatch):
    """Loss and every gradient, float32, 1e-5 of the largest."""
    block = Block.Config(
        mixer=Attention.Config(heads=4, kv_heads=2, rope=Rope.Config(), qk_norm=RMSNorm.Config()),
        mlp=SwiGLU.Config(hidden=40),
        norm=RMSNorm.Config(),
    )
    model = LanguageModel.Config(vocab=50, width=32, layers=(block,) * 2, context=16, norm=RMSNorm.Config()).build()
    model.initialise(torch.Generator().manual_seed(0))
    tokens = torch.randint(50, (3, 13), generator=torch.Generator().manual_seed(1))
    gradients = []
    for many in (1, 1 << 60):
        monkeypatch.setattr(passes, "MANY", many)
        model.zero_grad()
        F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, ours in gradients[0].items():
        torch.testing.assert_close(ours, gradients[1][name], rtol=0, atol=1e-5 * float(gradients[1][name].abs().max()))


def test_what_they_do_not_serve():
    """Few numbers, float64, columns that lie apart, mixed dtypes: PyTorch's operators."""
    x = torch.zeros(4, 8)
    assert passes.serves(x, torch.zeros(8))
    assert not passes.serves(x.double())
    assert not passes.serves(x.t())
    assert not passes.serves(x, torch.zeros(8, dtype=torch.bfloat16))
    passes.MANY = 33
    assert not passes.serves(x)

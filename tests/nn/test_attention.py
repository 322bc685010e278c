"""The attention layer and its kernels."""

import itertools

import pytest
import torch

from penjing.errors import ConfigError
from penjing.nn import kernels
from penjing.nn.attention import Attention
from penjing.nn.rope import Rope
from penjing.nn.sequence import Sequence

from .compositions import build, tokens

DOCUMENTS = torch.tensor([[-1] * 3 + [0] * 20 + [1] * 14, [0] * 9 + [1] * 9 + [2] * 19])
SEQ = 37


def heads(count: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    draw = torch.randn(2, SEQ, count, 6, generator=torch.Generator().manual_seed(seed))
    return draw.to(dtype).transpose(1, 2).detach().requires_grad_()


def sequence(packed: bool) -> Sequence:
    return Sequence(torch.arange(SEQ)[None], 0, DOCUMENTS if packed else None)


CASES = list(itertools.product([1, 2, 6], [None, 5], [False, True]))


@pytest.mark.parametrize(("kv_heads", "window", "packed"), CASES)
@pytest.mark.parametrize("kernel", ["fused", "blocked", "products"])
def test_kernels_equal_the_reference(kernel, kv_heads, window, packed):
    """Outputs and all three gradients, in float64, to 1e-12; blocks of 16 do not divide the 37 tokens."""
    inputs = [heads(6, torch.float64, 0), heads(kv_heads, torch.float64, 1), heads(kv_heads, torch.float64, 2)]
    place = sequence(packed)
    bias, visible = place.bias(torch.float64, window), place.mask(window)
    run = {
        "fused": lambda: kernels.fused(*inputs, visible, False, 0.4),
        "blocked": lambda: kernels.blocked(*inputs, bias, 0.4, block=16),
        "products": lambda: kernels.products(*inputs, bias, 0.4),
    }[kernel]
    expected = kernels.reference(*inputs, visible, 0.4)
    grad = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, inputs, grad)
    found = run()
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.autograd.grad(found, inputs, grad), wanted, atol=1e-12, rtol=0)


def test_the_blocked_kernel_has_the_gradient_of_its_output():
    """gradcheck in float64: finite differences against the backward pass written by hand."""
    inputs = [torch.randn(1, h, 5, 2, dtype=torch.float64, requires_grad=True) for h in (4, 2, 2)]
    bias = Sequence(torch.arange(5)[None]).bias(torch.float64)
    assert torch.autograd.gradcheck(lambda *x: kernels.blocked(*x, bias, 0.7, block=2), inputs)


@pytest.mark.parametrize("packed", [False, True])
def test_bfloat16_kernels_are_nearly_as_exact_as_the_fused_one(packed):
    """Mean error against float64 at most 2.2 times that of PyTorch's fused kernel, which keeps scores in float32."""
    inputs = [heads(count, torch.bfloat16, seed) for seed, count in enumerate((6, 2, 2))]
    exact_inputs = [x.detach().double() for x in inputs]
    place = sequence(packed)
    visible, bias = place.mask(), place.bias(torch.bfloat16)
    exact = kernels.reference(*exact_inputs, visible, 0.4)
    allowed = 2.2 * (kernels.fused(*inputs, visible, False, 0.4) - exact).abs().mean()
    assert (kernels.blocked(*inputs, bias, 0.4) - exact).abs().mean() < allowed
    assert (kernels.products(*inputs, bias, 0.4) - exact).abs().mean() < allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_key_heads_are_repeated_heads(dtype):
    """A grouped layer equals the multi-head layer whose key and value weights repeat each group's, in order."""
    grouped, full = (Attention.Config(heads=4, kv_heads=kv, rope=Rope.Config()).build(24) for kv in (2, 4))
    with torch.no_grad():
        for name, weight in grouped.named_parameters():
            weight.normal_(0, 0.3)
            shared = name.startswith(("key", "value"))
            wide = weight.view(2, 1, 6, 24).expand(2, 2, 6, 24).reshape(24, 24) if shared else weight
            full.get_parameter(name).copy_(wide)
    x = torch.randn(2, 9, 24, dtype=dtype)
    place = Sequence(torch.arange(9)[None])
    tolerance = {"atol": 1e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(grouped.to(dtype)(x, place), full.to(dtype)(x, place), **tolerance)


def test_a_window_is_the_last_keys_and_no_more():
    """With a window of 3 in one layer, token 5 changes logits 5, 6 and 7 only."""
    model = build(Attention.Config(heads=4, rope=Rope.Config(), window=3))
    model.blocks = model.blocks[:1]
    ids = tokens(1, 12)
    other = ids.clone()
    other[0, 5] += 1
    changed = (model(ids) - model(other)).abs().amax(-1)[0] > 1e-4
    assert changed.nonzero().flatten().tolist() == [5, 6, 7]


def test_capped_scores_stay_within_the_bound():
    """Keys and queries so large that a plain softmax picks one key: capped at 0.1, no weight is over e^0.2 / keys."""
    query, key = torch.full((1, 1, 1, 4), 100.0), torch.randn(1, 1, 8, 4) * 100
    value = torch.eye(8)[None, None]  # each key's weight can be read off
    weights = kernels.reference(query, key, value, None, 1.0, softcap=0.1)
    assert weights.max() <= torch.tensor(0.2).exp() / 8
    assert kernels.reference(query, key, value, None, 1.0).max() > 0.99


def test_dropped_weights_average_out():
    """Mean of 3,000 outputs with a dropout of 0.5 in training is within 0.06 of the output without."""
    layer = Attention.Config(heads=2, dropout=0.5).build(8)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, 0, 0.5)
    x = torch.randn(1, 6, 8)
    expected = layer.eval()(x, Sequence(torch.arange(6)[None]))[0]
    found = layer.train()(x.repeat(3000, 1, 1), Sequence(torch.arange(6).repeat(3000, 1)))
    assert found.std(dim=0).max() > 0.1
    torch.testing.assert_close(found.mean(dim=0), expected, atol=0.06, rtol=0)


def test_masks_are_made_only_where_they_are_needed_and_only_once():
    whole = Sequence(torch.arange(8)[None])
    assert whole.is_causal(None)
    assert whole.is_causal(8)
    assert not whole.is_causal(7)
    assert whole.mask() is whole.mask(8)
    step = Sequence(torch.tensor([[7]]), start=7)
    assert not step.is_causal(None)  # PyTorch's triangle would hide all keys but the first
    assert step.mask() is None
    assert step.mask(window=3).tolist() == [[[[False] * 5 + [True] * 3]]]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Attention.Config(heads=4, kv_heads=3), "cannot share"),
        (Attention.Config(heads=5), "no multiple"),
        (Attention.Config(heads=0), "cannot share"),
        (Attention.Config(heads=4, window=0), "at least itself"),
        (Attention.Config(heads=4, head_dim=5, rope=Rope.Config()), "pairs"),
    ],
)
def test_refuses_heads_that_do_not_fit(config, message):
    with pytest.raises(ConfigError, match=message):
        config.build(32)

"""Packed weights: the same products, and never a weight that is out of date."""

import copy
import io
import pickle

import pytest
import torch

from penjing.inference import packing
from penjing.inference.generate import generate_ids
from penjing.inference.sampling import Sampling
from penjing.nn.linear import Linear
from tests.inference import tiny

GREEDY = Sampling(temperature=0, max_new_tokens=30)
PROMPTS = [[1, 2, 3], [4], [9, 8]]


def packed_layers(model) -> list[bool]:
    return [module.packed is not None for module in model.modules() if isinstance(module, Linear)]


needs_packing = pytest.mark.skipif(
    not packing.pack(tiny.model(), 1), reason="weights are packed on x86 CPUs with oneDNN only"
)


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_products_equal_plain_ones(dtype, rows, bias):
    """Odd sizes; float32 within 1e-5 of 1, bfloat16 within its rounding of sums of this size."""
    linear = Linear(37, 91, bias=bias, dtype=dtype)
    with torch.no_grad():
        for weight in linear.parameters():
            weight.normal_()
    x = torch.randn(rows, 1, 37, dtype=dtype)
    with torch.inference_mode():
        plain = linear(x)
        packed = packing.pack(linear, rows)
        assert torch.equal(linear(x), plain), "not yet active"
        with packing.using(packed):
            found = linear(x)
    assert found.shape == plain.shape
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(found, plain, atol=tolerance * 6, rtol=tolerance)


@needs_packing
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=["batch", "one"])
def test_generation_is_the_same_before_with_and_after_packing(monkeypatch, prompts):
    """Never packed, packed on the way, and with the weights that the call before left; float32 ids are the same."""
    model = tiny.model()
    monkeypatch.setattr(packing, "STEPS_BEFORE", 1000)
    plain = generate_ids(model, prompts, GREEDY)
    assert not any(packed_layers(model))
    monkeypatch.setattr(packing, "STEPS_BEFORE", 3)
    assert generate_ids(model, prompts, GREEDY) == plain
    assert all(packed_layers(model))
    monkeypatch.setattr(packing, "pack", lambda model, rows: pytest.fail("it was packed before"))
    assert generate_ids(model, prompts, GREEDY) == plain


@needs_packing
@pytest.mark.parametrize("change", ["optimizer", "data", "bias", "replace", "permute", "load"])
def test_changed_weights_are_never_served_from_an_old_packing(change):
    """However the weights change, also unseen by PyTorch's version counter, generation is that of the new ones."""
    model = tiny.model()
    linear = model.blocks[0].mixer.query
    linear.bias = torch.nn.Parameter(torch.zeros(32))
    before = generate_ids(model, PROMPTS, GREEDY)
    assert all(packed_layers(model))
    with torch.no_grad():
        match change:
            case "optimizer":
                linear.weight.mul_(-1)
            case "data":
                linear.weight.data.copy_(-linear.weight.data)
            case "bias":
                linear.bias.data.add_(5)
            case "replace":
                linear.weight = torch.nn.Parameter(-linear.weight)
            case "permute":
                old, linear.weight = linear.weight, torch.nn.Parameter(linear.weight.flip(0).contiguous())
                while linear.weight._version < old._version:  # same count, same sum, another weight
                    linear.weight.add_(0)
            case "load":
                model.load_state_dict(tiny.model(seed=1).state_dict(), strict=False)
    fresh = copy.deepcopy(model)
    assert not any(packed_layers(fresh)), "copies begin without packed weights"
    after = generate_ids(model, PROMPTS, GREEDY)
    assert after == generate_ids(fresh, PROMPTS, GREEDY)
    assert after != before


@needs_packing
def test_packed_weights_are_for_decoding_alone():
    """Forward passes and gradients between two generations are those of a model that was never packed."""
    model, plain = tiny.model(), tiny.model()
    generate_ids(model, PROMPTS, GREEDY)
    assert all(packed_layers(model))
    tokens = torch.tensor([[1, 2, 3, 4]])
    for one in (model, plain):
        one(tokens).square().mean().backward()
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert not any(packed_layers(pickle.loads(pickle.dumps(model))))
    torch.save(model, io.BytesIO())


@needs_packing
def test_weights_that_cannot_be_packed_are_left_alone(monkeypatch):
    assert packing.pack(tiny.model().double(), 1) == []
    monkeypatch.setattr(packing, "_MEMORY_SHARE", 0.0)
    assert packing.pack(tiny.model(), 1) == []


@needs_packing
def test_weights_made_in_inference_mode_are_packed_and_checked_too():
    """PyTorch counts no changes of theirs; the checksum sees them."""
    with torch.inference_mode():
        model = copy.deepcopy(tiny.model())
        before = generate_ids(model, PROMPTS, GREEDY)
        assert all(packed_layers(model))
        model.blocks[1].mixer.output.weight.mul_(-1)
        after = generate_ids(model, PROMPTS, GREEDY)
    assert after != before


@needs_packing
def test_autocast_is_left_to_itself():
    """A float32 model in bfloat16 autocast: with packed weights around, the same logits as without any."""
    model, tokens = tiny.model(), torch.tensor([[5]])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        plain = model(tokens)
        with packing.using(packing.pack(model, 1)):
            assert torch.equal(model(tokens), plain)


@needs_packing
def test_short_answers_are_not_packed():
    """Less than as many steps again to go: the packing would not pay."""
    model = tiny.model()
    generate_ids(model, PROMPTS, Sampling(temperature=0, max_new_tokens=2 * packing.STEPS_BEFORE - 1))
    assert not any(packed_layers(model))


@needs_packing
def test_an_interrupted_step_switches_the_packed_weights_off():
    model = tiny.model()
    packed = packing.pack(model, 1)
    with pytest.raises(KeyboardInterrupt), packing.using(packed):
        raise KeyboardInterrupt
    assert not any(weight.active for weight in packed)

"""AdamW against PyTorch's and against the algorithm as it is written."""

import pytest
import torch
from torch import Tensor, nn

from penjing.errors import ConfigError
from penjing.training.adamw import AdamW, adamw_reference

CONFIG = AdamW.Config(learning_rate=3e-3, betas=(0.8, 0.97), weight_decay=0.3)


def _layer() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(7, 5)


def _gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(5, 7, generator=generator), torch.randn(5, generator=generator)]


def test_equals_torch_adamw_to_the_bit():
    """torch.optim.AdamW(fused=True), with decay on the matrix alone; twenty steps, exactly equal."""
    ours, theirs = _layer(), _layer()
    own = CONFIG.build(ours)
    groups = [{"params": [theirs.weight], "weight_decay": 0.3}, {"params": [theirs.bias], "weight_decay": 0.0}]
    peer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.8, 0.97), fused=True)
    for step in range(20):
        for layer in (ours, theirs):
            layer.weight.grad, layer.bias.grad = _gradients(step)
        own.step()
        peer.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_the_kernel_does_what_the_algorithm_says():
    """The readable reference in float32, twenty steps; equal within 1e-6 (weights are about 0.3)."""
    ours, reference = _layer(), _layer()
    own = CONFIG.build(ours)
    weights = [reference.weight.data, reference.bias.data]
    averages = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in weights]
    for step in range(1, 21):
        ours.weight.grad, ours.bias.grad = _gradients(step)
        own.step()
        for weight, gradient, (mean, square) in zip(weights, _gradients(step), averages, strict=True):
            adamw_reference(weight, gradient, mean, square, step, learning_rate=3e-3, config=CONFIG)
    torch.testing.assert_close(ours.weight.data, weights[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.bias.data, weights[1], rtol=0, atol=1e-6)


def test_only_matrices_decay():
    """With zero gradients a step is decay alone: weights times 1 - lr * decay, biases untouched, exactly."""
    layer = _layer()
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer.weight.grad, layer.bias.grad = torch.zeros(5, 7), torch.zeros(5)
    CONFIG.build(layer).step()
    torch.testing.assert_close(layer.weight.data, before[0] * (1 - 3e-3 * 0.3), rtol=1e-6, atol=0)
    assert torch.equal(layer.bias, before[1])


def test_a_parameter_without_a_gradient_is_left_alone():
    """As when a layer was not used in a step: neither decay nor a step."""
    layer = _layer()
    before = layer.weight.detach().clone()
    layer.bias.grad = torch.ones(5)
    CONFIG.build(layer).step()
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("wrong", [{"learning_rate": -1.0}, {"betas": (0.9, 1.0)}, {"weight_decay": -0.1}])
def test_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ConfigError, match="AdamW"):
        AdamW.Config(**wrong)

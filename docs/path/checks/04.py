"""Checks chapter 4: python docs/path/checks/04.py my_answer.py."""

import sys

import torch
from checking import Checks, differ

from penjing.nn.linear import Linear
from penjing.nn.mlp import MLP
from penjing.nn.norms import RMSNorm
from penjing.nn.swiglu import SwiGLU

checks = Checks()

LLAMA = {4096: 11_008, 5120: 13_824, 6656: 17_920, 8192: 22_016}
"""Hidden widths of the four models of the first LLaMA, by their width."""


def weights(layer: torch.nn.Module) -> int:
    """How many weights a layer has."""
    return sum(weight.numel() for weight in layer.parameters())


@checks.exercise("swiglu_hidden")
def _(swiglu_hidden):
    for width, expected in LLAMA.items():
        wrong = differ(f"swiglu_hidden({width}, 256)", swiglu_hidden(width, 256), expected)
        if wrong:
            return wrong
    for width, multiple in ((48, 8), (64, 1), (96, 32), (100, 7)):
        hidden, enough = swiglu_hidden(width, multiple), weights(MLP.Config(4 * width, bias=False).build(width))
        call = f"swiglu_hidden({width}, {multiple}) = {hidden!r}"
        if not isinstance(hidden, int) or hidden % multiple or hidden < multiple:
            return f"{call} is no multiple of {multiple}"
        if weights(SwiGLU.Config(hidden).build(width)) < enough:
            return f"{call} has fewer weights than the MLP's {enough:,}"
        if hidden > multiple and weights(SwiGLU.Config(hidden - multiple).build(width)) >= enough:
            return f"{call} is more than needed: {hidden - multiple} has as many weights as the MLP"
    return None


@checks.exercise("fold_gain")
def _(fold_gain):
    generator = torch.Generator().manual_seed(1)
    for width, outputs in ((8, 8), (6, 10), (32, 5)):
        x = torch.randn(4, width, generator=generator)
        norm, linear = RMSNorm.Config().build(width), Linear(width, outputs, bias=False)
        with torch.no_grad():
            norm.weight.copy_(torch.rand(width, generator=generator) + 0.5)
            linear.weight.copy_(torch.randn(outputs, width, generator=generator))
            expected = linear(norm(x))
            gain, weight = norm.weight.clone(), linear.weight.clone()
            linear.weight.copy_(fold_gain(gain, weight))
            norm.weight.fill_(1.0)
            wrong = differ(
                f"linear(norm(x)) after fold_gain(gain {width}, weight {outputs, width})", linear(norm(x)), expected
            )
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

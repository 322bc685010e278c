"""Checks chapter 7: python docs/path/checks/07.py my_answer.py."""

import sys

import torch
from checking import Checks, differ
from torch import nn

from penjing.training.adamw import AdamW

checks = Checks()


@checks.exercise("combine")
def _(combine):
    generator = torch.Generator().manual_seed(1)
    for sizes, clip in (([4, 4], 100.0), ([1, 7, 2], 100.0), ([5, 1], 0.1), ([3, 6, 9, 1], 0.5), ([8], 2.0)):
        data = [(torch.randn(n, 3, generator=generator), torch.randn(n, 1, generator=generator)) for n in sizes]
        layer = nn.Linear(3, 1, bias=False)
        gradients = []
        for x, y in data:
            layer.zero_grad()
            nn.functional.mse_loss(layer(x), y).backward()
            gradients.append(layer.weight.grad.clone())
        layer.zero_grad()
        nn.functional.mse_loss(layer(torch.cat([x for x, _ in data])), torch.cat([y for _, y in data])).backward()
        nn.utils.clip_grad_norm_(layer.parameters(), clip)
        call = f"combine({len(sizes)} gradients, {sizes}, {clip})"
        wrong = differ(call, combine([g.clone() for g in gradients], list(sizes), clip), layer.weight.grad)
        if wrong:
            return wrong
    return None


@checks.exercise("adamw")
def _(adamw):
    generator = torch.Generator().manual_seed(1)
    for steps, rate, decay in ((1, 1e-2, 0.0), (2, 1e-2, 0.0), (7, 1e-1, 0.1), (30, 1e-2, 0.5)):
        layer = nn.Linear(4, 3, bias=False)
        with torch.no_grad():
            layer.weight.normal_(generator=generator)
        start = layer.weight.detach().clone()
        gradients = [torch.randn(3, 4, generator=generator) * 10.0 ** (i % 3) for i in range(steps)]
        optimizer = AdamW.Config(learning_rate=rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay).build(layer)
        for gradient in gradients:
            layer.weight.grad = gradient.clone()
            optimizer.step()
        given = adamw(start.clone(), [g.clone() for g in gradients], rate, (0.9, 0.95), 1e-8, decay)
        wrong = differ(f"adamw(weight, {steps} gradients, {rate}, ...)", given, layer.weight.detach())
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

"""Checks chapter 9: python docs/path/checks/09.py my_answer.py."""

import random
import sys

import torch
from checking import Checks, differ

from penjing.inference import logits as transform

checks = Checks()


@checks.exercise("nucleus")
def _(nucleus):
    generator = torch.Generator().manual_seed(1)
    cases = [(torch.tensor([2.0, 0.0, 1.0, -1.0]), p) for p in (0.1, 0.5, 0.9, 0.99, 1.0)]
    cases += [(torch.randn(n, generator=generator) * 3, p) for n in (2, 9, 50) for p in (0.3, 0.7, 0.95)]
    for logits, p in cases:
        expected = transform.top_p(logits[None], p)[0].softmax(-1)
        call = f"nucleus(logits {tuple(logits.shape)}, {p})"
        wrong = differ(call, nucleus(logits.clone(), p), expected)
        if wrong:
            return wrong
    return None


@checks.exercise("draw")
def _(draw):
    dice, generator = random.Random(1), torch.Generator().manual_seed(1)
    for vocab in (1, 2, 5, 40):
        for temperature in (0.3, 1.0, 2.0):
            logits = torch.randn(vocab, generator=generator) * 2
            for uniform in (0.0, 0.999999, *(dice.random() for _ in range(20))):
                flat = transform.temperature(logits[None], temperature)
                expected = int(transform.draw(flat, torch.tensor([uniform], dtype=torch.float64)))
                call = f"draw({[round(x, 3) for x in logits.tolist()][:6]}, {temperature}, {uniform:.6f})"
                wrong = differ(call, int(draw(logits.clone(), temperature, uniform)), expected)
                if wrong:
                    return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

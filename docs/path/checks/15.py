"""Checks chapter 15: python docs/path/checks/15.py my_answer.py."""

import random
import sys

import torch
from checking import Checks, differ

from penjing.inference import logits as transform

checks = Checks()

PARTS = 1000


@checks.exercise("best_guesses")
def _(best_guesses):
    for a in (0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95):
        for cost in (0.01, 0.04, 0.12, 0.25, 0.6, 1.0):
            rates = [sum(a**i for i in range(k + 1)) / (1 + k * cost) for k in range(300)]
            expected = max(range(len(rates)), key=rates.__getitem__)
            wrong = differ(f"best_guesses({a}, {cost})", best_guesses(a, cost), expected)
            if wrong:
                return wrong
    return None


@checks.exercise("agreement")
def _(agreement):
    dice = random.Random(1)
    uniforms = (torch.arange(PARTS, dtype=torch.float64) + 0.5) / PARTS  # one in each part, so that counting is exact
    for vocab in (1, 2, 3, 5, 20):
        for _ in range(8):
            p, q = (_distribution(vocab, dice) for _ in range(2))
            mine, theirs = (transform.draw(x.log().expand(PARTS, -1), uniforms) for x in (p, q))
            expected = (mine == theirs).double().mean().item()
            call = f"agreement({[round(x, 3) for x in p.tolist()][:5]}, {[round(x, 3) for x in q.tolist()][:5]})"
            wrong = differ(call, float(agreement(p.clone(), q.clone())), expected)
            if wrong:
                return wrong
    return None


def _distribution(vocab: int, dice: random.Random) -> torch.Tensor:
    """Probabilities of so many tokens, some maybe 0, each a whole number of parts."""
    cuts = sorted(dice.randrange(PARTS + 1) for _ in range(vocab - 1))
    return torch.tensor([0, *cuts, PARTS]).diff().double() / PARTS


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

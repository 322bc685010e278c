"""Checks chapter 26: python docs/path/checks/26.py my_answer.py."""

import math
import sys

import torch
from checking import Checks, differ

checks = Checks()


@checks.exercise("advantages")
def _(advantages):
    generator = torch.Generator().manual_seed(26)
    rewards = [
        torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]),
        torch.tensor([[1.0, 1.0, 1.0]]),
        torch.randn(3, 2, generator=generator),
        torch.randn(2, 8, generator=generator),
    ]
    for given in rewards:
        for kind in ("dr_grpo", "rloo", "grpo"):
            rows = []
            for group in given.tolist():
                count, mean = len(group), sum(group) / len(group)
                spread = math.sqrt(sum((r - mean) ** 2 for r in group) / (count - 1))
                by = {"dr_grpo": 1.0, "rloo": (count - 1) / count, "grpo": spread + 1e-4}[kind]
                rows.append([(r - mean) / by for r in group])
            call = f'advantages of {len(given)} groups of {given.shape[1]}, "{kind}"'
            wrong = differ(call, advantages(given.clone(), kind), torch.tensor(rows), 1e-4)
            if wrong:
                return wrong
    return None


@checks.exercise("kl_gradient")
def _(kl_gradient):
    generator = torch.Generator().manual_seed(27)
    for tokens, far in ((2, 0.1), (5, 1.0), (9, 3.0)):
        logits = torch.randn(tokens, generator=generator)
        reference = (logits + far * torch.randn(tokens, generator=generator)).softmax(0)
        policy = logits.double().softmax(0)
        known = reference.double()
        ratio = (policy / known).log()
        right = {"k1": 0 * policy, "k2": policy * (ratio - (policy * ratio).sum()), "k3": policy - known}
        for name, expected in right.items():
            call = f'kl_gradient of {tokens} tokens, "{name}"'
            wrong = differ(call, kl_gradient(logits.clone(), reference.clone(), name), expected)
            if wrong:
                return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

"""Checks chapter 22: python docs/path/checks/22.py my_answer.py."""

import sys

import torch
from checking import Checks, differ, first

checks = Checks()


@checks.exercise("best_policy")
def _(best_policy):
    generator = torch.Generator().manual_seed(22)
    for prompts, answers, beta in ((1, 3, 1.0), (4, 7, 0.1), (3, 5, 10.0), (2, 6, 0.004)):
        reference = torch.randn(prompts, answers, generator=generator).softmax(-1)
        rewards = torch.randn(prompts, answers, generator=generator)
        call = f"best_policy of {prompts} x {answers}, beta {beta}"
        given = best_policy(reference.clone(), rewards.clone(), beta)
        wanted = (reference.double().log() + rewards.double() / beta).softmax(-1)
        wrong = differ(call, given, wanted, 1e-4)
        if wrong:
            return wrong
    return None


@checks.exercise("dpo")
def _(dpo):
    generator = torch.Generator().manual_seed(23)
    same = [-torch.rand(6, generator=generator) * 20 for _ in range(2)]
    wrong = differ("dpo of a policy that is the reference", float(dpo(*same, *same, 0.1)), 0.6931471805599453)
    if wrong:
        return wrong
    for pairs, beta in ((1, 0.1), (5, 0.5), (8, 2.0), (3, 100.0)):
        logs = [(-torch.rand(pairs, generator=generator) * 30).double().requires_grad_() for _ in range(4)]
        difference = (logs[0] - logs[2]) - (logs[1] - logs[3])
        expected = torch.logaddexp(torch.zeros(pairs, dtype=torch.float64), -beta * difference).mean()
        given = dpo(*logs, beta)
        call = f"dpo of {pairs} pairs, beta {beta}"
        if not isinstance(given, torch.Tensor):
            return f"{call} gives {type(given).__name__}, not a tensor"
        slopes, wanted = (torch.autograd.grad(loss, logs[:2]) for loss in (given, expected))
        wrong = first(
            differ(call, given.detach(), expected.detach()),
            differ(f"{call}: its gradient for chosen", slopes[0], wanted[0]),
            differ(f"{call}: its gradient for rejected", slopes[1], wanted[1]),
        )
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

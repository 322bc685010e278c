"""Checks chapter 25: python docs/path/checks/25.py my_answer.py."""

import sys

import torch
from checking import Checks, differ, first

checks = Checks()


@checks.exercise("advantages")
def _(advantages):
    generator = torch.Generator().manual_seed(25)
    given = advantages(torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([0.1, 0.2, 0.3, 0.4]), 1.0, 0.95)
    by_hand = torch.tensor([0.799675, 0.7365, 0.67, 0.6])
    wrong = differ("advantages of a reward at the last of four tokens", given, by_hand)
    if wrong:
        return wrong
    for tokens, gamma, lam in ((1, 1.0, 0.95), (5, 1.0, 1.0), (6, 1.0, 0.0), (9, 0.9, 0.5)):
        rewards, values = (torch.randn(tokens, generator=generator) for _ in range(2))
        after = [*values.tolist()[1:], 0.0]
        delta = [r + gamma * v - own for r, v, own in zip(rewards.tolist(), after, values.tolist(), strict=True)]
        expected = torch.tensor(
            [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, tokens)) for t in range(tokens)]
        )
        call = f"advantages of {tokens} tokens, gamma {gamma}, lambda {lam}"
        wrong = differ(call, advantages(rewards.clone(), values.clone(), gamma, lam), expected)
        if wrong:
            return wrong
    return None


@checks.exercise("policy_loss")
def _(policy_loss):
    generator = torch.Generator().manual_seed(26)
    for tokens, clip, far in ((4, 0.2, 0.0), (7, 0.2, 0.5), (12, 0.1, 1.0), (9, 0.3, 2.0)):
        old = -torch.rand(tokens, generator=generator).double() * 3
        new = (old + far * torch.randn(tokens, generator=generator)).requires_grad_()
        gains = torch.randn(tokens, generator=generator).double()
        ratio = (new - old).exp()
        stopped = ((ratio > 1 + clip) & (gains > 0)) | ((ratio < 1 - clip) & (gains < 0))
        bound = torch.where(gains > 0, torch.tensor(1 + clip).double(), torch.tensor(1 - clip).double())
        expected = torch.where(stopped, -gains * bound, -gains * ratio).mean()
        call = f"policy_loss of {tokens} tokens, clip {clip}"
        given = policy_loss(new, old, gains, clip)
        if not isinstance(given, torch.Tensor):
            return f"{call} gives {type(given).__name__}, not a tensor"
        slope, wanted = (torch.autograd.grad(loss, [new])[0] for loss in (given, expected))
        wrong = first(differ(call, given.detach(), expected.detach()), differ(f"{call}: its gradient", slope, wanted))
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

"""Answers to chapter 15: ours."""

import torch


def best_guesses(a, cost):
    def rate(guesses):
        return (1 - a ** (guesses + 1)) / (1 - a) / (1 + guesses * cost)

    guesses = 0
    while rate(guesses + 1) > rate(guesses):
        guesses += 1
    return guesses


def agreement(p, q):
    last = torch.minimum(p.cumsum(0), q.cumsum(0))
    first = torch.maximum(p.cumsum(0) - p, q.cumsum(0) - q)
    return (last - first).clamp(min=0).sum().item()

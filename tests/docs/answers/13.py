"""Answers to chapter 13: ours."""

import torch


def from_pairs(weight, heads, rotated):
    rows = weight.unflatten(0, (heads, -1))  # (heads, head_dim, width)
    pairs, rest = rows[:, :rotated], rows[:, rotated:]
    return torch.cat([pairs[:, 0::2], pairs[:, 1::2], rest], dim=1).flatten(0, 1)


def reach(windows):
    return None if None in windows else 1 + sum(window - 1 for window in windows)

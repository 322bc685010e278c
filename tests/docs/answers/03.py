"""Answers to chapter 3: ours."""

import torch

from penjing.nn.rope import frequencies, ntk_theta  # noqa: F401


def score(query, key, distance, theta):
    angles = distance * frequencies(theta, len(query))
    real, imaginary = query.chunk(2)
    their_real, their_imaginary = key.chunk(2)
    together = real * their_real + imaginary * their_imaginary
    crossed = real * their_imaginary - imaginary * their_real
    return (together * torch.cos(angles) + crossed * torch.sin(angles)).sum()

"""Answers to chapter 7: ours."""

import torch

from penjing.training.adamw import AdamW, adamw_reference


def combine(gradients, tokens, clip):
    mean = sum(gradient * count for gradient, count in zip(gradients, tokens, strict=True)) / sum(tokens)
    return mean * min(1.0, clip / mean.norm().item())


def adamw(weight, gradients, learning_rate, betas, eps, weight_decay):
    config = AdamW.Config(betas=betas, eps=eps, weight_decay=weight_decay)
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        adamw_reference(weight, gradient, mean, square, step, learning_rate=learning_rate, config=config)
    return weight

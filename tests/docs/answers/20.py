"""Answers to chapter 20: ours."""

import torch


def idle(stages, micro_batches):
    return (stages - 1) / (micro_batches + stages - 1)


def merge(out_1, lse_1, out_2, lse_2):
    lse = torch.logaddexp(lse_1, lse_2)
    out = (lse_1 - lse).exp()[..., None] * out_1 + (lse_2 - lse).exp()[..., None] * out_2
    return out, lse

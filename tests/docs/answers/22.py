"""Answers to chapter 22: ours."""

import torch

from penjing.alignment.preference import DPO, Pairs


def best_policy(reference, rewards, beta):
    return (reference.log() + rewards / beta).softmax(dim=-1)


def dpo(chosen, rejected, reference_chosen, reference_rejected, beta):
    length = torch.ones_like(chosen)
    pairs = Pairs(chosen, rejected, reference_chosen, reference_rejected, length, length)
    return DPO(beta=beta).losses(pairs).mean()

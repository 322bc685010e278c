"""Answers to chapter 8: ours."""

import torch

from penjing.training.muon import orthogonalize


def newton_schulz(matrix, iterations):
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.mT if tall else matrix
    near = orthogonalize(wide[None], iterations)[0]
    return near.mT if tall else near


def steepest(gradient):
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    return left @ right

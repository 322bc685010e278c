"""Checks chapter 8: python docs/path/checks/08.py my_answer.py."""

import sys

import torch
from checking import Checks, differ

from penjing.training.muon import orthogonalize

checks = Checks()


@checks.exercise("newton_schulz")
def _(newton_schulz):
    generator = torch.Generator().manual_seed(1)
    for rows, columns, iterations in ((4, 4, 1), (3, 8, 2), (8, 3, 2), (16, 16, 5), (20, 7, 5), (1, 9, 5)):
        matrix = torch.randn(rows, columns, generator=generator)
        wide = matrix if rows <= columns else matrix.mT
        ours = orthogonalize(wide[None], iterations)[0]
        expected = ours if rows <= columns else ours.mT
        call = f"newton_schulz(matrix {rows, columns}, {iterations})"
        wrong = differ(call, newton_schulz(matrix.clone(), iterations), expected, tolerance=1e-4)
        if wrong:
            return wrong
    return None


@checks.exercise("steepest")
def _(steepest):
    generator = torch.Generator().manual_seed(1)
    for rows, columns in ((3, 3), (5, 2), (2, 7), (12, 12)):
        gradient = torch.randn(rows, columns, generator=generator)
        given = steepest(gradient.clone())
        call = f"steepest(gradient {rows, columns})"
        if not isinstance(given, torch.Tensor) or given.shape != gradient.shape:
            return f"{call} is not a tensor of the shape {rows, columns}"
        size = torch.linalg.matrix_norm(given, 2)
        if size > 1 + 1e-4:
            return f"{call} has a singular value of {size:.4g}, which is more than 1"
        reached, most = (given * gradient).sum(), torch.linalg.matrix_norm(gradient, "nuc")
        wrong = differ(f"sum({call} * gradient)", reached.item(), most.item(), 1e-4)
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

"""Checks chapter 24: python docs/path/checks/24.py my_answer.py."""

import sys

import torch
from checking import Checks, differ, first

checks = Checks()


@checks.exercise("ranking_loss")
def _(ranking_loss):
    generator = torch.Generator().manual_seed(24)
    equal = ranking_loss(torch.zeros(4), torch.tensor([3.0, 1.0, 2.0, 0.0]))
    wrong = differ("ranking_loss of equal scores", float(equal), 0.6931471805599453)
    if wrong:
        return wrong
    for ranks in ([1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 1.0, 0.0, 2.0], [0.0, 5.0, 5.0, 5.0, 1.0, 0.0]):
        scores = (4 * torch.randn(len(ranks), generator=generator).double()).requires_grad_()
        found, pairs = torch.zeros((), dtype=torch.float64), 0
        for a, higher in enumerate(ranks):
            for b, lower in enumerate(ranks):
                if higher > lower:
                    found = found + torch.log1p(torch.exp(scores[b] - scores[a]))
                    pairs += 1
        call = f"ranking_loss of the ranks {ranks}"
        given = ranking_loss(scores, torch.tensor(ranks))
        if not isinstance(given, torch.Tensor):
            return f"{call} gives {type(given).__name__}, not a tensor"
        (slope,), (wanted,) = (torch.autograd.grad(loss, [scores]) for loss in (given, found / pairs))
        wrong = first(
            differ(call, given.detach(), found.detach() / pairs), differ(f"{call}: its gradient", slope, wanted)
        )
        if wrong:
            return wrong
    return None


@checks.exercise("calibration_error")
def _(calibration_error):
    generator = torch.Generator().manual_seed(25)
    two = torch.tensor([0.0, 100.0])
    wrong = differ(
        "calibration_error of one pair of equal scores and one that is certain", calibration_error(two, 10), 0.0
    )
    if wrong:
        return wrong
    for pairs, bins, spread in ((1, 10, 1.0), (40, 5, 1.0), (200, 10, 3.0), (300, 1, 0.5)):
        gaps = spread * (torch.randn(pairs, generator=generator) + 0.5)
        sums = [[0, 0.0, 0.0] for _ in range(bins)]
        for gap in gaps.double().tolist():
            sure = 1 / (1 + 2.718281828459045 ** -abs(gap))
            own = sums[min(int((sure - 0.5) * 2 * bins), bins - 1)]
            own[0], own[1], own[2] = own[0] + 1, own[1] + sure, own[2] + (gap > 0)
        expected = sum(abs(said - true) for _, said, true in sums) / pairs
        wrong = differ(
            f"calibration_error of {pairs} pairs in {bins} bins", calibration_error(gaps.clone(), bins), expected
        )
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

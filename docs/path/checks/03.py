"""Checks chapter 3: python docs/path/checks/03.py my_answer.py."""

import sys

import torch
from checking import Checks, differ

from penjing.nn import rope

checks = Checks()


@checks.exercise("score")
def _(score):
    generator = torch.Generator().manual_seed(1)
    for dim, theta in ((2, 100.0), (8, 10_000.0), (64, 500_000.0)):
        turn = rope.Rope.Config(theta).build(dim)
        for distance in (0, 1, 7, 100):
            query, key = torch.randn(2, dim, generator=generator)
            given = torch.as_tensor(score(query, key, distance, theta))
            for start in (0, 3, 50):  # whatever the positions are: the distance alone decides
                cos, sin = turn(torch.tensor([[start, start + distance]]), torch.float32)
                turned = rope.rotate(torch.stack([key, query])[None, :, None], cos, sin)[0, :, 0]
                call = f"score(query {dim}, key {dim}, distance={distance}, theta={theta:g})"
                wrong = differ(call, given, turned[1] @ turned[0], 1e-4)
                if wrong:
                    return wrong
    return None


@checks.exercise("ntk_theta")
def _(ntk_theta):
    for theta, dim, factor in ((10_000.0, 64, 4.0), (10_000.0, 128, 8.0), (500_000.0, 32, 1.0), (100.0, 4, 2.5)):
        call = f"ntk_theta({theta:g}, {dim}, {factor:g})"
        wrong = differ(call, float(ntk_theta(theta, dim, factor)), float(rope.ntk_theta(theta, dim, factor)), 1e-9)
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

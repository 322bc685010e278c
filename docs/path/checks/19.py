"""Checks chapter 19: python docs/path/checks/19.py my_answer.py."""

import sys

import numpy as np
from checking import Checks, differ, first

from penjing.training.scaling_laws import Chinchilla, Points, isoflop

checks = Checks()


@checks.exercise("best_split")
def _(best_split):
    for constants in ((406.4, 410.7, 0.34, 0.28), (477.8, 2143.4, 0.3473, 0.3672), (100.0, 100.0, 0.5, 0.5)):
        for flops in (6e18, 1e21, 5.76e23):
            A, B, alpha, beta = constants
            expected = Chinchilla(1.7, A, B, alpha, beta).optimum(flops)
            given = best_split(*constants, flops)
            call = f"best_split({', '.join(map(str, constants))}, {flops:g})"
            if not isinstance(given, tuple) or len(given) != 2:
                return f"{call} is {given!r}, not a pair (parameters, tokens)"
            wrong = first(
                *(
                    differ(f"log of {call}[{i}]", float(np.log(mine)), float(np.log(right)))
                    for i, (mine, right) in enumerate(zip(given, expected, strict=True))
                )
            )
            if wrong:
                return wrong
    return None


@checks.exercise("valley")
def _(valley):
    law = Chinchilla(E=1.7, A=400, B=400, alpha=0.3, beta=0.3)
    for flops, shift in ((1e19, 1.0), (1e21, 1.7), (1e22, 0.4)):
        sizes = law.optimum(flops)[0] * shift * np.geomspace(0.1, 10, 7)
        losses = law.loss(sizes, flops / (6 * sizes))
        # ours wants two budgets for its line; the second one is the first, ten times as dear
        both = Points.of(
            np.append(sizes, sizes), np.append(flops / (6 * sizes), flops / (0.6 * sizes)), np.append(losses, losses)
        )
        expected = float(np.log(isoflop(both).found[0].parameters))
        given = valley([float(n) for n in sizes], [float(loss) for loss in losses])
        call = f"log of valley({len(sizes)} sizes from {sizes[0]:.3g}, their losses)"
        wrong = differ(call, float(np.log(given)), expected)
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))

"""Which size is best for a budget of compute, read off finished runs without a formula for the loss.

Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022, arXiv:2203.15556:

1. **Envelope** (section 3.1): of all runs (and all moments of their training) that spent about C, the one of least
   loss.
2. **IsoFLOP** (section 3.2): among runs that spent the same C, the loss is a parabola in log N; its lowest point is
   best.

Either gives pairs (C, N); a line through their logarithms is the power law  N = k C^a,  D = C / (6 N).
Parabolas are a little biased where the two sides of the valley are not alike (arXiv:2603.22339), so the third approach,
`parametric`, is the one to extrapolate with.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from penjing.errors import DataError
from penjing.training.scaling_laws.points import FLOPS_PER_WEIGHT, Points

_SAME_BUDGET = 1.25
"""Runs within this factor of one another, taken in order, spent the same."""


@dataclass(frozen=True)
class Best:
    """The best size for one budget."""

    flops: float
    parameters: float
    loss: float
    runs: int
    """How many runs say so."""


@dataclass(frozen=True)
class PowerLaw:
    """N = k C^a, through the best sizes of several budgets."""

    exponent: float
    log_k: float
    found: tuple[Best, ...]
    """What the line goes through."""
    left_out: tuple[float, ...] = ()
    """Budgets whose runs show no lowest point among them."""

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens for a budget."""
        parameters = float(np.exp(self.log_k + self.exponent * np.log(flops)))
        return parameters, flops / (FLOPS_PER_WEIGHT * parameters)


def envelope(points: Points, bins_per_decade: int = 4) -> PowerLaw:
    """Approach 1: the run of least loss in each bin of compute; bins that a still cheaper run beats are passed over.

    Raises:
        DataError: the runs spent too much alike for a line.
    """
    position = np.floor(np.log10(points.flops) * bins_per_decade).astype(int)
    found: list[Best] = []
    for bin_ in np.unique(position):
        members = np.flatnonzero(position == bin_)
        best = members[np.argmin(points.loss[members])]
        if not found or points.loss[best] < found[-1].loss:
            found.append(
                Best(float(points.flops[best]), float(points.parameters[best]), float(points.loss[best]), len(members))
            )
    return _line(found, ())


def isoflop(points: Points) -> PowerLaw:
    """Approach 2: the lowest point of a parabola through the runs of each budget.

    A budget counts if it has three sizes or more, and its parabola a lowest point between the smallest and the largest.

    Raises:
        DataError: fewer than two budgets count.
    """
    found, left_out = [], []
    for members in budgets(points):
        n, loss = np.log(points.parameters[members]), points.loss[members]
        flops = float(np.exp(np.log(points.flops[members]).mean()))
        lowest = _lowest(n, loss)
        if lowest is None:
            left_out.append(flops)
        else:
            found.append(Best(flops, float(np.exp(lowest[0])), lowest[1], len(members)))
    return _line(found, tuple(left_out))


def budgets(points: Points) -> list[np.ndarray]:
    """Runs that spent the same, as arrays of indices, the cheapest first."""
    order = np.argsort(points.flops, kind="stable")
    steps = np.diff(np.log(points.flops[order])) > np.log(_SAME_BUDGET)
    return np.split(order, np.flatnonzero(steps) + 1)


def _lowest(n: Float[np.ndarray, " runs"], loss: Float[np.ndarray, " runs"]) -> tuple[float, float] | None:
    """Where the parabola through the runs is lowest and how low; None where the runs do not show it."""
    if len(np.unique(n)) < 3:
        return None
    centre = n.mean()
    a, b, c = np.polynomial.polynomial.polyfit(n - centre, loss, 2)
    if c <= 0:
        return None
    lowest = -b / (2 * c) + centre
    if not n.min() <= lowest <= n.max():
        return None
    return float(lowest), float(a - b**2 / (4 * c))


def _line(found: list[Best], left_out: tuple[float, ...]) -> PowerLaw:
    if len({best.flops for best in found}) < 2:
        raise DataError(
            f"only {len(found)} budgets of compute show a best size; "
            "a line needs two, each with runs of three sizes or more"
        )
    c, n = np.log([best.flops for best in found]), np.log([best.parameters for best in found])
    log_k, exponent = np.polynomial.polynomial.polyfit(c, n, 1)
    return PowerLaw(float(exponent), float(log_k), tuple(found), left_out)

"""How loss depends on parameters and tokens, as a formula with few constants, fitted to finished runs.

Chinchilla's law (Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022, arXiv:2203.15556, 3.3):

    L(N, D) = E + A / N^alpha + B / D^beta

E is what even a perfect model pays, the other two terms what a finite model and a finite text cost. Spending C = 6 N D
operations, the loss is least at

    N = G (C / 6)^(beta / (alpha + beta))     D = (C / 6)^(alpha / (alpha + beta)) / G
    G = (alpha A / (beta B))^(1 / (alpha + beta))

Kaplan's law (Kaplan et al., "Scaling Laws for Neural Language Models", 2020, arXiv:2001.08361, equation 1.5) has no E,
and its terms are added inside a power:  L(N, D) = [(N_c / N)^(alpha_N / alpha_D) + D_c / D]^alpha_D

Both are fitted by least Huber loss between log L and log of the formula, so that a factor counts the same everywhere
and a few odd runs count little. Two traps (Besiroglu et al., "Chinchilla Scaling: A replication attempt", 2024,
arXiv:2404.10102): the objective must be scaled up, or an optimizer stops early because its values are tiny; and many
starts are needed. Here sizes are centred as well, which takes the strong correlation of A with alpha out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from jaxtyping import Float

from penjing.errors import DataError
from penjing.training.scaling_laws.points import FLOPS_PER_WEIGHT, Points

DELTA = 1e-3
"""Beyond this difference of logarithms a run's error counts linearly."""
_FLAT = 1e-3
"""A power below this is none."""
_STARTS = 12
"""How many of the grid's points the optimizer begins from: the best ones."""

Values = Float[np.ndarray, " runs"]
Constants = Float[np.ndarray, " constants"]


@dataclass(frozen=True)
class Chinchilla:
    """L = E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    NAMES: ClassVar[tuple[str, ...]] = ("E", "A", "B", "alpha", "beta")
    BOUNDS: ClassVar[tuple[tuple[float, float], ...]] = ((-30, 10), (-30, 10), (-30, 10), (0, 3), (0, 3))
    """Of the constants as the optimizer sees them: runs of two sizes would else be met by a power of a hundred."""

    def loss(self, parameters: Any, tokens: Any) -> Any:
        """Nats a token; arrays or numbers."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    @property
    def exponent(self) -> float:
        """How fast the best number of parameters grows with compute: N ~ C^exponent."""
        return self.beta / (self.alpha + self.beta)

    def optimum(self, flops: Any) -> tuple[Any, Any]:
        """The parameters and the tokens on which to spend so many operations; arrays or numbers."""
        total = self.alpha + self.beta
        log_g = (np.log(self.alpha * self.A) - np.log(self.beta * self.B)) / total
        budget = np.log(np.asarray(flops, np.float64) / FLOPS_PER_WEIGHT)
        with np.errstate(over="ignore"):  # the powers of a law that is almost flat are beyond all numbers
            return np.exp(log_g + budget * self.beta / total), np.exp(budget * self.alpha / total - log_g)

    @classmethod
    def from_raw(cls, raw: Constants, n: float, d: float) -> "Chinchilla":
        """Undoes the centring."""
        a, b, e, alpha, beta = (float(x) for x in raw)
        return cls(float(np.exp(e)), float(np.exp(a + alpha * n)), float(np.exp(b + beta * d)), alpha, beta)

    def raw(self, n: float, d: float) -> Constants:
        """a, b and e are logarithms of the terms at the centre."""
        a, b = np.log(self.A) - self.alpha * n, np.log(self.B) - self.beta * d
        return np.array([a, b, np.log(self.E), self.alpha, self.beta])

    @staticmethod
    def predict(raw: Constants, n: Values, d: Values) -> tuple[Values, Float[np.ndarray, "constants runs"]]:
        """The log of the sum of the three terms; each term's share is the derivative by its logarithm."""
        a, b, e, alpha, beta = raw
        terms = np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)])
        total = np.logaddexp.reduce(terms, axis=0)
        share = np.exp(terms - total)
        return total, np.stack([share[0], share[1], share[2], -share[0] * n, -share[1] * d])

    @staticmethod
    def grid(log_loss: Values) -> list[tuple[float, ...]]:
        """Terms of all sizes relative to the loss, powers from flat to steep."""
        low = float(log_loss.min())
        below, powers = (-4.0, -2.0, -0.7), (0.05, 0.2, 0.35, 0.6, 1.0)
        levels = [low - x for x in (0.05, 0.3, 1.0)]
        return [
            (low + a, low + b, e, alpha, beta)
            for a in below for b in below for e in levels for alpha in powers for beta in powers
        ]  # fmt: skip


@dataclass(frozen=True)
class Kaplan:
    """L = [(N_c / N)^(alpha_N / alpha_D) + D_c / D]^alpha_D."""

    N_c: float
    D_c: float
    alpha_N: float
    alpha_D: float

    NAMES: ClassVar[tuple[str, ...]] = ("N_c", "D_c", "alpha_N", "alpha_D")
    BOUNDS: ClassVar[tuple[tuple[float, float], ...]] = ((-50, 100), (-50, 100), (1e-4, 3), (1e-4, 3))
    """Of the constants as the optimizer sees them."""

    def loss(self, parameters: Any, tokens: Any) -> Any:
        """Nats a token; arrays or numbers."""
        return ((self.N_c / parameters) ** (self.alpha_N / self.alpha_D) + self.D_c / tokens) ** self.alpha_D

    @classmethod
    def from_raw(cls, raw: Constants, n: float, d: float) -> "Kaplan":
        """Undoes the centring."""
        nc, dc, alpha_n, alpha_d = (float(x) for x in raw)
        return cls(float(np.exp(nc + n)), float(np.exp(dc + d)), alpha_n, alpha_d)

    def raw(self, n: float, d: float) -> Constants:
        """The critical sizes are logarithms about the centre."""
        return np.array([np.log(self.N_c) - n, np.log(self.D_c) - d, self.alpha_N, self.alpha_D])

    @staticmethod
    def predict(raw: Constants, n: Values, d: Values) -> tuple[Values, Float[np.ndarray, "constants runs"]]:
        """alpha_D times the log of the sum."""
        nc, dc, alpha_n, alpha_d = raw
        ratio = alpha_n / alpha_d
        terms = np.stack([ratio * (nc - n), dc - d])
        total = np.logaddexp.reduce(terms, axis=0)
        share = np.exp(terms - total)
        by_alpha_d = total - share[0] * ratio * (nc - n)
        return alpha_d * total, np.stack([alpha_n * share[0], alpha_d * share[1], share[0] * (nc - n), by_alpha_d])

    @staticmethod
    def grid(log_loss: Values) -> list[tuple[float, ...]]:
        """The critical sizes are far above the runs' own; powers from flat to steep."""
        far, powers = (0.0, 5.0, 12.0, 20.0), (0.05, 0.1, 0.2, 0.4)
        return [(nc, dc, an, ad) for nc in far for dc in far for an in powers for ad in powers]


L = TypeVar("L", Chinchilla, Kaplan)


@dataclass(frozen=True)
class Fit(Generic[L]):
    """A fitted law."""

    law: L
    objective: float
    """The sum of Huber losses of the logarithms, unscaled."""
    runs: int
    """How many runs it was fitted to."""


def fit(points: Points, law: type[L], *, delta: float = DELTA, start: L | None = None) -> Fit[L]:
    """The law nearest to the points.

    Args:
        points: finished runs, at least two more than the law has constants, of several sizes and lengths.
        law: `Chinchilla` or `Kaplan`.
        delta: where the Huber loss turns from squares to absolute values, in nats of log loss.
        start: constants to begin from, instead of a grid; for points that differ little from those that they fit.

    Raises:
        DataError: too few runs, or all of one size or length; loss does not fall with them; or no start led anywhere.
    """
    from scipy.optimize import minimize

    _refuse_poor(points, law)
    n, d, target = np.log(points.parameters), np.log(points.tokens), np.log(points.loss)
    centre = float(n.mean()), float(d.mean())
    n, d = n - centre[0], d - centre[1]
    scale = 1 / delta**2

    def objective(raw: Constants) -> tuple[float, Constants]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            predicted, derivatives = law.predict(raw, n, d)
            residual = predicted - target
            value = scale * huber(residual, delta).sum()
            slope = scale * derivatives @ np.clip(residual, -delta, delta)
        return (float(value), slope) if np.isfinite(value) and np.isfinite(slope).all() else (1e30, np.zeros_like(raw))

    starts = [start.raw(*centre)] if start else _best(objective, law.grid(target))
    found = [
        minimize(objective, raw, jac=True, method="L-BFGS-B", bounds=law.BOUNDS, options=_OPTIONS) for raw in starts
    ]
    best = min(found, key=lambda result: float(result.fun))
    if not best.fun < 1e30:
        raise DataError(f"no {law.__name__} law fits these {len(points)} runs")
    found_law = law.from_raw(best.x, *centre)
    _refuse_flat(found_law, len(points))
    return Fit(found_law, float(best.fun) / scale, len(points))


_OPTIONS = {"maxiter": 2000, "maxfun": 10_000, "ftol": 1e-13, "gtol": 1e-9}


def huber(residual: Values, delta: float) -> Values:
    """Half the square up to `delta`, from there on linear (Huber, 1964)."""
    size = np.abs(residual)
    return np.where(size <= delta, residual**2 / 2, delta * (size - delta / 2))


def bootstrap(
    points: Points, fitted: Fit[L], *, resamples: int = 200, seed: int = 0, delta: float = DELTA,
    progress: Callable[[int, int], None] | None = None,
) -> list[L]:  # fmt: skip
    """Laws fitted to runs drawn again with replacement (Efron, 1979): how far another dozen runs might have led.

    Draws that cannot be fitted, such as runs all of one size, are drawn again.
    """
    random = np.random.default_rng(seed)
    laws: list[L] = []
    failed = 0
    while len(laws) < resamples:
        drawn = points.take(random.integers(0, len(points), len(points)))
        try:
            laws.append(fit(drawn, type(fitted.law), delta=delta, start=fitted.law).law)
        except DataError:
            failed += 1
            if failed > 10 * resamples:
                raise
        if progress is not None:
            progress(len(laws), resamples)
    return laws


def interval(values: Any, level: float = 0.95) -> tuple[float, float]:
    """The middle part of resampled values."""
    low, high = np.quantile(np.asarray(values, np.float64), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def huber_sum(law: Chinchilla | Kaplan, points: Points, delta: float = DELTA) -> float:
    """How far the points are from a law: the sum that `fit` makes least."""
    residual = np.log(law.loss(points.parameters, points.tokens)) - np.log(points.loss)
    return float(huber(residual, delta).sum())


def _best(objective: Callable[[Constants], tuple[float, Constants]], grid: list[tuple[float, ...]]) -> list[Constants]:
    starts = [np.array(raw) for raw in grid]
    return sorted(starts, key=lambda raw: objective(raw)[0])[:_STARTS]


def _refuse_poor(points: Points, law: type[Chinchilla] | type[Kaplan]) -> None:
    least = len(law.NAMES) + 2
    if len(points) < least:
        raise DataError(
            f"{law.__name__}'s {len(law.NAMES)} constants need {least} runs or more; there are {len(points)}"
        )
    for name, values in (("number of parameters", points.parameters), ("number of tokens", points.tokens)):
        if len(np.unique(values)) < 2:
            raise DataError(f"all runs have the same {name}; a law needs several")


def _refuse_flat(law: Chinchilla | Kaplan, runs: int) -> None:
    """A law without a slope has no best size."""
    if isinstance(law, Chinchilla):
        for power, what in ((law.alpha, "parameters"), (law.beta, "tokens")):
            if power < _FLAT:
                raise DataError(f"the loss of these {runs} runs does not fall with more {what}: no law follows")

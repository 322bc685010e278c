r"""Estimators of a Kullback-Leibler divergence from samples: what each token's two log-probabilities say of it.

With tokens drawn from p and the log-ratio d = log p - log q of each, KL(p, q) = E[d] is estimated by the mean of

    k1 = d                       unbiased, often negative, of large variance
    k2 = d^2 / 2                 biased, never negative
    k3 = exp(-d) - 1 + d         unbiased and never negative

As a *loss* they differ more than as estimates: the expected gradient of k1 is 0 on policy, that of k2 is the
divergence's own, that of k3 is the reverse divergence's, which is the same to first order near d = 0.

Source: Schulman, "Approximating KL Divergence", 2020, joschu.net/blog/kl-approx.html; Tang, Munos, "On a few pitfalls
in KL divergence gradient estimation for RL", 2025, arXiv:2506.09477 (gradients).
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def k1(log_ratio: Tensor) -> Tensor:
    """The log-ratio itself."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """Half its square."""
    return log_ratio.square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """What `exp(-d)` is above its tangent at 0."""
    return (-log_ratio).expm1() + log_ratio


ESTIMATORS: dict[Estimator, Callable[[Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}

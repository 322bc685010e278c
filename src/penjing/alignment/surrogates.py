"""Surrogates: what is minimized at a drawn token, of its advantage A and the ratio w = p_new / p_old.

    Clip    -min(w A, clip(w, 1 - low, 1 + high) A)     no gain from going further than the bounds; PPO's
    Cispo   -min(w, 1 + high) A log p_new               the weight alone is bounded, so every token keeps its gradient
    Sapo    -sigmoid(t (w - 1)) (4 / t) A               a soft bound; t is larger, so narrower, where A < 0
    Vespo   -w^k exp(l (1 - w)) A log p_new             the weight falls smoothly on both sides of w = 1

The weights of Cispo and Vespo have no gradient. Whether w is a token's own ratio or its answer's, `GRPO.ratio` says.

Sources: Schulman et al., "Proximal Policy Optimization Algorithms", 2017, arXiv:1707.06347, equation 7; MiniMax,
"MiniMax-M1", 2025, arXiv:2506.13585, equation 4 (CISPO); "Soft Adaptive Policy Optimization", 2025, arXiv:2511.20347
(SAPO); arXiv:2602.10693 (VESPO). All equal trl's GRPOTrainer.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from penjing.errors import ConfigError

Tokens = Float[Tensor, " counted"]


@dataclass(frozen=True)
class Clip:
    """PPO's.

    Raises:
        ConfigError: a bound is negative, or `low` above 1.
    """

    low: float = 0.2
    high: float = 0.2
    """Above `low`, a token that was rare may become likely ("clip higher")."""

    def __post_init__(self) -> None:
        if not (0 <= self.low <= 1 and self.high >= 0):
            raise ConfigError(f"a ratio cannot be clipped to 1 - {self.low} and 1 + {self.high}")

    def __call__(self, log_ratio: Tokens, advantages: Tokens, log_probs: Tokens) -> Tokens:
        """The loss at each token."""
        ratio = log_ratio.exp()
        return -torch.minimum(ratio * advantages, ratio.clamp(1 - self.low, 1 + self.high) * advantages)

    def cut(self, log_ratio: Tokens, advantages: Tokens) -> Bool[Tensor, " counted"]:
        """Which tokens have no gradient, or a bounded weight."""
        ratio = log_ratio.exp()
        return ((ratio > 1 + self.high) & (advantages > 0)) | ((ratio < 1 - self.low) & (advantages < 0))


@dataclass(frozen=True)
class Cispo:
    """MiniMax's.

    Raises:
        ConfigError: the bound is negative.
    """

    high: float = 4.0

    def __post_init__(self) -> None:
        if self.high < 0:
            raise ConfigError(f"a weight cannot be bounded by 1 + {self.high}")

    def __call__(self, log_ratio: Tokens, advantages: Tokens, log_probs: Tokens) -> Tokens:
        """The loss at each token."""
        return -log_ratio.detach().exp().clamp(max=1 + self.high) * advantages * log_probs

    def cut(self, log_ratio: Tokens, advantages: Tokens) -> Bool[Tensor, " counted"]:
        """Which tokens have a bounded weight."""
        return (log_ratio.exp() > 1 + self.high) & (advantages > 0)


@dataclass(frozen=True)
class Sapo:
    """Soft Adaptive Policy Optimization's.

    Raises:
        ConfigError: a steepness is not above 0.
    """

    positive: float = 1.0
    """How steep the bound is where the advantage is positive."""
    negative: float = 1.05

    def __post_init__(self) -> None:
        if min(self.positive, self.negative) <= 0:
            raise ConfigError(f"{self.positive} and {self.negative} must both be above 0")

    def __call__(self, log_ratio: Tokens, advantages: Tokens, log_probs: Tokens) -> Tokens:
        """The loss at each token."""
        steep = torch.where(advantages > 0, self.positive, self.negative)
        return -(steep * (log_ratio.exp() - 1)).sigmoid() * 4 / steep * advantages

    def cut(self, log_ratio: Tokens, advantages: Tokens) -> Bool[Tensor, " counted"]:
        """None: the bound is soft."""
        return torch.zeros_like(log_ratio, dtype=torch.bool)


@dataclass(frozen=True)
class Vespo:
    """VESPO's, for `ratio="product"`."""

    positive: tuple[float, float] = (2.0, 3.0)
    """k and l where the advantage is not negative."""
    negative: tuple[float, float] = (3.0, 2.0)

    LEAST: ClassVar[float] = math.log(1e-8)
    MOST: ClassVar[float] = 20.0

    def __call__(self, log_ratio: Tokens, advantages: Tokens, log_probs: Tokens) -> Tokens:
        """The loss at each token."""
        bounded = log_ratio.detach().clamp(self.LEAST, self.MOST)
        k, steep = (
            torch.where(advantages >= 0, above, below)
            for above, below in zip(self.positive, self.negative, strict=True)
        )
        return -(steep + k * bounded - steep * bounded.exp()).exp() * advantages * log_probs

    def cut(self, log_ratio: Tokens, advantages: Tokens) -> Bool[Tensor, " counted"]:
        """None: the bound is soft."""
        return torch.zeros_like(log_ratio, dtype=torch.bool)


Surrogate = Clip | Cispo | Sapo | Vespo

"""From a scaling law to a plan for a run: size, text, learning rate, batch, time and cost, each as sure as the law is.

The size and the length that are best for a budget come from the law (`Chinchilla.optimum`); intervals come from laws
that might as well have been fitted. Learning rate and batch come from two published power laws, of AdamW:

    Step Law   lr = 1.79 N^-0.713 D^0.307          B = 0.58 D^0.571 tokens        N without embeddings
    DeepSeek   lr = 0.3118 C^-0.1250               B = 0.2920 C^0.3271 tokens

Sources: Li et al., "Predictable Scale: Part I, Step Law", 2025, arXiv:2503.04715, equation 1; DeepSeek-AI, "DeepSeek
LLM", 2024, arXiv:2401.02954, section 3.1. Loss depends little on the shape (Kaplan et al., 2020, arXiv:2001.08361,
section 3.1), so a usual one is named: 64 times as wide as deep.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penjing.errors import ConfigError
from penjing.training.scaling_laws.parametric import Chinchilla, interval

_LEAST, _MOST = 1e9, 1e36
"""Budgets for which a plan makes sense."""
_ASPECT = 64
"""Width for each layer."""
_CENTRE = (20.559283, 23.553231)
"""Means of log N and log D of the 240 runs that `published` is fitted to."""
_FITTED = (-0.97120832, -0.97794052, 0.59730681, 0.34731050, 0.36717243)
"""The fit about that centre, as `Chinchilla.raw` has it; its terms are known far better there than A and B are."""
_COVARIANCE = (
    (3.0335e-3, -1.4057e-3, -3.6076e-4, -7.7218e-4, 4.0066e-4),
    (-1.4057e-3, 4.7039e-3, -6.2016e-4, 3.0154e-4, -1.4847e-3),
    (-3.6076e-4, -6.2016e-4, 1.9715e-4, 1.0273e-4, 2.0311e-4),
    (-7.7218e-4, 3.0154e-4, 1.0273e-4, 2.0185e-4, -8.6999e-5),
    (4.0066e-4, -1.4847e-3, 2.0311e-4, -8.6999e-5, 4.7899e-4),
)
"""Of 300 bootstrap fits."""


@dataclass(frozen=True)
class Machine:
    """What the run will run on."""

    flops_per_second: float
    """The peak of one device."""
    utilisation: float = 0.4
    """The share of the peak that training reaches (MFU)."""
    devices: int = 1
    price: float | None = None
    """What a device costs an hour, in any currency."""

    def __post_init__(self) -> None:
        if not 0 < self.flops_per_second < math.inf or self.devices < 1 or not 0 < self.utilisation <= 1:
            raise ConfigError(
                f"a machine has a speed above 0, a utilisation of at most 1 and at least one device; this one has "
                f"{self.flops_per_second:g}, {self.utilisation:g} and {self.devices}"
            )
        if self.price is not None and not 0 <= self.price < math.inf:
            raise ConfigError(f"the price is {self.price}; it must be a number and not negative")

    def hours(self, flops: float) -> float:
        """How long so many operations take."""
        return flops / (self.flops_per_second * self.utilisation * self.devices) / 3600

    def flops(self, hours: float) -> float:
        """How many operations fit into so many hours."""
        return hours * 3600 * self.flops_per_second * self.utilisation * self.devices


@dataclass(frozen=True)
class Estimate:
    """A number and where it lies with 95 % confidence; the law's own formula may be wrong beyond that."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Shape:
    """Layers and width of about so many parameters."""

    layers: int
    width: int
    heads: int


@dataclass(frozen=True)
class Plan:
    """How to spend a budget of compute."""

    flops: float
    parameters: Estimate
    tokens: Estimate
    loss: Estimate
    """Nats a token, of text like the law's."""
    shape: Shape
    batch: float
    """Tokens of a step (Step Law)."""
    learning_rate: float
    """Peak, of AdamW (Step Law)."""
    deepseek_batch: float
    """Tokens of a step by DeepSeek's law, to see how far such laws agree."""
    deepseek_learning_rate: float
    hours: float
    cost: float | None

    @property
    def steps(self) -> int:
        """How often the weights are updated."""
        return max(1, round(self.tokens.value / self.batch))


def plan(flops: float, machine: Machine, law: Chinchilla, resampled: Sequence[Chinchilla]) -> Plan:
    """The best run for a budget of floating-point operations.

    Args:
        flops: the budget, 6 N D.
        machine: what it runs on.
        law: the fitted law.
        resampled: laws that might as well have been fitted (`bootstrap`, or `published`'s).

    Raises:
        ConfigError: the budget is not above 0, or no law's; or the machine would never be done.
    """
    if not flops > 0:
        raise ConfigError(f"the budget is {flops:g} operations; it must be more than 0")
    if not _LEAST <= flops <= _MOST:
        raise ConfigError(
            f"the budget is {flops:g} operations; laws say something from {_LEAST:g} to {_MOST:g} of them"
        )
    parameters, tokens = (float(x) for x in law.optimum(flops))
    if not (1 <= parameters <= _MOST and 1 <= tokens <= _MOST):
        raise ConfigError(
            f"by this law {flops:g} operations are best spent on {parameters:.3g} parameters and {tokens:.3g} tokens: "
            "it is no law for such a budget; it needs runs of more sizes and lengths"
        )
    others = [other.optimum(flops) for other in resampled]
    # the loss of this very plan, whatever the true law is
    losses = [other.loss(parameters, tokens) for other in resampled]
    hours = machine.hours(flops)
    cost = None if machine.price is None else hours * machine.devices * machine.price
    if not math.isfinite(hours) or (cost is not None and not math.isfinite(cost)):
        raise ConfigError("on such a machine this would never be done; look at its speed, utilisation and price")
    return Plan(
        flops=flops,
        parameters=Estimate(parameters, *interval([n for n, _ in others])),
        tokens=Estimate(tokens, *interval([d for _, d in others])),
        loss=Estimate(float(law.loss(parameters, tokens)), *interval(losses)),
        shape=shape(parameters),
        batch=0.58 * tokens**0.571,
        learning_rate=1.79 * parameters**-0.713 * tokens**0.307,
        deepseek_batch=0.2920 * flops**0.3271,
        deepseek_learning_rate=0.3118 * flops**-0.1250,
        hours=hours,
        cost=cost,
    )


def shape(parameters: float) -> Shape:
    """A usual shape of about that many parameters, by 12 layers width^2; heads are 64 wide, from 2048 on 128."""
    layers = max(1, round((parameters / (12 * _ASPECT**2)) ** (1 / 3)))
    width = (parameters / (12 * layers)) ** 0.5
    head = 64 if width < 2048 else 128
    heads = max(1, round(width / head))
    return Shape(layers, heads * head, heads)


def published() -> tuple[Chinchilla, list[Chinchilla]]:
    """Chinchilla's law, refitted by `fit` to the 240 runs of Besiroglu et al., and 300 laws as uncertain as that fit.

    The runs themselves are not part of Penjing: what is kept is the fit, and the covariance of 300 bootstrap fits.
    """
    random = np.random.default_rng(0)
    drawn = random.multivariate_normal(_FITTED, np.array(_COVARIANCE), size=300)
    return Chinchilla.from_raw(np.array(_FITTED), *_CENTRE), [Chinchilla.from_raw(raw, *_CENTRE) for raw in drawn]

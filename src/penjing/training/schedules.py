r"""Learning-rate schedules: functions from the progress of a run, 0 to 1, to a factor on the peak learning rate.

    constant  ________    cosine  /‾\       linear  /\       WSD  /‾‾‾‾\
             /                   /   \_            /   \         /      \
            /                   /      \_         /     \       /        \

All warm up linearly over their first `warmup` of the run, because the optimizers' averages are not yet worth much.

Sources: cosine, Loshchilov and Hutter, "SGDR", 2016, arXiv:1608.03983. Linear to zero, Bergsma et al., "Straight to
Zero", 2025, arXiv:2502.15938. Warmup-stable-decay (WSD), Hu et al., "MiniCPM", 2024, arXiv:2404.06395, section 4.
Departs from them: progress is a fraction of the budget, not a step number, so that budgets in minutes decay in full.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from penjing.errors import ConfigError

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Constant:
    """Warm-up, then the peak for good."""

    warmup: float = 0.0
    """The fraction of the run in which the learning rate rises from 0."""

    def __post_init__(self) -> None:
        _check(warmup=self.warmup)

    def __call__(self, progress: float) -> float:
        """The factor at that progress."""
        return progress / self.warmup if progress < self.warmup else 1.0


@dataclass(frozen=True)
class Cosine:
    """Warm-up, then half a cosine down to `final`."""

    warmup: float = 0.02
    """The fraction of the run in which the learning rate rises from 0."""
    final: float = 0.1
    """What is left of the peak at the end."""

    def __post_init__(self) -> None:
        _check(warmup=self.warmup, final=self.final)

    def __call__(self, progress: float) -> float:
        """The factor at that progress."""
        if progress < self.warmup:
            return progress / self.warmup
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * _after(self.warmup, progress))) / 2


@dataclass(frozen=True)
class Linear:
    """Warm-up, then a straight line down to `final`."""

    warmup: float = 0.02
    """The fraction of the run in which the learning rate rises from 0."""
    final: float = 0.0
    """What is left of the peak at the end."""

    def __post_init__(self) -> None:
        _check(warmup=self.warmup, final=self.final)

    def __call__(self, progress: float) -> float:
        """The factor at that progress."""
        if progress < self.warmup:
            return progress / self.warmup
        return 1 - (1 - self.final) * _after(self.warmup, progress)


@dataclass(frozen=True)
class WSD:
    """Warm-up, the peak for most of the run (stable), then a straight line down to `final` (decay)."""

    warmup: float = 0.02
    """The fraction of the run in which the learning rate rises from 0."""
    decay: float = 0.4
    """The last fraction of the run, in which the learning rate falls."""
    final: float = 0.0
    """What is left of the peak at the end."""

    def __post_init__(self) -> None:
        _check(warmup=self.warmup, decay=self.decay, final=self.final)
        if self.warmup + self.decay > 1:
            raise ConfigError(f"warmup {self.warmup} and decay {self.decay} are together more than the whole run")

    def __call__(self, progress: float) -> float:
        """The factor at that progress."""
        if progress < self.warmup:
            return progress / self.warmup
        if progress <= 1 - self.decay:
            return 1.0
        return 1 - (1 - self.final) * _after(1 - self.decay, progress)


SCHEDULES = {"constant": Constant, "cosine": Cosine, "linear": Linear, "wsd": WSD}
"""The schedules by the names that recipes use."""


def _after(start: float, progress: float) -> float:
    return 1.0 if progress >= 1 else (progress - start) / (1 - start)


def _check(**fractions: float) -> None:
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"the schedule's {name} is {value}; it is a fraction of the run or peak, from 0 to 1")

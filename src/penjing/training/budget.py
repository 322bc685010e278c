"""How long a run may last: a number of steps, of tokens, of minutes, or whichever of them comes first.

Schedules are functions of *progress*, the fraction of the budget that is spent. So a learning rate decays to its end
whether the run is told to take 2,000 steps, 10 million tokens or eight minutes on an unknown machine:

    progress = max(steps / step budget, tokens / token budget, seconds / second budget)
"""

from dataclasses import dataclass

from penjing.errors import ConfigError


@dataclass(frozen=True)
class Spent:
    """What a run has used up so far, earlier runs that it resumed included."""

    steps: float = 0
    tokens: float = 0
    seconds: float = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.steps + other.steps, self.tokens + other.tokens, self.seconds + other.seconds)


@dataclass(frozen=True)
class Budget:
    """Limits of a run; at least one is needed, and the first to be reached ends the run."""

    steps: int | None = None
    """Optimizer steps."""
    tokens: int | None = None
    """Tokens read, padding not counted."""
    minutes: float | None = None
    """Wall-clock minutes; validation, samples and checkpoints count too."""

    def __post_init__(self) -> None:
        limits = {"steps": self.steps, "tokens": self.tokens, "minutes": self.minutes}
        if all(limit is None for limit in limits.values()):
            raise ConfigError("the budget has no limit; give it steps, tokens or minutes")
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise ConfigError(f"the budget's {name} is {limit}; it must be more than 0")

    def progress(self, spent: Spent) -> float:
        """The fraction of the budget that is spent, 0 to 1."""
        return min(1.0, max(self._fractions(spent)))

    def seconds_left(self, spent: Spent) -> float | None:
        """How long the run will still take at its present pace; None before anything is known."""
        if self.minutes is not None and self.steps is None and self.tokens is None:
            return max(0.0, self.minutes * 60 - spent.seconds)
        progress = self.progress(spent)
        return spent.seconds * (1 - progress) / progress if progress > 0 and spent.seconds > 0 else None

    def _fractions(self, spent: Spent) -> list[float]:
        pairs = ((spent.steps, self.steps), (spent.tokens, self.tokens), (spent.seconds / 60, self.minutes))
        return [used / limit for used, limit in pairs if limit is not None]

    def __str__(self) -> str:
        parts = []
        if self.steps is not None:
            parts.append(f"{self.steps:,} steps")
        if self.tokens is not None:
            parts.append(f"{self.tokens:,} tokens")
        if self.minutes is not None:
            parts.append(f"{self.minutes:g} minutes")
        return " or ".join(parts)

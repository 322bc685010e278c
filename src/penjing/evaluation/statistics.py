"""How far a share that was measured on some items may be from the true one.

Wilson's interval for k right answers of n, at the confidence whose normal quantile is z (1.96 for 95 %):

    centre = (p + z^2 / 2n) / (1 + z^2 / n),   half = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2),   p = k / n

Unlike p +- z sqrt(p (1 - p) / n) it stays within 0 and 1, and is no point where all answers are right or all wrong.

Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927, JASA 22(158).
"""

import math
from dataclasses import dataclass

_Z95 = 1.959963984540054  # the 0.975 quantile of the normal distribution


def wilson(right: int, items: int, z: float = _Z95) -> tuple[float, float]:
    """The interval's ends; (0, 1) when there are no items.

    >>> low, high = wilson(5, 10)
    >>> f"{low:.4f} {high:.4f}"
    '0.2366 0.7634'
    """
    if not 0 <= right <= items:
        raise ValueError(f"{right} right of {items} items")
    if not items:
        return 0.0, 1.0
    p, spread = right / items, z * z / items
    centre = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / items + spread / (4 * items))
    return (0.0 if right == 0 else centre - half), (1.0 if right == items else centre + half)


@dataclass(frozen=True)
class Share:
    """So many right of so many."""

    right: int
    items: int
    chance: float = 0.0
    """The share that a guesser would get."""

    @property
    def accuracy(self) -> float:
        """The share of right answers; 0 when there are no items."""
        return self.right / self.items if self.items else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of it."""
        return wilson(self.right, self.items)

    def __add__(self, other: "Share") -> "Share":
        items = self.items + other.items
        chance = (self.chance * self.items + other.chance * other.items) / items if items else 0.0
        return Share(self.right + other.right, items, chance)

    def to_dict(self) -> dict[str, object]:
        """For reports."""
        low, high = self.interval
        return {
            "accuracy": self.accuracy,
            "low": low,
            "high": high,
            "chance": self.chance,
            "right": self.right,
            "items": self.items,
        }

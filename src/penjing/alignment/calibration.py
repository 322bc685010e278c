"""Whether a reward model's confidence can be believed: of the pairs that it is 80 % sure of, is it right about 80 %?

A pair's scores say which answer is the better one and how sure that is: sigmoid(|r_a - r_b|), from 1/2 to 1. Pairs are
put into bins by that; in each, the mean of what was predicted is compared with how often it was true. The expected
calibration error is the mean of their distances, weighted by the pairs of the bins:

    error = sum over bins of  n_bin / n  |observed share - mean prediction|

Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, arXiv:1706.04599, section 2; for preferences, Bai
et al., "Training a Helpful and Harmless Assistant", 2022, arXiv:2204.05862, section 4.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from penjing.errors import DataError
from penjing.training.plots import Curve, Plot


@dataclass(frozen=True)
class Calibration:
    """Bins with at least one pair, from the least sure to the surest."""

    predicted: Sequence[float]
    """The mean confidence of each bin's pairs."""
    observed: Sequence[float]
    """The share of them that was right; equal scores are half right."""
    counts: Sequence[int]

    @property
    def error(self) -> float:
        """The expected calibration error, from 0 to 1/2."""
        gaps = (n * abs(p - o) for p, o, n in zip(self.predicted, self.observed, self.counts, strict=True))
        return sum(gaps) / sum(self.counts)

    def save(self, path: Path) -> None:
        """Draws the observed shares against the predicted ones.

        Raises:
            PenjingError: the file cannot be written.
        """
        Plot(
            f"Calibration: error {self.error:.3f} over {sum(self.counts):,} pairs",
            "predicted probability of being right",
            "observed share",
            [
                Curve("perfect", (0.5, 1.0), (0.5, 1.0)),
                Curve("reward model", self.predicted, self.observed, points=True),
            ],
        ).save(path)

    def to_dict(self) -> dict[str, object]:
        """For reports."""
        names = ("predicted", "observed", "counts")
        return {"error": self.error, **{name: list(getattr(self, name)) for name in names}}


def calibration(differences: Float[Tensor, " pairs"], bins: int = 10) -> Calibration:
    """How predictions and observations agree.

    Args:
        differences: of each pair, the score of the answer that was preferred less that of the other one.
        bins: of equal width, between 1/2 and 1.

    Raises:
        DataError: there are no pairs.
    """
    if not len(differences):
        raise DataError("there are no pairs to measure a calibration on")
    exact = differences.double()
    confidence = exact.abs().sigmoid()
    right = (exact > 0).double() + 0.5 * (exact == 0).double()
    number = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)  # (pairs,)
    counts = torch.bincount(number, minlength=bins)
    filled = counts > 0
    means = [
        (torch.bincount(number, weights=values, minlength=bins)[filled] / counts[filled]).tolist()
        for values in (confidence, right)
    ]
    return Calibration(means[0], means[1], counts[filled].tolist())

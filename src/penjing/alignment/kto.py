r"""KTO: learning from answers that were judged alone, good or bad, as people weigh gains and losses.

People feel a loss against what they expect more than a gain (Kahneman and Tversky). With x = log pi(y|x) / ref(y|x),
and what is expected, z, the policy's divergence from the reference:

    good answer     w_good (1 - s(beta (x - z)))            s: the sigmoid
    bad answer      w_bad  (1 - s(beta (z - x)))
    z               max(0, mean of log pi(y'|x) / ref(y'|x)) over mismatched pairs: y' answers another prompt

z has no gradient. It is of a whole step's answers: `prepare` finds it before the first gradient is computed, so that
micro-batches add up to the step of one large batch. (TRL takes each micro-batch's own.) No pairs are needed, and where
there are some, they are two judged answers.

Source: Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024, arXiv:2402.01306, eq. 7, 8.
Departs from it: a mismatched answer is the next other prompt's in the data, not in the batch. Without `expectation`, z
is 0: APO-zero for judged answers (D'Oosterlinck et al., 2024, arXiv:2408.06266).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from penjing.alignment.kl import k3
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.pairs import JudgedBatch
from penjing.errors import ConfigError, TrainingError
from penjing.training.objectives import Loss

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel


@dataclass(frozen=True)
class KTO:
    """The objective on judged answers; the loss is a sum over answers.

    Raises:
        ConfigError: beta is not above 0, or a weight below 0.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    """The weights should make good and bad answers count alike: weight times number, 1 to 4/3 times the other's."""
    undesirable_weight: float = 1.0
    expectation: bool = True
    """Whether answers are measured against the divergence from the reference; else against 0."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ConfigError(f"beta is {self.beta}; it must be above 0")
        for name in ("desirable_weight", "undesirable_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")

    @property
    def needs_reference(self) -> bool:
        """Always."""
        return True

    def prepare(self, model: "LanguageModel", batches: Sequence[JudgedBatch]) -> list[JudgedBatch]:
        """A step's batches with the reference point of all their answers."""
        point = self.reference_point(model, batches)
        return [replace(batch, reference_point=point) for batch in batches]

    @torch.no_grad()
    def reference_point(self, model: "LanguageModel", batches: Sequence[JudgedBatch]) -> Float[Tensor, ""]:
        """z: how far the policy is from the reference on mismatched answers, in nats an answer; at least 0."""
        total, answers = torch.zeros((), device=batches[0].tokens.device), 0
        for batch in batches if self.expectation else ():
            if batch.mismatched is None or batch.mismatched.reference is None:
                raise TrainingError("KTO needs mismatched answers and the reference's log-probabilities of them")
            log_probs, _ = answer_log_probs(model, batch.mismatched)
            total += (log_probs - batch.mismatched.reference).sum()
            answers += batch.answers
        return (total / max(answers, 1)).clamp(min=0)

    def losses(
        self, log_ratios: Float[Tensor, " answers"], desirable: Bool[Tensor, " answers"], point: Float[Tensor, ""]
    ) -> Float[Tensor, " answers"]:
        """Each answer's loss."""
        good = desirable.to(log_ratios.dtype)
        weight = self.desirable_weight * good + self.undesirable_weight * (1 - good)
        return weight * (1 - (self.beta * (2 * good - 1) * (log_ratios - point)).sigmoid())

    def __call__(self, model: "LanguageModel", batch: JudgedBatch) -> Loss:
        """The loss of a batch; the reference point is the batch's own where nobody has prepared it.

        Raises:
            TrainingError: the batch has not the reference's log-probabilities.
        """
        if batch.reference is None or batch.desirable is None:
            raise TrainingError("KTO compares with a reference, and the batch brings none")
        log_probs, _ = answer_log_probs(model, batch)
        point = self.reference_point(model, [batch]) if batch.reference_point is None else batch.reference_point
        log_ratios = batch.per_answer(log_probs - batch.reference)
        losses = self.losses(log_ratios, batch.desirable, point)
        return Loss(losses.sum(), batch.answers, self._metrics(batch, log_ratios, log_probs, point))

    @torch.no_grad()
    def _metrics(self, batch: JudgedBatch, log_ratios: Tensor, log_probs: Tensor, point: Tensor) -> dict[str, float]:
        assert batch.desirable is not None
        assert batch.reference is not None
        reward = self.beta * (log_ratios - point)
        margin = torch.where(batch.desirable, reward, -reward)
        values = {
            "margin": margin,
            "accuracy": (margin > 0).to(margin.dtype),
            "log_prob": log_probs,
            "kl": k3(batch.reference - log_probs),
        }
        sums = torch.stack([*(value.sum() for value in values.values()), point * batch.answers]).tolist()
        return dict(zip([*values, "reference_point"], sums, strict=True))

r"""DPO and its kin: learning from pairs of answers, of which one is preferred, without a reward model.

A policy pi that maximizes a reward r under a price beta on its divergence from a reference is pi(y|x) proportional to
ref(y|x) exp(r(x, y) / beta). Turned around, every policy is the best one for the reward that it implies,

    r(x, y) = beta log pi(y|x) / ref(y|x) + something of x alone,

so a model of preferences, p(chosen over rejected) = s(r_chosen - r_rejected) with the sigmoid s, can be fitted by
changing the policy itself. With c = log pi(chosen) / ref(chosen), r likewise of the rejected answer and d = c - r, all
sums over an answer's tokens:

    DPO         -log s(beta d); smoothing e: -(1 - e) log s(beta d) - e log s(-beta d)
    robust      (-(1 - e) log s(beta d) + e log s(-beta d)) / (1 - 2 e): unbiased where a share e of labels is wrong
    IPO         (d - 1 / (2 beta))^2: does not run away where preferences are certain
    hinge       max(0, 1 - beta d)
    NCA         -log s(beta c) - log s(-beta c) / 2 - log s(-beta r) / 2: the chosen answer does not fall
    BCO         -log s(beta c) - log s(-beta r): a classifier of good and bad answers
    SPPO        (c - 1 / (2 beta))^2 + (r + 1 / (2 beta))^2
    APO-zero    1 - s(beta c) + s(beta r): for chosen answers better than the policy's own
    APO-down    s(beta c) + 1 - s(beta d): for chosen answers worse than the policy's own
    ORPO        -mean log pi(chosen) - beta log s(log odds(chosen) / odds(rejected)), odds of exp(mean log pi)
    SimPO       -log s(beta (mean log pi(chosen) - mean log pi(rejected)) - gamma)

The last two need no reference. Any of them may add `sft` times the chosen answer's mean negative log-probability (RPO),
which keeps its probability from falling along with the rejected one's. `reference_free` takes a reference that finds
all answers equally likely. `per_token` divides c and r by the answers' lengths.

Sources: Rafailov et al., "Direct Preference Optimization", 2023, arXiv:2305.18290, eq. 7; smoothing: Mitchell, "A note
on DPO with noisy preferences", 2023; robust: Chowdhury et al., 2024, arXiv:2403.00409; IPO: Azar et al., 2023,
arXiv:2310.12036, eq. 17; hinge: Zhao et al., SLiC-HF, 2023, arXiv:2305.10425, and Liu et al., RSO, 2023,
arXiv:2309.06657; NCA: Chen et al., 2024, arXiv:2402.05369; BCO: Jung et al., 2024, arXiv:2404.04656; SPPO: Wu et al.,
2024, arXiv:2405.00675, eq. 4.7; APO: D'Oosterlinck et al., 2024, arXiv:2408.06266, eq. 7 and 8; ORPO: Hong et al.,
2024, arXiv:2403.07691; SimPO: Meng et al., 2024, arXiv:2405.14734; RPO: Pang et al., "Iterative Reasoning Preference
Optimization", 2024, arXiv:2404.19733; margins: Amini et al., "DPO with an Offset", 2024, arXiv:2402.10571.
Departs from them: IPO is of sums by default, as in the paper; TRL's is `per_token`. BCO has no shift of the reward, as
in TRL. SFT terms are means over the chosen answer's tokens, pair by pair, so that a pair's loss does not depend on its
companions; TRL's are means over all tokens of a batch, and ORPO's there counts the prompt's too.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from penjing.alignment.kl import k3
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.pairs import PairBatch
from penjing.errors import ConfigError, DataError, TrainingError
from penjing.nn.mode import evaluation_mode
from penjing.training.objectives import Loss, Objective

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel

PerPair = Float[Tensor, " pairs"]


@dataclass(frozen=True)
class Pairs:
    """What the policy and the reference think of pairs: log-probabilities of whole answers, in nats."""

    chosen: PerPair
    rejected: PerPair
    reference_chosen: PerPair
    reference_rejected: PerPair
    chosen_length: PerPair
    """Tokens of the chosen answers."""
    rejected_length: PerPair
    margins: PerPair | None = None
    """How much better the chosen ones are, where somebody said."""

    @cached_property
    def c(self) -> PerPair:
        """How much likelier than to the reference the chosen answer is to the policy."""
        return self.chosen - self.reference_chosen

    @cached_property
    def r(self) -> PerPair:
        """The same of the rejected answer."""
        return self.rejected - self.reference_rejected

    @property
    def means(self) -> tuple[PerPair, PerPair]:
        """The policy's log-probability of a token, on average over either answer."""
        return self.chosen / self.chosen_length, self.rejected / self.rejected_length

    @property
    def per_token(self) -> "Pairs":
        """The same with all log-probabilities divided by the answers' lengths."""
        return Pairs(
            *self.means,
            self.reference_chosen / self.chosen_length,
            self.reference_rejected / self.rejected_length,
            self.chosen_length,
            self.rejected_length,
            self.margins,
        )


@dataclass(frozen=True)
class Preference(ABC):
    """An objective on pairs; the loss is a sum over pairs.

    Raises:
        ConfigError: beta is not above 0, or `sft` below 0.
    """

    beta: float = 0.1
    """What a reward of 1 is in nats of log-ratio, or the weight of what is preferred: see each method."""
    sft: float = 0.0
    """Weight of the chosen answer's mean negative log-probability."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ConfigError(f"beta is {self.beta}; it must be above 0")
        if not 0 <= self.sft < math.inf:
            raise ConfigError(f"sft is {self.sft}; it must be 0 or more")

    @property
    def needs_reference(self) -> bool:
        """Whether batches must bring the reference's log-probabilities."""
        return False

    @abstractmethod
    def losses(self, pairs: Pairs) -> PerPair:
        """Each pair's loss, without the SFT term."""

    def rewards(self, pairs: Pairs) -> tuple[PerPair, PerPair]:
        """What the policy implies that the answers are worth: beta times the log-ratios."""
        return self.beta * pairs.c, self.beta * pairs.r

    def __call__(self, model: "LanguageModel", batch: PairBatch) -> Loss:
        """The loss of a batch of pairs.

        Raises:
            TrainingError: the method needs a reference, and the batch has not its log-probabilities.
        """
        log_probs, _ = answer_log_probs(model, batch)
        if self.needs_reference and batch.reference is None:
            raise TrainingError(f"{type(self).__name__} compares with a reference, and the batch brings none")
        reference = batch.reference if self.needs_reference else None
        pairs = _pairs(batch, log_probs, reference)
        losses = self.losses(pairs)
        if self.sft:
            losses = losses - self.sft * pairs.means[0]
        return Loss(losses.sum(), batch.pairs, self._metrics(pairs, batch, log_probs, reference))

    @torch.no_grad()
    def _metrics(self, pairs: Pairs, batch: PairBatch, log_probs: Tensor, reference: Tensor | None) -> dict[str, float]:
        chosen, rejected = self.rewards(pairs)
        values = {
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "margin": chosen - rejected,
            "accuracy": (chosen > rejected).to(chosen.dtype),
            "chosen_log_prob": pairs.chosen,
            "rejected_log_prob": pairs.rejected,
        }
        if reference is not None:
            # from the reference to the policy, an answer, if the reference drew the answers; else a distance along them
            values["kl"] = k3(reference - log_probs) / 2
        sums = torch.stack([value.sum() for value in values.values()]).tolist()  # the device is waited for once
        return dict(zip(values, sums, strict=True))


@dataclass(frozen=True)
class Referenced(Preference):
    """A method that compares with a reference."""

    reference_free: bool = False
    """Take a reference to which all answers are equally likely."""

    @property
    def needs_reference(self) -> bool:
        """Unless it is free of one."""
        return not self.reference_free


@dataclass(frozen=True)
class DPO(Referenced):
    """Direct preference optimization; with `smoothing` it is cDPO, with `per_token` length-normalized."""

    smoothing: float = 0.0
    """The share of preferences that may be the wrong way round."""
    per_token: bool = False
    """Divide log-ratios by the answers' lengths; beta then should be larger, about 1 to 10."""
    margin: float = 0.0
    """How many units of reward a told margin of 1 asks for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share("smoothing", self.smoothing)

    def losses(self, pairs: Pairs) -> PerPair:
        """See the module."""
        pairs = pairs.per_token if self.per_token else pairs
        x = self.beta * (pairs.c - pairs.r)
        if self.margin and pairs.margins is not None:
            x = x - self.margin * pairs.margins
        return -(1 - self.smoothing) * logsigmoid(x) - self.smoothing * logsigmoid(-x)


@dataclass(frozen=True)
class Robust(Referenced):
    """DPO whose expectation is that of clean preferences."""

    smoothing: float = 0.1
    """The share of preferences that are the wrong way round; below 1/2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share("smoothing", self.smoothing)

    def losses(self, pairs: Pairs) -> PerPair:
        """See the module."""
        x, e = self.beta * (pairs.c - pairs.r), self.smoothing
        return (-(1 - e) * logsigmoid(x) + e * logsigmoid(-x)) / (1 - 2 * e)


@dataclass(frozen=True)
class IPO(Referenced):
    """Identity preference optimization: a squared distance to a fixed gain."""

    per_token: bool = False
    """Divide log-ratios by the answers' lengths, as TRL does."""

    def losses(self, pairs: Pairs) -> PerPair:
        """See the module."""
        pairs = pairs.per_token if self.per_token else pairs
        return (pairs.c - pairs.r - 1 / (2 * self.beta)).square()


@dataclass(frozen=True)
class Hinge(Referenced):
    """No loss once the rewards are 1 apart."""

    def losses(self, pairs: Pairs) -> PerPair:
        """See the module."""
        return torch.relu(1 - self.beta * (pairs.c - pairs.r))


@dataclass(frozen=True)
class NCA(Referenced):
    """Noise contrastive alignment: absolute likelihoods, not their difference."""

    def losses(self, pairs: Pairs) -> PerPair:
        """See the module."""
        chosen, rejected = self.rewards(pairs)
        return -logsigmoid(chosen) - logsigmoid(-chosen) / 2 - logsigmoid(-rejected) / 2


@dataclass(frozen=True)
class BCO(Referenced):
    """Binary classifier optimization."""

    def losses(self, pairs: Pairs) -> PerPair:
        """See the module."""
        chosen, rejected = self.rewards(pairs)
        return -logsigmoid(chosen) - logsigmoid(-rejected)


@dataclass(frozen=True)
class SPPO(Referenced):
    """Self-play preference optimization where the chosen answer wins with certainty."""

    def losses(self, pairs: Pairs) -> PerPair:
        """See the module."""
        target = 1 / (2 * self.beta)
        return (pairs.c - target).square() + (pairs.r + target).square()


@dataclass(frozen=True)
class APOZero(Referenced):
    """Anchored preference optimization: the chosen answer rises, the rejected one falls."""

    def losses(self, pairs: Pairs) -> PerPair:
        """See the module."""
        chosen, rejected = self.rewards(pairs)
        return 1 - chosen.sigmoid() + rejected.sigmoid()


@dataclass(frozen=True)
class APODown(Referenced):
    """Anchored preference optimization: both answers fall, the rejected one further."""

    def losses(self, pairs: Pairs) -> PerPair:
        """See the module."""
        chosen, rejected = self.rewards(pairs)
        return chosen.sigmoid() + 1 - (chosen - rejected).sigmoid()


@dataclass(frozen=True)
class ORPO(Preference):
    """Odds ratio preference optimization: instruction tuning and preference in one, without a reference."""

    sft: float = 1.0

    def losses(self, pairs: Pairs) -> PerPair:
        """The term of the odds; the mean log-probability is the SFT term."""
        chosen, rejected = pairs.means
        log_odds = chosen - rejected - (_log1mexp(chosen) - _log1mexp(rejected))
        return -self.beta * logsigmoid(log_odds)

    def rewards(self, pairs: Pairs) -> tuple[PerPair, PerPair]:
        """Beta times the mean log-probabilities."""
        chosen, rejected = pairs.means
        return self.beta * chosen, self.beta * rejected


@dataclass(frozen=True)
class SimPO(Preference):
    """Simple preference optimization: the mean log-probability is the reward, and it must win by a margin."""

    beta: float = 2.0
    gamma: float = 1.0
    """By how much the chosen answer's reward should be larger."""

    def losses(self, pairs: Pairs) -> PerPair:
        """See the module."""
        chosen, rejected = self.rewards(pairs)
        return -logsigmoid(chosen - rejected - self.gamma)

    def rewards(self, pairs: Pairs) -> tuple[PerPair, PerPair]:
        """Beta times the mean log-probabilities."""
        chosen, rejected = pairs.means
        return self.beta * chosen, self.beta * rejected


def mean_values(objective: Objective, model: Any, batches: Iterable[Any]) -> dict[str, float]:
    """An objective's loss and metrics over given batches, in the model's evaluation mode, without gradients.

    Raises:
        DataError: nothing counts.
    """
    total, weight, sums = 0.0, 0, dict[str, float]()
    with torch.no_grad(), evaluation_mode(model):
        for batch in batches:
            loss = objective(model, batch.to(next(model.parameters()).device))
            total, weight = total + float(loss.total), weight + loss.weight
            for name, value in loss.metrics.items():
                sums[name] = sums.get(name, 0.0) + value
    if not weight:
        raise DataError("there is nothing to validate on: no preference counts")
    return {"loss": total / weight, **{name: value / weight for name, value in sums.items()}}


def _pairs(batch: PairBatch, log_probs: Tensor, reference: Tensor | None) -> Pairs:
    chosen, rejected = batch.per_answer(log_probs).view(2, -1)
    nothing = torch.zeros_like(log_probs) if reference is None else reference.to(log_probs.dtype)
    reference_chosen, reference_rejected = batch.per_answer(nothing).view(2, -1)
    chosen_length, rejected_length = batch.lengths.to(log_probs.dtype).view(2, -1)
    return Pairs(chosen, rejected, reference_chosen, reference_rejected, chosen_length, rejected_length, batch.margins)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) of x below 0, exact near 0 and far from it (Maechler, 2012)."""
    near = x > -math.log(2)
    safe_near = torch.where(near, x, torch.full_like(x, -0.1)).clamp(max=-torch.finfo(x.dtype).tiny)
    safe_far = torch.where(near, torch.full_like(x, -10.0), x)  # either branch's gradient stays finite
    return torch.where(near, (-torch.expm1(safe_near)).log(), torch.log1p(-safe_far.exp()))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 0.5:
        raise ConfigError(f"{name} is {value}; it is a share from 0 to below 1/2")


METHODS: dict[str, type[Preference]] = {
    "dpo": DPO,
    "robust": Robust,
    "ipo": IPO,
    "hinge": Hinge,
    "nca": NCA,
    "bco": BCO,
    "sppo": SPPO,
    "apo_zero": APOZero,
    "apo_down": APODown,
    "orpo": ORPO,
    "simpo": SimPO,
}
"""The methods that learn from pairs, by the names that recipes use."""

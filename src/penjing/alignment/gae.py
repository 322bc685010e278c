r"""Rewards for each token and what they say of it: advantages, returns, whitening, and how dear divergence is.

    reward_t    = -coefficient (log p_t - log reference_t),  and the answer's reward is added at its last token
    delta_t     = reward_t + gamma V_(t+1) - V_t                          V after the last token is 0
    A_t         = delta_t + gamma lambda A_(t+1)
    return_t    = A_t + V_t                                               what the value network should have said
    coefficient *= 1 + clip(KL / target - 1, -0.2, 0.2) answers / horizon

`lambda` = 1 believes the rewards alone, 0 the value network's next word alone. Whitened numbers have the mean 0 and the
variance 1; returns are of the advantages before that.

Sources: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation", 2015,
arXiv:1506.02438, equation 16; Ziegler et al., "Fine-Tuning Language Models from Human Preferences", 2019,
arXiv:1909.08593, section 2.2 (KL in the reward, the coefficient's controller) and its code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penjing.alignment.batch import AnswerBatch
from penjing.errors import ConfigError

_SMALL = 1e-8
_STEP = 0.2  # how far off the target counts, at most


def advantages(
    rewards: Float[Tensor, "answers tokens"],
    values: Float[Tensor, "answers tokens"],
    gamma: float = 1.0,
    lam: float = 0.95,
) -> Float[Tensor, "answers tokens"]:
    """The advantages of each answer's tokens.

    Args:
        rewards: of each token; 0 after an answer's end.
        values: what was expected before each token; 0 after an answer's end.
        gamma: what a reward is worth a token later.
        lam: how far rewards are believed over values.
    """
    found = torch.zeros_like(rewards)
    following, after = rewards.new_zeros(len(rewards)), rewards.new_zeros(len(rewards))
    for place in reversed(range(rewards.shape[1])):
        delta = rewards[:, place] + gamma * after - values[:, place]  # (answers,)
        following = delta + gamma * lam * following
        found[:, place], after = following, values[:, place]
    return found


def whitened(values: Float[Tensor, " tokens"], *, keep_mean: bool = False, correction: int = 0) -> Tensor:
    """The values with variance 1 and, unless it is kept, mean 0.

    Args:
        values: any number of them.
        keep_mean: add the mean again; so rewards are whitened, whose sign means something.
        correction: what the variance's divisor has less than there are values: 0, or 1 as some have it.
    """
    mean = values.mean()
    variance = (values - mean).square().sum() / max(values.numel() - correction, 1)
    white = (values - mean) * (variance + _SMALL).rsqrt()
    return white + mean if keep_mean else white


@dataclass(frozen=True)
class Table:
    """Numbers of counted tokens laid out as a row for each answer, and back."""

    numbers: Int[Tensor, "answers tokens"]
    """Which counted token stands where; 0 where none does."""
    real: Bool[Tensor, "answers tokens"]

    @classmethod
    def of(cls, batch: AnswerBatch) -> "Table":
        """The layout of a batch's answers."""
        assert batch.owner is not None
        lengths = batch.lengths
        order = torch.argsort(batch.owner, stable=True)  # answer by answer, first token to last
        rows = torch.repeat_interleave(torch.arange(batch.answers, device=order.device), lengths)
        columns = torch.arange(len(order), device=order.device) - (lengths.cumsum(0) - lengths)[rows]
        numbers = torch.zeros(batch.answers, int(lengths.max()), dtype=torch.long, device=order.device)
        numbers[rows, columns] = order
        return cls(numbers, torch.arange(numbers.shape[1], device=order.device)[None] < lengths[:, None])

    def laid_out(self, values: Float[Tensor, " counted"]) -> Float[Tensor, "answers tokens"]:
        """A row for each answer, 0 after its end."""
        return torch.where(self.real, values[self.numbers], 0.0)

    def flat(self, table: Float[Tensor, "answers tokens"]) -> Float[Tensor, " counted"]:
        """The way back."""
        found = table.new_empty(int(self.real.sum()))
        found[self.numbers[self.real]] = table[self.real]
        return found


def token_rewards(
    scores: Float[Tensor, " answers"],
    log_ratios: Float[Tensor, "answers tokens"],
    real: Bool[Tensor, "answers tokens"],
    coefficient: float,
) -> Float[Tensor, "answers tokens"]:
    """The reward of each token: the KL penalty, and at an answer's last token its score.

    Args:
        scores: rewards of whole answers.
        log_ratios: log p - log reference of each token.
        real: which tokens there are.
        coefficient: what a nat costs.
    """
    rewards = torch.where(real, -coefficient * log_ratios, 0.0)
    last = real.sum(dim=1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


@dataclass(frozen=True)
class FixedKL:
    """A coefficient that stays."""

    start: float = 0.02

    def __post_init__(self) -> None:
        if self.start < 0:
            raise ConfigError(f"the KL coefficient is {self.start}; it must not be negative")

    def next(self, coefficient: float, divergence: float, answers: int) -> float:
        """The coefficient after so many answers, whose divergence was so large."""
        return coefficient


@dataclass(frozen=True)
class AdaptiveKL(FixedKL):
    """A coefficient that rises while answers diverge by more than the target, and falls while they do by less."""

    target: float = 6.0
    """Nats an answer."""
    horizon: int = 10_000
    """Answers over which a divergence of 1.2 times the target or more makes the coefficient 1.2 times as large."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target <= 0 or self.horizon < 1:
            raise ConfigError(f"target is {self.target} and horizon {self.horizon}; both must be more than 0")

    def next(self, coefficient: float, divergence: float, answers: int) -> float:
        """The coefficient after so many answers, whose divergence was so large."""
        off = min(max(divergence / self.target - 1, -_STEP), _STEP)
        return coefficient * (1 + off * answers / self.horizon)


def split_like(values: Tensor, parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """Values of several batches in a row, cut as the batches are."""
    return values.split([len(part) for part in parts])

r"""GRPO and its kin: learning from several answers to one prompt, each judged against the others.

PPO asks a value network how good an answer should have been; here the group says it. Of n answers to a prompt with
rewards r_1 .. r_n, an answer's advantage is one of

    grpo                     (r - mean) / (std + 1e-4)        std with n - 1
    dr_grpo                   r - mean                        dividing by std makes easy and hard prompts count more
    rloo                      r - mean of the others
    reinforce_plus            r, then whitened over all tokens of the rollout
    reinforce_plus_baseline   r - mean, then whitened over all tokens of the rollout

and each of its tokens has it. What is minimized at a token is a surrogate of its advantage and of the ratio to the
policy before the first step on the rollout (`surrogates`: PPO's clip, CISPO's bounded weight, ...). With
`ratio="sequence"` (GSPO) all tokens of an answer have one ratio, the geometric mean of their own; with "product" (RLOO)
it is the answer's own. The KL divergence from a reference and the entropy can be added token by token. What the tokens'
losses are a mean over is the reduction:

    grpo        the mean over answers of each one's mean              so a token of a long answer counts less
    dapo, bnpo  the mean over all tokens                              (elsewhere bnpo's are a micro-batch's)
    dr_grpo     the sum, over answers times a constant, `max_length`  no length is favoured

All of these are sums divided by a count, so any division of a step into micro-batches gives the same gradient.

Sources: Shao et al., "DeepSeekMath", 2024, arXiv:2402.03300, section 4.1 (GRPO); Liu et al., "Understanding
R1-Zero-Like Training", 2025, arXiv:2503.20783, section 3 (Dr. GRPO); Ahmadian et al., "Back to Basics", 2024,
arXiv:2402.14740, equation 6 (RLOO); Hu et al., "REINFORCE++", 2025, arXiv:2501.03262; Yu et al., "DAPO", 2025,
arXiv:2503.14476; Zheng et al., "Group Sequence Policy Optimization", 2025, arXiv:2507.18071, equations 5 to 7; LUSPO:
arXiv:2602.05261; Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025 (truncated
importance sampling).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from penjing.alignment.kl import ESTIMATORS, Estimator
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.rollout_loader import RolloutBatch
from penjing.alignment.surrogates import Cispo, Clip, Sapo, Surrogate, Vespo
from penjing.errors import ConfigError, DataError
from penjing.nn.mode import evaluation_mode
from penjing.training.objectives import Loss

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel

Kind = Literal["grpo", "dr_grpo", "rloo", "reinforce_plus", "reinforce_plus_baseline"]
Reduction = Literal["grpo", "dapo", "bnpo", "dr_grpo"]

_EPSILON = 1e-4


@dataclass(frozen=True)
class GroupBatch(RolloutBatch):
    """Answers with their advantages."""

    advantages: Float[Tensor, " answers"] | None = None


def group_advantages(
    rewards: Float[Tensor, " answers"],
    groups: Int[Tensor, " answers"],
    lengths: Int[Tensor, " answers"],
    kind: Kind = "grpo",
) -> Float[Tensor, " answers"]:
    """The advantages of a rollout's answers.

    Args:
        rewards: of each answer.
        groups: which prompt each answers.
        lengths: how many tokens each has; whitening is over tokens.
        kind: see the module.

    Raises:
        DataError: a group of one answer, where answers are compared within their group.
    """
    count = torch.bincount(groups)[groups]  # (answers,): of each answer's group
    if kind != "reinforce_plus" and (count < 2).any():
        raise DataError(f"a group has one answer; {kind} compares at least two: ask for n of at least 2")
    mean = _group_sums(rewards, groups) / count
    centred = rewards - mean
    if kind == "dr_grpo":
        return centred
    if kind == "rloo":
        return centred * count / (count - 1)
    if kind == "grpo":
        return centred / ((_group_sums(centred.square(), groups) / (count - 1)).sqrt() + _EPSILON)
    plain = rewards if kind == "reinforce_plus" else centred
    tokens = lengths.sum()
    middle = (plain * lengths).sum() / tokens
    variance = ((plain - middle).square() * lengths).sum() / (tokens - 1).clamp(min=1)
    return (plain - middle) * (variance + 1e-8).rsqrt()


@dataclass(frozen=True)
class Advantages:
    """What a rollout's batches get before they are learned from: `finish` of a `RolloutLoader`.

    Raises:
        ConfigError: the coefficient is negative.
    """

    kind: Kind = "grpo"
    kl: float = 0.0
    """What a nat of divergence from the reference, over a whole answer, takes from its reward."""
    estimator: Estimator = "k1"

    def __post_init__(self) -> None:
        if self.kl < 0:
            raise ConfigError(f"kl is {self.kl}; it must not be negative")

    def __call__(self, batches: Sequence[RolloutBatch]) -> list[GroupBatch]:
        """The same batches with advantages.

        Raises:
            DataError: a group has one answer, or the reward needs log-probabilities that batches lack.
        """
        rewards, groups, lengths = (
            torch.cat([_given(getattr(batch, name)) for batch in batches]) for name in ("rewards", "groups", "lengths")
        )
        if self.kl:
            rewards = rewards - self.kl * torch.cat([self._divergence(batch) for batch in batches])
        parts = group_advantages(rewards, groups, lengths, self.kind).split([batch.answers for batch in batches])
        return [_with_advantages(batch, part) for batch, part in zip(batches, parts, strict=True)]

    def _divergence(self, batch: RolloutBatch) -> Float[Tensor, " answers"]:
        if batch.old_log_probs is None or batch.reference_log_probs is None:
            raise DataError("KL in the reward needs a reference model, and old_log_probs of the loader")
        return batch.per_answer(ESTIMATORS[self.estimator](batch.old_log_probs - batch.reference_log_probs))


@dataclass(frozen=True)
class GRPO:
    """The objective; see the module for what each setting is. Batches are `GroupBatch`es.

    Raises:
        ConfigError: a setting outside its range, or two that do not fit together.
    """

    reduction: Reduction = "grpo"
    surrogate: Surrogate = field(default_factory=Clip)
    ratio: Literal["token", "sequence", "product"] = "token"
    """Of the token; or of its answer, the geometric mean of its tokens' ratios, or their product."""
    max_length: int | None = None
    """Tokens of the longest answer that there can be; for the reduction dr_grpo."""
    kl: float = 0.0
    """What a nat of divergence from the reference costs, in the loss, at each token."""
    estimator: Estimator = "k3"
    entropy: float = 0.0
    """What a nat of entropy is worth, at each token."""
    correction: float | None = None
    """Weighs each token by p_old / p_sampled, at most so large, for answers drawn by another policy than `old`."""
    mask_truncated: bool = False
    """Whether answers that were cut teach nothing: their reward says little of what was going to come."""
    temperature: float = 1.0
    """What the answers were drawn at."""

    def __post_init__(self) -> None:
        for name, good in (
            ("kl", self.kl >= 0),
            ("temperature", self.temperature > 0),
            ("correction", self.correction is None or self.correction > 0),
            ("max_length", self.max_length is None or self.max_length > 0),
        ):
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)}; that is outside its range")
        if self.reduction == "dr_grpo" and self.max_length is None:
            raise ConfigError("the reduction dr_grpo divides by a constant: give max_length, the tokens of an answer")

    def __call__(self, model: "LanguageModel", batch: GroupBatch) -> Loss:
        """The loss, with dropout switched off: the policy that is improved is the one that drew."""
        with evaluation_mode(model):
            log_probs, entropy = answer_log_probs(model, batch, self.temperature)
        return self.loss(batch, log_probs, entropy)

    def loss(self, batch: GroupBatch, log_probs: Float[Tensor, " counted"], entropy: Float[Tensor, " counted"]) -> Loss:
        """The loss of tokens' log-probabilities."""
        owner = _given(batch.owner)
        advantages = _given(batch.advantages)[owner]  # (counted,)
        fixed = log_probs.detach()
        old = fixed if batch.old_log_probs is None else batch.old_log_probs
        log_ratio = log_probs - old
        if self.ratio != "token":
            whole = batch.per_answer(log_ratio)
            log_ratio = (whole if self.ratio == "product" else whole / batch.lengths.clamp(min=1))[owner]
        losses = self.surrogate(log_ratio, advantages, log_probs)
        if self.correction is not None:
            losses = losses * (old - _given(batch.sampled_log_probs)).exp().clamp(max=self.correction)
        drift = None
        if batch.reference_log_probs is not None:
            drift = log_probs - batch.reference_log_probs
            if self.kl:
                losses = losses + self.kl * ESTIMATORS[self.estimator](drift)
        elif self.kl:
            raise DataError("a KL term needs a reference model: give the loader one")
        if self.entropy:
            losses = losses - self.entropy * entropy
        watched = {
            "entropy": entropy,
            "clip_fraction": self.surrogate.cut(log_ratio, advantages),
            "policy_kl": ESTIMATORS["k3"](old - fixed),
            "sampler_kl": ESTIMATORS["k3"](_given(batch.sampled_log_probs) - old),
            **({} if drift is None else {"reference_kl": ESTIMATORS["k3"](drift)}),
        }
        total, weight = self._reduced(batch, owner, losses)
        return Loss(total, weight, _metrics(batch, watched, weight))

    def _reduced(self, batch: GroupBatch, owner: Tensor, losses: Tensor) -> tuple[Tensor, int]:
        """The sum, and what it is over."""
        if self.mask_truncated:
            losses = losses * ~_given(batch.truncated)[owner]
        if self.reduction == "grpo":
            return (batch.per_answer(losses) / batch.lengths.clamp(min=1)).sum(), batch.answers
        if self.reduction == "dr_grpo":
            assert self.max_length is not None
            return losses.sum() / self.max_length, batch.answers
        counted = batch.weight
        if self.mask_truncated:
            counted = int((batch.lengths * ~_given(batch.truncated)).sum())
        return losses.sum(), counted


def _metrics(batch: GroupBatch, watched: Mapping[str, Tensor], weight: int) -> dict[str, float]:
    """Means over the batch's tokens and facts of the rollout, times the weight that a step's are divided by."""
    means = torch.stack([values.detach().float().mean() for values in watched.values()]).tolist()
    return {name: value * weight for name, value in {**batch.facts, **dict(zip(watched, means, strict=True))}.items()}


def _group_sums(values: Tensor, groups: Tensor) -> Tensor:
    """Of each answer, the sum of its group."""
    sums = values.new_zeros(int(groups.max()) + 1).index_add(0, groups, values)
    return sums[groups]


def _with_advantages(batch: RolloutBatch, advantages: Tensor) -> GroupBatch:
    values: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(RolloutBatch)}
    return GroupBatch(**values, advantages=advantages)


def _given(value: Tensor | None) -> Tensor:
    assert value is not None, "batches of a RolloutLoader have it"
    return value


@dataclass(frozen=True)
class Method:
    """A named method: how advantages are made, and what is minimized."""

    advantages: Advantages
    objective: GRPO

    def but(self, **changes: Any) -> "Method":
        """The same with some settings of the objective changed."""
        return replace(self, objective=replace(self.objective, **changes))


def methods(max_length: int) -> dict[str, Method]:
    """Each method by its name, with its authors' settings."""
    return {
        "grpo": Method(Advantages("grpo"), GRPO()),
        "dr_grpo": Method(Advantages("dr_grpo"), GRPO("dr_grpo", max_length=max_length)),
        "rloo": Method(Advantages("rloo"), GRPO("grpo", Clip(), "product")),
        "reinforce_plus": Method(Advantages("reinforce_plus"), GRPO("dapo")),
        "reinforce_plus_baseline": Method(Advantages("reinforce_plus_baseline"), GRPO("dapo")),
        "dapo": Method(Advantages("grpo"), GRPO("dapo", Clip(0.2, 0.28))),
        "bnpo": Method(Advantages("grpo"), GRPO("bnpo")),
        "cispo": Method(Advantages("grpo"), GRPO("dapo", Cispo())),
        "gspo": Method(Advantages("grpo"), GRPO("grpo", Clip(3e-4, 4e-4), "sequence")),
        "luspo": Method(Advantages("grpo"), GRPO("dr_grpo", Clip(), "sequence", max_length=1)),
        "sapo": Method(Advantages("grpo"), GRPO("grpo", Sapo())),
        "vespo": Method(Advantages("grpo"), GRPO("dapo", Vespo(), "product")),
    }

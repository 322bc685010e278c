r"""PPO: the last step of RLHF. The policy learns from a reward model's word, token by token, in small steps.

    ratio_t    = p_new(token_t) / p_old(token_t)                 old: the policy that drew the answers
    policy     = mean max(-A_t ratio_t, -A_t clip(ratio_t, 1 - e, 1 + e))
    value      = mean 1/2 max((v_t - R_t)^2, (clip(v_t, v_old - e, v_old + e) - R_t)^2)
    loss       = policy + weight * value + gamma * next-token loss of pretraining text        (PPO-ptx)

A_t are the whitened advantages and R_t the returns of `alignment.gae`: the reward model speaks once, at the answer's
last token, and each token pays for what it diverges from a frozen reference. A value network says what reward is to be
expected, so that a token is praised for what it changes. It is a network of its own that begins as the reward model,
which knows already what is rewarded; a second head on the policy would save memory, but the two gradients pull at one
body, and a value loss is the larger one at first. An answer cut where its tokens ran out has a penalty besides.

The weights' running average can be kept: theta_average <- d theta_average + (1 - d) theta after each step.

What goes wrong is seen in the metrics: `kl` and `reference_kl` (nats an answer, and a token, from the reference),
`approximate_kl` (half the mean squared log-ratio to the old policy), `clip_fraction`, `entropy`, lengths, and the
checked reward beside the learned one. On a rollout's first batch the ratio is exactly 1.

Sources: Schulman et al., "Proximal Policy Optimization Algorithms", 2017, arXiv:1707.06347, equations 7 and 9; Ouyang
et al., "Training language models to follow instructions with human feedback", 2022, arXiv:2203.02155, section 3.5,
equation 2 (PPO-ptx), appendix C.4 (value network from the reward model, averaged weights); Ziegler et al., "Fine-Tuning
Language Models from Human Preferences", 2019, arXiv:1909.08593, and its code (value clipping, whitening).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from penjing.alignment import gae
from penjing.alignment.gae import FixedKL, Table
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.reward_model import rewards_of
from penjing.alignment.rollout_loader import RolloutBatch, RolloutLoader
from penjing.alignment.rollouts import Rollout
from penjing.alignment.scores import token_values
from penjing.data.batch import TokenBatch
from penjing.errors import ConfigError, DataError
from penjing.models.language_model import LanguageModel
from penjing.models.scored import ScoredModel
from penjing.nn.mode import evaluation_mode
from penjing.training.interfaces import Loader
from penjing.training.objectives import Loss, next_token
from penjing.training.saving import Together

if TYPE_CHECKING:
    from penjing.tokenizer import Tokenizer


class ActorCritic(Together):
    """The policy, and the network that says what reward is to be expected."""

    def __init__(self, policy: LanguageModel, value: ScoredModel):
        super().__init__()
        self.policy = policy
        self.value = value


@dataclass(frozen=True)
class PPOBatch(RolloutBatch):
    """Answers with what PPO knows of each counted token."""

    values: Float[Tensor, " counted"] | None = None
    """What the value network expected before the first step on the rollout."""
    advantages: Float[Tensor, " counted"] | None = None
    returns: Float[Tensor, " counted"] | None = None
    pretraining: TokenBatch | None = None
    """Text whose next-token loss is learned from with it."""

    def to(self, device: torch.device | str) -> "PPOBatch":
        """The same batch on another device."""
        moved = super().to(device)
        other = replace(moved, pretraining=None if self.pretraining is None else self.pretraining.to(device))
        other.__dict__["counted"] = moved.counted
        return other


@dataclass(frozen=True)
class RewardJudge:
    """Rewards by a reward model: `judge` of a `RolloutLoader`."""

    model: ScoredModel
    scale: float = 1.0
    """What scores less the model's offset are multiplied by."""
    missing_end: float = 1.0
    """What an answer loses that was cut before its end."""

    def __call__(self, items: Sequence[Any], answers: Sequence[Rollout]) -> list[float]:
        """The rewards of answers."""
        rewards = self.scale * rewards_of(self.model, [answer.tokens for answer in answers])
        cut = torch.tensor([answer.truncated for answer in answers], dtype=rewards.dtype)
        return (rewards - self.missing_end * cut).tolist()


@dataclass(frozen=True)
class Experience:
    """What is made of a rollout before it is learned from.

    Raises:
        ConfigError: gamma or lambda is not from 0 to 1.
    """

    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    """Whether rewards are brought to variance 1 before advantages are computed."""

    def __post_init__(self) -> None:
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it is from 0 to 1")

    def __call__(
        self, batches: Sequence[RolloutBatch], values: Sequence[Float[Tensor, " counted"]], coefficient: float
    ) -> list[PPOBatch]:
        """All batches of one rollout, with advantages that are whitened over all of them.

        Args:
            batches: they have rewards, and log-probabilities of the policy and of the reference.
            values: of each batch's counted tokens.
            coefficient: what a nat of divergence costs.
        """
        tables = [Table.of(batch) for batch in batches]
        rewards = [token_rewards_of(batch, table, coefficient) for batch, table in zip(batches, tables, strict=True)]
        if self.whiten_rewards:
            flat = [table.flat(own) for own, table in zip(rewards, tables, strict=True)]
            white = gae.split_like(gae.whitened(torch.cat(flat), keep_mean=True), flat)
            rewards = [table.laid_out(own) for own, table in zip(white, tables, strict=True)]
        plain = [
            table.flat(gae.advantages(own, table.laid_out(value), self.gamma, self.lam))
            for own, value, table in zip(rewards, values, tables, strict=True)
        ]
        whitened = gae.split_like(gae.whitened(torch.cat(plain)), plain)
        return [
            PPOBatch(**vars_of(batch), values=value, advantages=white, returns=own + value)
            for batch, value, own, white in zip(batches, values, plain, whitened, strict=True)
        ]


def token_rewards_of(batch: RolloutBatch, table: Table, coefficient: float) -> Float[Tensor, "answers tokens"]:
    """The reward of each token of a batch.

    Raises:
        DataError: the batch lacks log-probabilities or rewards.
    """
    if batch.old_log_probs is None or batch.reference_log_probs is None or batch.rewards is None:
        raise DataError("PPO needs rewards, a reference model, and old_log_probs of the loader")
    ratios = table.laid_out(batch.old_log_probs - batch.reference_log_probs)
    return gae.token_rewards(batch.rewards, ratios, table.real, coefficient)


def vars_of(batch: RolloutBatch) -> dict[str, Any]:
    """A batch's fields by name."""
    return {name: getattr(batch, name) for name in RolloutBatch.__dataclass_fields__}


@dataclass(frozen=True)
class PPO:
    """The objective. Batches are `PPOBatch`es, the model an `ActorCritic`; a mean over tokens.

    Raises:
        ConfigError: a number outside its range.
    """

    clip: float = 0.2
    """How far a ratio may be from 1 and still be rewarded for going on."""
    value_clip: float = 0.2
    """How far a value may be from what it was and still be corrected further."""
    value_weight: float = 0.1
    pretraining: float = 0.0
    """What the mean next-token loss of the batch's pretraining text counts: gamma; InstructGPT has 27.8."""
    temperature: float = 1.0
    """At which answers are drawn."""

    def __post_init__(self) -> None:
        for name in ("clip", "value_clip", "value_weight", "pretraining"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")

    def __call__(self, model: ActorCritic, batch: PPOBatch) -> Loss:
        """The loss of a batch."""
        assert batch.advantages is not None
        assert batch.returns is not None
        assert batch.values is not None
        assert batch.old_log_probs is not None
        assert batch.reference_log_probs is not None
        log_probs, entropy = answer_log_probs(model.policy, batch, self.temperature)
        moved = log_probs - batch.old_log_probs  # (counted,), like all that follow
        policy, clipped = policy_losses(moved, batch.advantages, self.clip)
        values = token_values(model.value, batch)
        value, value_clipped = value_losses(values, batch.values, batch.returns, self.value_clip)
        total = policy.sum() + self.value_weight * value.sum()
        metrics: dict[str, float] = {}
        if self.pretraining:
            if batch.pretraining is None:
                raise DataError("PPO is to learn from pretraining text, too, but the loader has none")
            text = next_token(model.policy, batch.pretraining)
            mean = text.total / text.weight
            total = total + self.pretraining * batch.weight * mean
            metrics["pretraining_loss"] = float(mean.detach()) * batch.weight
        with torch.no_grad():
            divergence = (log_probs - batch.reference_log_probs).sum()
            sums = {
                "policy_loss": policy.sum(),
                "value_loss": value.sum(),
                "kl": divergence * batch.weight / batch.answers,
                "reference_kl": divergence,
                "approximate_kl": moved.square().sum() / 2,
                "ratio": moved.exp().sum(),
                "clip_fraction": clipped.sum(),
                "value_clip_fraction": value_clipped.sum(),
                "entropy": entropy.sum(),
                "value": values.sum(),
                "return": batch.returns.sum(),
            }
            found = torch.stack([number.float() for number in sums.values()]).tolist()
        metrics |= dict(zip(sums, found, strict=True))
        metrics |= {name: number * batch.weight for name, number in batch.facts.items()}
        return Loss(total, batch.weight, metrics)


def policy_losses(
    log_ratios: Float[Tensor, " tokens"], advantages: Float[Tensor, " tokens"], clip: float
) -> tuple[Float[Tensor, " tokens"], Tensor]:
    """What each token adds to the policy's loss, and for which the clipped ratio counts."""
    ratios = log_ratios.exp()
    free, bound = -advantages * ratios, -advantages * ratios.clamp(1 - clip, 1 + clip)
    return torch.maximum(free, bound), bound > free


def value_losses(
    values: Float[Tensor, " tokens"], old: Float[Tensor, " tokens"], returns: Float[Tensor, " tokens"], clip: float
) -> tuple[Float[Tensor, " tokens"], Tensor]:
    """What each token adds to the value network's loss, and for which the clipped value counts."""
    bounded = torch.minimum(torch.maximum(values, old - clip), old + clip)
    free, bound = (values - returns).square(), (bounded - returns).square()
    return torch.maximum(free, bound) / 2, bound > free


class PPOLoader(RolloutLoader[Any]):
    """Rollouts with advantages, and the KL coefficient that follows them.

    Args:
        config: how rollouts are drawn and divided.
        items: what is asked.
        model: the policy that answers, and the value network.
        tokenizer: the policy's.
        rollouts: how answers are drawn.
        judge: gives rewards: a `RewardJudge`, as a rule.
        reference: the frozen model.
        kl: what divergence costs.
        experience: how advantages are computed.
        pretraining: batches of text, one of which goes with each batch of answers.
        more: what `RolloutLoader` takes besides.
    """

    def __init__(
        self,
        config: RolloutLoader.Config,
        items: Sequence[Any],
        model: ActorCritic,
        tokenizer: "Tokenizer",
        rollouts: Any,
        judge: Any,
        *,
        reference: LanguageModel,
        kl: FixedKL | None = None,
        experience: Experience | None = None,
        pretraining: Loader | None = None,
        **more: Any,
    ):
        self.model, self.kl, self.experience = model, kl or FixedKL(), experience or Experience()
        self.coefficient = self.kl.start
        self._pretraining = pretraining
        super().__init__(
            config,
            items,
            model.policy,
            tokenizer,
            rollouts,
            judge,
            reference=reference,
            finish=self._advantages,
            kind=PPOBatch,
            **more,
        )

    def __next__(self) -> RolloutBatch:
        batch = super().__next__()
        if self._pretraining is None:
            return batch
        assert isinstance(batch, PPOBatch)
        return replace(batch, pretraining=next(self._pretraining))

    def _advantages(self, batches: list[RolloutBatch]) -> list[PPOBatch]:
        values = [frozen_values(self.model.value, batch) for batch in batches]
        made = self.experience(batches, values, self.coefficient)
        divergence = mean_divergence(made)
        facts = {"kl_coefficient": self.coefficient, "rollout_kl": divergence}
        answers = sum(batch.answers for batch in made)
        self.coefficient = self.kl.next(self.coefficient, divergence, answers)
        return [replace(batch, facts={**batch.facts, **facts}) for batch in made]

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, the KL coefficient and the pretraining text's place included."""
        text = None if self._pretraining is None else self._pretraining.state_dict()
        return {**super().state_dict(), "kl_coefficient": self.coefficient, "pretraining": text}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state` was taken. Errors as of a `RolloutLoader`."""
        text = state.get("pretraining")
        if (text is None) != (self._pretraining is None):
            raise DataError("the saved position in the data does not fit: pretraining text was added or left out")
        super().load_state_dict(state)
        self.coefficient = float(state["kl_coefficient"])
        if self._pretraining is not None:
            self._pretraining.load_state_dict(state["pretraining"])


@torch.no_grad()
def frozen_values(model: ScoredModel, batch: RolloutBatch) -> Float[Tensor, " counted"]:
    """The values of the counted tokens, without a gradient; on the CPU."""
    with evaluation_mode(model):
        return token_values(model, batch.to(model.embedding.weight.device)).float().cpu()


def mean_divergence(batches: Iterable[RolloutBatch]) -> float:
    """Nats an answer by which the policy that drew has moved from the reference: the mean of k1."""
    total, answers = 0.0, 0
    for batch in batches:
        assert batch.old_log_probs is not None
        assert batch.reference_log_probs is not None
        total += float((batch.old_log_probs - batch.reference_log_probs).double().sum())
        answers += batch.answers
    return total / answers

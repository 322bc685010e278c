"""PPO where everything can be summed: errors of advantages, the clip, and what divergence buys of a wrong reward."""

import copy
from collections.abc import Sequence
from statistics import fmean, stdev

import torch
from common import arguments, table
from enumerated import Answers, divergence, every, expected
from torch import Tensor

from penjing.alignment import gae
from penjing.alignment.loader import ItemLoader
from penjing.alignment.ppo import PPO, ActorCritic, Experience, frozen_values
from penjing.alignment.ppo_optimizer import PPOOptimizer
from penjing.alignment.reward_model import BradleyTerry, Ranked, pack_ranked
from penjing.alignment.scores import score_all
from penjing.models.scored import ScoredModel
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine
from penjing.training.plots import Curve, Plot

LETTERS, LENGTH, PROMPTS = 6, 5, 4
N = 32
"""Answers to each prompt in a rollout."""
NO_CLIP = 1e9
SEEDS = (4, 5, 6)
CHARM, CHARMED = 4, 1.0
"""A letter that judges like to hear, and by how much they overrate each."""


def true_rewards(world: Answers, generator: torch.Generator) -> Tensor:
    """Each letter suits a prompt, and each letter suits the one before it, or does not; `(prompts, answers)`."""
    single = torch.randn(PROMPTS, LETTERS, generator=generator)
    double = torch.randn(LETTERS, LETTERS, generator=generator)
    suits = single[:, world.words].sum(-1) + double[world.words[:, :-1], world.words[:, 1:]].sum(-1)
    return (suits - suits.mean()) / suits.std()


def learned_reward(world: Answers, rewards: Tensor, rankings: int, generator: torch.Generator) -> ScoredModel:
    """A reward model of so many orders of four answers, by judges who like a letter more than it is worth."""
    items = []
    liked = 2 * (rewards + CHARMED * (world.words == CHARM).sum(-1))
    for number in range(rankings):
        prompt, words = number % PROMPTS, torch.randint(len(world.words), (4,), generator=generator)
        noise = -torch.empty(4).exponential_(generator=generator).log()
        answers = tuple(world.conversation(prompt, word) for word in words.tolist())
        items.append(Ranked(answers, tuple((liked[prompt, words] + noise).tolist())))
    model = ScoredModel.of(world.model(seed=3))
    loader = ItemLoader(items, 16, lambda some, origin: pack_ranked(some, origin=origin), seed=1)
    engine = Engine(model, BradleyTerry(), AdamW.Config(learning_rate=5e-3, weight_decay=0.0))
    for _ in range(600):
        engine.step([next(loader)])
    return model.eval()


def scores_of(world: Answers, model: ScoredModel) -> Tensor:
    """What a reward model says of all answers; `(prompts, answers)`."""
    answers = [world.conversation(p, w) for p in range(PROMPTS) for w in range(len(world.words))]
    return score_all(model, answers).view(PROMPTS, -1).double()


class Run:
    """PPO on answers, rollout by rollout."""

    def __init__(
        self,
        world: Answers,
        rewards: Tensor,
        value: ScoredModel,
        *,
        rate: float = 3e-3,
        clip: float = 0.2,
        kl: float = 0.0,
        epochs: int = 4,
        lam: float = 0.95,
        seed: int = SEEDS[0],
    ):
        self.world, self.rewards, self.kl, self.epochs = world, rewards, kl, epochs
        self.reference = world.model(seed=2)
        self.model = ActorCritic(copy.deepcopy(self.reference), copy.deepcopy(value))
        optimizer = PPOOptimizer.Config(learning_rate=rate, value_learning_rate=5e-3)
        self.engine = Engine(self.model, PPO(clip=clip, value_clip=0.5, value_weight=0.5), optimizer)
        self.experience = Experience(lam=lam)
        self.generator = torch.Generator().manual_seed(seed)

    def rollouts(self, count: int) -> None:
        """Draws and learns so many times."""
        for _ in range(count):
            policy = self.model.policy
            batch = self.world.rollout(policy, self.reference, range(PROMPTS), N, self.rewards, self.generator)
            values = frozen_values(self.model.value, batch)
            (made,) = self.experience([batch], [values], self.kl)
            for _ in range(self.epochs):
                self.engine.step([made])

    @property
    def policy(self) -> Tensor:
        """Log-probabilities of all letters of all answers."""
        return self.world.log_probs(self.model.policy)


def exact_values(world: Answers, log_probs: Tensor, rewards: Tensor) -> Tensor:
    """What is to be expected before each letter and after the last; `(prompts, answers, length + 1)`."""
    found = [rewards.double()]
    for place in reversed(range(LENGTH)):
        rest = LETTERS ** (LENGTH - place - 1)  # answers that begin with the same letters, this one included
        after = found[0].view(PROMPTS, -1, LETTERS, rest)[..., 0]
        own = log_probs[..., place].exp().view(PROMPTS, -1, LETTERS, rest)[..., 0]
        before = (own * after).sum(-1)
        found.insert(0, before.repeat_interleave(LETTERS * rest, dim=1))
    return torch.stack(found, dim=-1)


@torch.no_grad()
def said_values(world: Answers, model: ScoredModel) -> Tensor:
    """What a value network expects before each letter; `(prompts, answers, length)`."""
    begun = every(LETTERS, LENGTH - 1)
    rows = torch.cat([world.prompts.repeat_interleave(len(begun), 0), begun.repeat(PROMPTS, 1)], dim=1)
    found = model(rows).squeeze(-1)[:, world.prompts.shape[1] - 1 :].double()
    return found.view(PROMPTS, len(begun), LENGTH).repeat_interleave(LETTERS, dim=1)


def errors(world: Answers, log_probs: Tensor, rewards: Tensor, values: Tensor, lam: float) -> tuple[float, float]:
    """How far estimated advantages are from the true ones, in root mean squares over what the policy draws.

    Bias is what remains in the mean over all that may follow a letter, and depends on the letter; what the estimates of
    all letters at a place share does not turn a gradient. Noise is all the rest.
    """
    exact = exact_values(world, log_probs, rewards)
    true = exact[..., 1:] - exact[..., :-1]
    given = torch.zeros_like(values)
    given[..., -1] = rewards
    found = gae.advantages(given.view(-1, LENGTH), values.reshape(-1, LENGTH), 1.0, lam).view_as(values)
    answer = log_probs.sum(-1).exp()  # (prompts, answers)
    bias = noise = 0.0
    for place in range(LENGTH):
        rest = LETTERS ** (LENGTH - place - 1)
        chance = answer.view(PROMPTS, -1, LETTERS, rest)
        wrong = (found - true)[..., place].view_as(chance)
        of_letter = (chance * wrong).sum(-1) / chance.sum(-1)  # (prompts, beginnings, letters)
        letter = chance.sum(-1) / chance.sum((-1, -2))[..., None]
        shared = (letter * of_letter).sum(-1, keepdim=True)
        systematic = (of_letter - shared)[..., None]
        bias += float((chance * systematic.square()).sum()) / (PROMPTS * LENGTH)
        noise += float((chance * (wrong - systematic).square()).sum()) / (PROMPTS * LENGTH)
    return bias**0.5, noise**0.5


def best(reference: Tensor, rewards: Tensor, betas: Sequence[float]) -> list[Tensor]:
    """The policies that one could write down (chapter 22), as log-probabilities of whole answers."""
    return [(reference.sum(-1) + rewards / beta).log_softmax(-1)[..., None] for beta in betas]


def main() -> None:
    """Prints errors of advantages, what the clip does and what divergence buys, and draws the last."""
    args = arguments("25-ppo", __doc__, rollouts=60)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    world = Answers(LETTERS, LENGTH, torch.arange(PROMPTS)[:, None])
    rewards = true_rewards(world, generator)
    base = world.model(seed=2)
    reference = world.log_probs(base)

    none = ScoredModel.of(base)
    still = Run(world, rewards, none, rate=0.0, lam=1.0)
    still.rollouts(20)
    networks = [torch.zeros_like(reference), said_values(world, still.model.value.eval())]
    networks.append(exact_values(world, reference, rewards)[..., :-1])
    rows = [
        (lam, *(number for values in networks for number in errors(world, reference, rewards, values, lam)))
        for lam in (1.0, 0.95, 0.8, 0.5, 0.0)
    ]
    table(["lambda", "no values: bias", "noise", "learned: bias", "noise", "exact: bias", "noise"], rows)
    print()

    rows = []
    for clip, epochs in ((0.2, 1), (0.05, 16), (0.2, 16), (NO_CLIP, 16)):
        found = []
        for seed in SEEDS:
            run = Run(world, rewards, none, rate=1e-2, clip=clip, epochs=epochs, seed=seed)
            before, longest = reference, 0.0
            for _ in range(20):
                run.rollouts(1)
                longest = max(longest, divergence(before, now := run.policy))
                before = now
            found.append((expected(before, rewards), longest, -expected(before, before.sum(-1))))
        reward, longest, entropy = (fmean(column) for column in zip(*found, strict=True))
        spread = stdev(reward for reward, _, _ in found)
        rows.append(("none" if clip == NO_CLIP else f"{clip}", epochs, reward, spread, longest, entropy))
    table(["clip", "epochs", "reward", "spread of 3", "longest step, nats", "entropy"], rows)
    print()

    model = learned_reward(world, rewards, 1600, generator)
    learned = scores_of(world, model)
    learned = learned - expected(reference, learned)
    betas = [0.05 * 1.3**power for power in range(24)]
    curves = []
    for name, by in (
        ("the most that a divergence can buy", rewards),
        ("the best policies for the learned reward", learned),
    ):
        policies = best(reference, by, betas)
        distance = [divergence(p, reference.sum(-1, keepdim=True)) for p in policies]
        curves.append(Curve(name, distance, [expected(p, rewards) for p in policies]))
    rows = [("the base model", 0, expected(reference, learned), expected(reference, rewards), 0.0)]
    for kl in (0.0, 0.3, 1.0, 3.0):
        run = Run(world, learned, model, rate=1e-3, kl=kl)
        points = [(0.0, expected(reference, rewards))]
        for done in range(1, 13):
            run.rollouts(args.rollouts // 12)
            now = run.policy
            points.append((divergence(now, reference), expected(now, rewards)))
            if done in (4, 12):
                told = f"PPO, KL coefficient {kl}", done * (args.rollouts // 12)
                rows.append((*told, expected(now, learned), points[-1][1], points[-1][0]))
        curves.append(Curve(f"PPO, KL coefficient {kl}", *zip(*points, strict=True), points=True))
    table(["", "rollouts", "learned reward", "true reward", "KL"], rows)
    Plot(
        "A wrong reward, and what divergence buys of the true one",
        "KL from the base model, nats",
        "true reward",
        curves,
    ).save(args.image)


if __name__ == "__main__":
    main()

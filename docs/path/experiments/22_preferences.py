"""Preferences in a world so small that the best policy is known: which methods find it, and from how much data."""

import copy
import math
from dataclasses import replace

import torch
from common import arguments, llama, table
from torch import Tensor

from penjing.alignment.loader import ItemLoader
from penjing.alignment.pairs import Pair, pack_pairs
from penjing.alignment.preference import DPO, IPO, Hinge, Preference, SimPO
from penjing.alignment.reference import reference_log_probs
from penjing.models.language_model import LanguageModel
from penjing.tokenizer.chat import ChatTokens
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine
from penjing.training.plots import Curve, Plot
from penjing.training.schedules import Linear

PROMPTS, ANSWERS = 16, 12
END = PROMPTS + ANSWERS
BETA = 0.5
GRID = [0.15 * 1.25**power for power in range(18)]


def answer(prompt: int, choice: int) -> ChatTokens:
    """A conversation: one token asks, one answers, one ends it."""
    return ChatTokens([prompt, PROMPTS + choice, END], [False, True, True])


@torch.no_grad()
def policy_of(model: LanguageModel) -> Tensor:
    """Log-probabilities of every answer to every prompt, its end included; `(prompts, answers)`."""
    rows = torch.tensor([answer(p, a).ids[:2] for p in range(PROMPTS) for a in range(ANSWERS)])
    found = model(rows).log_softmax(dim=-1)
    chosen = found[:, 0].gather(1, rows[:, 1:]).squeeze(1) + found[:, 1, END]
    return chosen.view(PROMPTS, ANSWERS)


def base_model(generator: torch.Generator) -> LanguageModel:
    """A model that answers each prompt by some distribution of its own; where we all begin."""
    model = llama(END + 1, context=4, width=32, layers=1)
    model.initialise(generator)
    wanted = (1.0 * torch.randn(PROMPTS, ANSWERS, generator=generator)).softmax(dim=-1)
    rows = torch.tensor([answer(p, a).ids for p in range(PROMPTS) for a in range(ANSWERS)])
    optimizer = AdamW.Config(learning_rate=0.01, weight_decay=0.0).build(model)
    for _ in range(400):
        found = model(rows[:, :2]).log_softmax(dim=-1)
        losses = found[:, 0].gather(1, rows[:, 1:2]).squeeze(1) + found[:, 1, END]
        (-(losses * wanted.flatten()).sum() / PROMPTS).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def preferred(reference: Tensor, rewards: Tensor, count: int, generator: torch.Generator) -> list[Pair]:
    """Pairs drawn from the reference; who wins is drawn by Bradley and Terry's model of their rewards."""
    pairs = []
    prompts = torch.randint(PROMPTS, (count,), generator=generator)
    both = torch.multinomial(reference.exp()[prompts], 2, generator=generator)  # (count, 2), two different ones
    gaps = rewards[prompts, both[:, 0]] - rewards[prompts, both[:, 1]]
    wins = torch.rand(count, generator=generator) < gaps.sigmoid()
    for prompt, (first, second), won in zip(prompts.tolist(), both.tolist(), wins.tolist(), strict=True):
        better, worse = (first, second) if won else (second, first)
        pairs.append(Pair(answer(prompt, better), answer(prompt, worse)))
    return pairs


def trained(base: LanguageModel, pairs: list[Pair], objective: Preference, steps: int) -> LanguageModel:
    """The base model after some steps on pairs."""
    model = copy.deepcopy(base)
    if objective.needs_reference:
        found = iter(reference_log_probs(base, [one for pair in pairs for one in pair.answers]))
        pairs = [replace(pair, reference=(next(found), next(found))) for pair in pairs]
    loader = ItemLoader(pairs, min(64, len(pairs)), lambda some, origin: pack_pairs(some, origin), seed=1)
    engine = Engine(model, objective, AdamW.Config(learning_rate=3e-3, weight_decay=0.0))
    schedule = Linear(warmup=0.05)
    for step in range(steps):
        engine.step([next(loader)], schedule((step + 0.5) / steps))
    return model.eval()


def judged(policy: Tensor, reference: Tensor, rewards: Tensor) -> tuple[float, float]:
    """Expected reward, and divergence from the reference in nats, both exact and over all prompts."""
    chances = policy.softmax(dim=-1)
    kl = (chances * (policy.log_softmax(-1) - reference.log_softmax(-1))).sum(-1).mean()
    return float((chances * rewards).sum(-1).mean()), float(kl)


def main() -> None:
    """Prints how near each method comes to the best policy, and draws reward against divergence."""
    args = arguments("22-preferences", __doc__, pairs=20_000, steps=1200)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    base = base_model(generator)
    reference = policy_of(base)
    rewards = torch.randn(PROMPTS, ANSWERS, generator=generator)
    best = reference + rewards / BETA  # and normalised: the policy that DPO should find
    everything = preferred(reference, rewards, args.pairs, generator)

    methods: dict[str, Preference] = {
        "DPO": DPO(beta=BETA),
        "DPO, a tenth smoothed": DPO(beta=BETA, smoothing=0.1),
        "IPO": IPO(beta=BETA),
        "hinge": Hinge(beta=BETA),
        "SimPO": SimPO(beta=2.0, gamma=0.5),
        "DPO without a reference": DPO(beta=BETA, reference_free=True),
    }
    rows = [("the base model", "", *judged(reference, reference, rewards), distance(reference, best))]
    counts = (200, 2_000, args.pairs)
    found = {count: policy_of(trained(base, everything[:count], methods["DPO"], args.steps)) for count in counts}
    for count, policy in found.items():
        rows.append(("DPO", f"{count:,}", *judged(policy, reference, rewards), distance(policy, best)))
    for name, objective in list(methods.items())[1:]:
        policy = policy_of(trained(base, everything, objective, args.steps))
        rows.append((name, f"{args.pairs:,}", *judged(policy, reference, rewards), distance(policy, best)))
    rows.append(("the best policy", "", *judged(best, reference, rewards), 0.0))
    table(["", "pairs", "reward", "KL", "KL to the best"], rows)

    frontier = [judged(reference + rewards / beta, reference, rewards) for beta in GRID]
    curves = [Curve("the most that a divergence can buy", [kl for _, kl in frontier], [r for r, _ in frontier])]
    for beta in (0.2, 0.5, 1.0, 2.0):
        points = []
        for count in counts:
            again = beta == BETA
            policy = found[count] if again else policy_of(trained(base, everything[:count], DPO(beta=beta), args.steps))
            points.append(judged(policy, reference, rewards))
        label = f"DPO, beta {beta}: 200, 2,000, {args.pairs:,} pairs"
        curves.append(Curve(label, [kl for _, kl in points], [r for r, _ in points], points=True))
    Plot("Reward and what it costs", "KL from the base model, nats", "expected reward", curves).save(args.image)


def distance(policy: Tensor, best: Tensor) -> float:
    """KL(policy || best) in nats, the mean over prompts."""
    chances = policy.softmax(dim=-1)
    found = float((chances * (policy.log_softmax(-1) - best.log_softmax(-1))).sum(-1).mean())
    return 0.0 if math.isclose(found, 0, abs_tol=1e-9) else found


if __name__ == "__main__":
    main()

"""Groups and a reward that can be checked: which groups teach, whom a division favours, what a KL estimate is worth."""

import copy
import math
from statistics import fmean, stdev

import torch
from common import arguments, table
from enumerated import Answers, divergence, every
from torch import Tensor

from penjing.alignment.grpo import Kind, group_advantages, methods
from penjing.alignment.kl import ESTIMATORS
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine
from penjing.training.plots import Curve, Plot

LETTERS, LENGTH = 6, 4
SEEDS = (1, 2, 3)
PUSHES: tuple[tuple[Kind, int], ...] = (("rloo", 8), ("grpo", 8), ("grpo", 64))


def task() -> tuple[Answers, Tensor]:
    """Prompts of two letters, which want the first one exactly so many times, once to four; and what is right."""
    prompts = every(LETTERS, 2)
    prompts = prompts[prompts[:, 1] < LENGTH]  # the second letter is the number less one
    world = Answers(LETTERS, LENGTH, prompts)
    times = (world.words[None] == prompts[:, :1, None]).sum(-1)  # (prompts, answers)
    return world, (times == prompts[:, 1:] + 1).double()


def push(p: float, n: int, kind: Kind) -> float:
    """How hard a prompt whose answers are right with chance p pulls towards right ones: the mean over groups of n of
    the right answers' advantages, over n.
    """
    found = 0.0
    for right in range(n + 1):
        rewards = torch.tensor([1.0] * right + [0.0] * (n - right))
        zeros = torch.zeros(n, dtype=torch.long)
        gains = group_advantages(rewards, zeros, torch.ones_like(zeros), kind)
        found += math.comb(n, right) * p**right * (1 - p) ** (n - right) * float((gains * rewards).sum()) / n
    return found


def trained(world: Answers, right: Tensor, name: str, n: int, answers: int, rollouts: int, seed: int) -> list[Tensor]:
    """A policy that learns from so many answers a rollout: letters' log-probabilities, as it goes on."""
    policy = world.model(seed=2)
    reference = copy.deepcopy(policy)
    method = methods(LENGTH)[name]
    engine = Engine(policy, method.objective, AdamW.Config(learning_rate=3e-3, weight_decay=0.0))
    generator = torch.Generator().manual_seed(seed)
    found = [world.log_probs(policy)]
    for done in range(1, rollouts + 1):
        rounds = range(-(-answers // (n * len(world.prompts))))
        order = torch.cat([torch.randperm(len(world.prompts), generator=generator) for _ in rounds])
        asked = order[: answers // n].tolist()
        batch = world.rollout(policy, reference, asked, n, right, generator)
        (made,) = method.advantages([batch])
        for _ in range(2):
            engine.step([made])
        if done % (rollouts // 10) == 0:
            found.append(world.log_probs(policy))
    return found


def by_times(log_probs: Tensor, right: Tensor) -> list[float]:
    """The exact chance of a right answer, of prompts that want the letter once, twice, ..."""
    chances = (log_probs.sum(-1).exp() * right).sum(-1).view(LETTERS, LENGTH)
    return chances.mean(0).tolist()


def estimates(policy: Tensor, reference: Tensor) -> list[tuple[str, float, float]]:
    """Of each estimator: mean and standard deviation over the answers that a policy draws, its letters summed up."""
    chances, log_ratio = policy.sum(-1).exp(), policy - reference
    rows = []
    for name, estimator in ESTIMATORS.items():
        values = estimator(log_ratio).sum(-1)
        mean = (chances * values).sum(-1, keepdim=True)
        spread = (chances * (values - mean).square()).sum(-1).mean().sqrt()
        rows.append((name, float(mean.mean()), float(spread)))
    return rows


def slopes(logits: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """The gradient for one letter's logits of each estimator as a loss, in the mean over draws; and KL's own."""
    logits = logits.clone().requires_grad_()
    log_probs = logits.log_softmax(-1)
    ratio = log_probs - reference
    losses = {name: (log_probs.detach().exp() * estimator(ratio)).sum() for name, estimator in ESTIMATORS.items()}
    losses["KL"] = (log_probs.exp() * ratio).sum()
    return {name: torch.autograd.grad(loss, logits, retain_graph=True)[0] for name, loss in losses.items()}


def main() -> None:
    """Prints what groups teach, what estimators are worth and what methods learn, and draws the last."""
    args = arguments("26-grpo", __doc__, rollouts=100)
    torch.set_num_threads(1)
    world, right = task()
    start = world.log_probs(world.model(seed=2))
    chances = by_times(start, right)
    rows = []
    for times, p in enumerate(chances, 1):
        useful = (1 - p**n - (1 - p) ** n for n in (2, 8, 32))
        pushes = (push(p, n, kind) / push(0.5, n, kind) for kind, n in PUSHES)
        rows.append((f"{times} times", *(f"{number:.4f}" for number in (p, *useful, *pushes))))
    head = ["the letter", "right", "useful of 2", "of 8", "of 32", "push: rloo", "grpo of 8", "grpo of 64"]
    table(head, rows)
    print()

    runs: dict[tuple[str, int], list[list[Tensor]]] = {}
    for name, n in (("grpo", 8), ("dr_grpo", 8), ("rloo", 8), ("grpo", 2), ("grpo", 32)):
        runs[name, n] = [trained(world, right, name, n, 192, args.rollouts, seed) for seed in SEEDS]

    rows = []
    for stage in (1, len(runs["grpo", 8][0]) - 1):
        policy = runs["grpo", 8][0][stage]
        told = f"after {stage * (args.rollouts // 10)} rollouts"
        rows.append((told, "exact", divergence(policy, start), ""))
        rows += [("", *row) for row in estimates(policy, start)]
    table(["KL of an answer, GRPO", "", "mean", "spread"], rows)
    print()

    generator = torch.Generator().manual_seed(1)
    rows = []
    for far in (0.1, 0.5, 2.0):
        logits = torch.randn(LETTERS, generator=generator, dtype=torch.float64)
        known = (logits + far * torch.randn(LETTERS, generator=generator, dtype=torch.float64)).log_softmax(-1)
        found = slopes(logits, known)
        kl = float((logits.softmax(-1) * (logits.log_softmax(-1) - known)).sum())
        rows.append(
            (f"KL {kl:.3f}", *(float((found[k] - found["KL"]).norm() / found["KL"].norm()) for k in ESTIMATORS))
        )
    table(["as a loss: error of the gradient", *ESTIMATORS], rows)
    print()

    rows, curves = [("at first", *chances, fmean(chances), "")], []
    for (name, n), found in runs.items():
        last = [by_times(run[-1], right) for run in found]
        means = [fmean(one) for one in last]
        rows.append(
            (f"{name}, groups of {n}", *(fmean(c) for c in zip(*last, strict=True)), fmean(means), stdev(means))
        )
        course = [[fmean(by_times(point, right)) for point in run] for run in found]
        answers = [192 * (args.rollouts // 10) * point for point in range(len(course[0]))]
        curves.append(
            Curve(f"{name}, groups of {n}", answers, [fmean(c) for c in zip(*course, strict=True)], points=True)
        )
    head = ["share right", *(f"{times} times" for times in range(1, LENGTH + 1)), "mean", "spread of 3"]
    table(head, rows)
    Plot("A letter so many times: share of right answers", "answers drawn", "share right, exactly", curves).save(
        args.image
    )


if __name__ == "__main__":
    main()

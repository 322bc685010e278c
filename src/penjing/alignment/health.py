r"""Health: what a run of reinforcement learning tells of itself, and rules that say in words when it is sick.

A loss says nothing here: at the first step it is 0, whatever is learned. What tells is written with each step
(`rollout_loader`'s facts, the objective's metrics):

    reward, reward_spread       of all answers drawn         truncated       share of answers that were cut
    without_signal              share of groups with equal   answer_length   tokens, mean
                                rewards, which teach nothing  clip_fraction   tokens beyond the ratio's bounds
    entropy                     nats, mean over tokens        reference_kl    nats a token, from the reference
    sampler_kl                  nats, between the engine's probabilities and training's: nothing but rounding

    health = Health((NoSignal(), EntropyCollapse(), Drift(most=0.5)))
    Trainer.Config(...).build(model, objective, loader, out, watch=health)

The Trainer shows `health` each step's line of metrics. A rule looks at all lines so far. What it finds is said once,
when it begins, and again when it begins anew; a rule that `stops` ends the run with it. Windows are means over some
steps, so that one odd rollout is not a sickness.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from penjing.errors import TrainingError
from penjing.training.metrics import read_metrics
from penjing.training.plots import Curve, Plot

Line = Mapping[str, Any]

PLOTS = {
    "reward": ("Reward", "reward", ("reward", "reward_spread", "checked")),
    "kl": ("Divergence", "nats per token", ("reference_kl", "policy_kl", "sampler_kl")),
    "entropy": ("Entropy", "nats per token", ("entropy",)),
    "answer_length": ("Length of answers", "tokens", ("answer_length",)),
    "shares": ("What is lost", "share", ("without_signal", "truncated", "clip_fraction")),
}
"""Title, unit and metrics of each picture, by file name."""


@dataclass(frozen=True)
class Rule(ABC):
    """One sickness."""

    window: int = 10
    """Steps over which means are taken."""
    stops: bool = False
    """Whether it ends the run; else it is said."""

    @abstractmethod
    def __call__(self, lines: Sequence[Line]) -> str | None:
        """What is wrong after these steps, if anything."""

    def lately(self, lines: Sequence[Line], name: str) -> float | None:
        """The mean of the last steps; None before there are enough."""
        return _mean(lines[-self.window :], name, self.window)

    def at_first(self, lines: Sequence[Line], name: str) -> float | None:
        """The mean of the first steps; None while the last ones are among them."""
        return _mean(lines[: self.window], name, self.window) if len(lines) >= 2 * self.window else None


@dataclass(frozen=True)
class NoSignal(Rule):
    """Every group has equal rewards."""

    most: float = 1.0
    """The share of groups without signal from which on it is a sickness."""

    def __call__(self, lines: Sequence[Line]) -> str | None:
        """See `Rule`."""
        share, reward = self.lately(lines, "without_signal"), self.lately(lines, "reward")
        if share is None or share < self.most:
            return None
        which = "every group has" if share == 1 else f"{share:.0%} of groups have"
        return (
            f"{which} equal rewards: no gradient. The mean reward is {reward:.3g}: prompts are too hard or too easy "
            "for this model, or the reward cannot tell its answers apart; take other prompts, more answers of each, a "
            "higher temperature, or a reward that gives parts"
        )


@dataclass(frozen=True)
class EntropyCollapse(Rule):
    """The policy always says the same."""

    least: float = 0.1
    """The part of the entropy at first below which it is a sickness."""

    def __call__(self, lines: Sequence[Line]) -> str | None:
        """See `Rule`."""
        first, now = self.at_first(lines, "entropy"), self.lately(lines, "entropy")
        if first is None or now is None or now >= self.least * first:
            return None
        return (
            f"the entropy has fallen from {first:.3g} to {now:.3g} nats a token: answers are nearly all alike, and "
            "nothing new will be found; lower the learning rate, clip higher (dapo), or add an entropy bonus"
        )


@dataclass(frozen=True)
class Drift(Rule):
    """The policy is far from the reference."""

    most: float = 0.5
    """Nats a token."""

    def __call__(self, lines: Sequence[Line]) -> str | None:
        """See `Rule`."""
        now = self.lately(lines, "reference_kl")
        if now is None or now <= self.most:
            return None
        return (
            f"the policy is {now:.3g} nats a token from the reference, and the bound is {self.most:g}: what it could "
            "do besides may be lost; raise kl, lower the learning rate, or stop earlier"
        )


@dataclass(frozen=True)
class LargeSteps(Rule):
    """Most of a rollout is beyond the bounds of the ratio."""

    most: float = 0.4
    """The share of clipped tokens."""

    def __call__(self, lines: Sequence[Line]) -> str | None:
        """See `Rule`."""
        now = self.lately(lines, "clip_fraction")
        if now is None or now <= self.most:
            return None
        return (
            f"{now:.0%} of tokens are beyond the bounds of the ratio: steps are too large; lower the learning rate, or "
            "go through a rollout less often"
        )


@dataclass(frozen=True)
class LengthRunaway(Rule):
    """Answers grow and grow."""

    most: float = 3.0
    """How many times as long as at first."""
    truncated: float = 0.5
    """The share of cut answers that is a sickness, too."""

    def __call__(self, lines: Sequence[Line]) -> str | None:
        """See `Rule`."""
        first, now = self.at_first(lines, "answer_length"), self.lately(lines, "answer_length")
        cut = self.lately(lines, "truncated")
        if first is not None and now is not None and now > self.most * first:
            return (
                f"answers have grown from {first:.3g} to {now:.3g} tokens: length runs away; look at some, shape the "
                "reward by length (overlong), or take the reduction dr_grpo"
            )
        if cut is not None and cut > self.truncated:
            return (
                f"{cut:.0%} of answers are cut where their tokens run out, and judged unfinished: raise max_new_tokens"
            )
        return None


@dataclass(frozen=True)
class RewardHacking(Rule):
    """The reward rises while what it stands for falls."""

    rise: float = 0.05
    """Of the reward, at least."""
    fall: float = 0.05
    """Of the checked reward, at least."""
    checked: str = "checked"
    """The name under which the loader's `watch` records it."""

    def __call__(self, lines: Sequence[Line]) -> str | None:
        """See `Rule`."""
        means = [look(lines, name) for name in ("reward", self.checked) for look in (self.at_first, self.lately)]
        known = [mean for mean in means if mean is not None]
        if len(known) < len(means):
            return None
        reward, reward_now, checked, checked_now = known
        if reward_now < reward + self.rise or checked_now > checked - self.fall:
            return None
        return (
            f"the reward has risen from {reward:.3g} to {reward_now:.3g} while the checked reward fell from "
            f"{checked:.3g} to {checked_now:.3g}: the reward is being hacked; stop here, raise kl, or mend the reward"
        )


@dataclass(frozen=True)
class Mismatch(Rule):
    """The engine and the training pass disagree."""

    most: float = 0.05
    """Nats a token; rounding makes a thousandth of that in bf16."""

    def __call__(self, lines: Sequence[Line]) -> str | None:
        """See `Rule`."""
        now = self.lately(lines, "sampler_kl")
        if now is None or now <= self.most:
            return None
        return (
            f"the policy that draws and the one that learns are {now:.3g} nats a token apart: answers are of another "
            "policy; set correction, or a smaller lag"
        )


RULES: tuple[Rule, ...] = (
    NoSignal(),
    EntropyCollapse(),
    Drift(),
    LargeSteps(),
    LengthRunaway(),
    RewardHacking(),
    Mismatch(),
)
"""All rules, none of which ends a run."""


def name_of(rule: Rule) -> str:
    """The word by which recipes know a rule: `entropy_collapse`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(rule).__name__).lower()


class Health:
    """Looks at a run's steps; what the Trainer calls with each step's line of metrics.

    Args:
        rules: what to look for.
        before: lines of the run that is resumed, so that a rule knows how it began.
    """

    def __init__(self, rules: Sequence[Rule] = RULES, before: Sequence[Line] = ()):
        self.rules = tuple(rules)
        self._lines: list[Line] = [line for line in before if "loss" in line]
        self._sick: set[Rule] = set()

    @classmethod
    def of(cls, folder: Path, rules: Sequence[Rule] = RULES) -> "Health":
        """For a run in a folder, which may have begun earlier."""
        return cls(rules, read_metrics(folder / "metrics.jsonl"))

    def __call__(self, line: Line) -> list[str]:
        """What there is to say after a step.

        Raises:
            TrainingError: a rule that `stops` has found something.
        """
        while self._lines and self._lines[-1]["step"] >= line["step"]:  # done again, after a resume
            self._lines.pop()
        self._lines.append(line)
        said = []
        for rule in self.rules:
            found = rule(self._lines)
            if found is None:
                self._sick.discard(rule)
            elif rule.stops:
                raise TrainingError(f"step {line['step']:,}: {found}")
            elif rule not in self._sick:
                self._sick.add(rule)
                said.append(f"step {line['step']:,}: {found}")
        return said


def plot_health(folder: Path) -> list[Path]:
    """Draws `reward.png`, `kl.png`, ... from what a run's metrics.jsonl has."""
    lines = read_metrics(folder / "metrics.jsonl")
    paths = []
    for name, (title, unit, metrics) in PLOTS.items():
        curves = []
        for metric in metrics:
            steps = [line for line in lines if metric in line]
            if steps:
                x, y = ([line[key] for line in steps] for key in ("step", metric))
                curves.append(Curve(metric.replace("_", " "), x, y, smooth=True))
        if curves:
            paths.append(folder / f"{name}.png")
            Plot(title, "step", unit, curves).save(paths[-1])
    return paths


def _mean(lines: Sequence[Line], name: str, count: int) -> float | None:
    values = [line[name] for line in lines if name in line]
    return fmean(values) if len(values) == count else None

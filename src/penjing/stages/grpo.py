"""Reinforcement learning from rewards that a program verifies: GRPO and its kin.

    [grpo]
    method = "dapo"
    skills = ["calendar"]           # of the world; or data = "tasks.jsonl" with reward = "number"

    [grpo.training]
    minutes = 3.0
    optimizer = "adamw"
    learning_rate = 0.001
    schedule = "constant"

Each step draws answers of the model as it is, has them judged, and makes those likelier that are better than their
group. What is reported is the accuracy on held-out questions, answered greedily, before and after. `reward.png`,
`kl.png` and the other pictures show the run's health, whose rules warn in words or, where they are named in `stop`, end
the run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field

from penjing.errors import ConfigError, nearest
from penjing.recipe import Interrupted, Stage, Workshop
from penjing.settings import Count
from penjing.stages.reward import known_world
from penjing.stages.settings import Training, check_skills
from penjing.stages.training import Instruct

if TYPE_CHECKING:
    from penjing.alignment.grpo import Method
    from penjing.alignment.health import Health
    from penjing.alignment.rewards import Reward
    from penjing.alignment.rollout_loader import Judge
    from penjing.alignment.rollouts import Rollouts
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer

_FRESH = 600_000_000
"""Items of the world from this seed on are asked: in no dialogue that was trained on, and in no other stage."""
_Amount = Annotated[float, Field(ge=0)]


class GRPOStage(Stage):
    """Trains a chat model on what can be verified."""

    training: Training
    method: str = "grpo"
    """"grpo", "dr_grpo", "rloo", "reinforce_plus", "reinforce_plus_baseline", "dapo", "bnpo", "cispo", "gspo", ..."""
    model: str | None = None
    """A stage or model folder to start from; by default what the latest instruct stage made."""
    data: str | None = None
    """Prompts with what their answers are judged by, a file or folder; by default the world's questions."""
    reward: Literal["number", "exact", "boxed", "tests"] = "number"
    """How answers to `data` are judged: by their last number, as a whole, by what is in \\boxed{}, by tests of code."""
    form: str | None = None
    """A regular expression that answers shall match as a whole."""
    form_reward: float = 0.1
    """What matching it adds to the reward."""
    questions: Count = 4_000
    """How many of the world's questions there are."""
    skills: tuple[str, ...] = ()
    """Of which skills they are; by default of all."""
    prompts: Count = 32
    """Prompts of a rollout."""
    answers: Count = 8
    """Answers to each."""
    parts: Count = 1
    """Batches that a rollout is divided into; with `training.accumulate` 1, each is a step."""
    epochs: Count = 1
    """How often a rollout is learned from."""
    lag: Annotated[int, Field(ge=0)] = 0
    """How many rollouts ahead answers are drawn."""
    tries: Count = 1
    """How many times prompts are drawn to replace those whose answers all have one reward (DAPO's dynamic sampling)."""
    only_signal: bool = False
    """Whether those that are left are left out of the step, which saves their time."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_new_tokens: Count = 64
    """Of each turn."""
    overlong: Count | None = None
    """The last so many tokens before `max_new_tokens` cost more and more; by default they do not."""
    kl: _Amount = 0.0
    """What a nat of divergence from the first model costs at each token."""
    kl_in_reward: _Amount = 0.0
    """What a nat of divergence over a whole answer takes from its reward."""
    entropy: float = 0.0
    """What a nat of entropy is worth at each token."""
    correction: float | None = Field(None, gt=0)
    """The largest weight of a token for having been drawn by another policy."""
    mask_truncated: bool = False
    """Whether answers that were cut teach nothing."""
    validation: Count = 200
    """How many questions are kept for validation: of the world's held-out split, or the data's last ones."""
    stop: tuple[str, ...] = ()
    """Rules of health that end the run: "no_signal", "entropy_collapse", "drift", "large_steps", "length_runaway",
    "reward_hacking", "mismatch". The others warn."""

    def check(self) -> None:
        """Looks whether the numbers fit together, and whether there are such skills, rules and methods."""
        from penjing.alignment.rewards import Matches, Overlong

        self.training.check()
        check_skills(self.skills)
        self._method()
        self._health(())
        if self.form is not None:
            Matches(self.form)
        if self.overlong is not None:
            Overlong(self.max_new_tokens, self.overlong)
        if self.training.grow:
            raise ConfigError("grow is not for rollouts: all batches of a step are of one policy")

    def named_files(self) -> Sequence[str]:
        """The tasks and the model to start from."""
        return [self.data] if self.data else []

    def named_models(self) -> Sequence[str]:
        """The model to start from."""
        return [self.model] if self.model else []

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """From a chat model to `model/`."""
        import torch

        import penjing
        from penjing.alignment.grpo import GroupBatch
        from penjing.alignment.health import plot_health
        from penjing.alignment.rollout_loader import RolloutLoader
        from penjing.alignment.rollouts import Rollouts
        from penjing.data.world import calculator
        from penjing.training.metrics import read_metrics

        base = workshop.model(self.model, Instruct)
        policy, tokenizer = penjing.load(base, dtype=torch.float32)
        reference = penjing.load(base, dtype=torch.float32)[0] if self.kl or self.kl_in_reward else None
        tools = {} if self.data else {"calculator": calculator}
        rollouts = Rollouts(self.answers, self.temperature, self.max_new_tokens, tools)
        asked, held_out = self._tasks(workshop, tokenizer, policy.config.context)
        method = self._method()
        one_step = self.epochs == 1 and self.parts == self.training.accumulate and not self.kl_in_reward
        config = RolloutLoader.Config(
            prompts=self.prompts,
            parts=self.parts,
            epochs=self.epochs,
            lag=self.lag,
            tries=self.tries,
            only_signal=self.only_signal,
            old_log_probs=not one_step,
            seed=workshop.recipe.seed,
        )
        judge, reward = self._judges()
        loader = config.build(
            asked,
            policy,
            tokenizer,
            rollouts,
            judge,
            reference=reference,
            finish=method.advantages,
            kind=GroupBatch,
        )

        def measure(model: "LanguageModel") -> Mapping[str, float]:
            return {"accuracy": accuracy(model, tokenizer, held_out, reward, rollouts)}

        before = measure(policy)
        trainer = self.training.trainer(workshop.recipe.seed).build(
            policy,
            method.objective,
            loader,
            workshop.folder,
            tokenizer=tokenizer,
            validate=measure,
            console=workshop.output,
            watch=self._health(read_metrics(workshop.folder / "metrics.jsonl")),
        )
        result = trainer.run()
        if result.stopped == "interrupted":
            raise Interrupted
        plot_health(workshop.folder)
        after = dict(result.validation)
        workshop.output.print(
            f"  held out: {before['accuracy']:.1%} right before, {after['accuracy']:.1%} after {result.step:,} steps"
        )
        return {
            "questions": len(asked),
            "epochs": loader.epoch,
            "steps": result.step,
            "tokens": result.tokens,
            "before": before,
            "after": after,
            "training_seconds": result.seconds,
        }

    def _method(self) -> "Method":
        from dataclasses import replace

        from penjing.alignment.grpo import methods

        known = methods(self.max_new_tokens)
        if self.method not in known:
            raise ConfigError(f"there is no method '{self.method}'{nearest(self.method, known)}")
        method = known[self.method].but(
            kl=self.kl,
            entropy=self.entropy,
            correction=self.correction,
            mask_truncated=self.mask_truncated,
            temperature=self.temperature,
        )
        return replace(method, advantages=replace(method.advantages, kl=self.kl_in_reward))

    def _health(self, before: Sequence[Mapping[str, Any]]) -> "Health":
        from dataclasses import replace

        from penjing.alignment.health import RULES, Health, name_of

        names = [name_of(rule) for rule in RULES]
        for name in self.stop:
            if name not in names:
                raise ConfigError(f"there is no rule of health '{name}'{nearest(name, names)}")
        return Health([replace(rule, stops=name_of(rule) in self.stop) for rule in RULES], before)

    def _judges(self) -> "tuple[Judge[Any], Reward]":
        """What answers are learned by, and what held-out ones are measured by."""
        from penjing.alignment import rewards
        from penjing.alignment.rollout_loader import each

        named: dict[str, Reward] = {
            "number": rewards.Number(),
            "exact": rewards.Exact(),
            "boxed": rewards.Boxed(rewards.Exact()),
            "tests": rewards.PassesTests(),
        }
        reward: Reward = named[self.reward] if self.data else rewards.world
        learned = reward
        if self.form is not None:
            learned = rewards.Weighted(((reward, 1.0), (rewards.Matches(self.form), self.form_reward)))
        judge: Judge[Any] = each(learned)
        if self.overlong is not None:
            judge = rewards.Shaped(judge, rewards.Overlong(self.max_new_tokens, self.overlong))
        return judge, reward

    def _tasks(self, workshop: Workshop, tokenizer: "Tokenizer", context: int) -> tuple[list[Any], list[Any]]:
        """What is asked, and what is kept for validation."""
        from penjing.alignment.sampled import world_items
        from penjing.alignment.tasks import fitting, read_tasks

        room = min(self.max_new_tokens, context // 4)
        if self.data:
            tasks = fitting(read_tasks(self.data), tokenizer, context, room)
            if len(tasks) <= self.validation:
                raise ConfigError(
                    f"there are {len(tasks)} tasks that fit, and {self.validation} of them are for validation; lower "
                    f"it with --set {workshop.folder.name}.validation=N"
                )
            return list(tasks[: -self.validation]), list(tasks[-self.validation :])
        seed = workshop.recipe.seed * 1_000_000_000 + _FRESH
        asked, held_out = (
            world_items(count, seed=seed, split=split, skills=self.skills, **known_world(workshop))
            for split, count in (("train", self.questions), ("heldout", self.validation))
        )
        return fitting(asked, tokenizer, context, room), fitting(held_out, tokenizer, context, room)


def accuracy(
    model: "LanguageModel",
    tokenizer: "Tokenizer",
    items: Sequence[Any],
    reward: Callable[[Any, str], float],
    rollouts: "Rollouts",
) -> float:
    """The mean reward of a model's greedy answers."""
    from penjing.inference.batch_chat import answer_all
    from penjing.inference.sampling import Sampling
    from penjing.inference.tools import CALL_OPEN

    settings = Sampling(temperature=0, max_new_tokens=rollouts.max_new_tokens)
    conversations = [list(cast(Any, item).prompt) for item in items]
    found = answer_all(model, tokenizer, conversations, settings, tools=rollouts.tools, rounds=rollouts.rounds)
    last = [messages[-1] for messages in found]
    texts = ["" if CALL_OPEN in message["content"] else message["content"].strip() for message in last]
    return sum(reward(item, text) for item, text in zip(items, texts, strict=True)) / len(items)

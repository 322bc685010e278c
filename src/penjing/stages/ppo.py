"""The last stage of RLHF: a chat model learns from a reward model's word.

    [ppo]
    kl = 0.05                     # what a nat of divergence from the chat model costs
    skills = ["facts", "location"]

    [ppo.training]
    steps = 200
    optimizer = "adamw"
    learning_rate = 0.0002
    schedule = "constant"

The world's questions are asked, the reward model alone says what an answer is worth; whether answers are right is
measured beside it (`checked`), and never learned from. Where the one rises and the other falls, the reward is hacked:
`reward.png` shows both. The value network lies in `model/value`, averaged weights in `average`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from penjing.errors import ConfigError, nearest
from penjing.recipe import Interrupted, Stage, Workshop
from penjing.settings import Count
from penjing.stages.data import Shards
from penjing.stages.reward import Reward, known_world
from penjing.stages.settings import Training, check_skills
from penjing.stages.training import Instruct
from penjing.training.plots import Curve, Plot, plot_curves

if TYPE_CHECKING:
    from penjing.alignment.gae import FixedKL
    from penjing.alignment.health import Rule
    from penjing.alignment.ppo import RewardJudge
    from penjing.alignment.ppo_optimizer import PPOOptimizer
    from penjing.alignment.rollouts import Rollouts
    from penjing.data.world import Item
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer
    from penjing.training.interfaces import Loader

_FRESH = 900_000_000
"""Items of the world from this seed on are asked: in no dialogue that was trained on, and in no other stage."""
_ROOM = 32  # tokens that an answer needs; longer prompts are left out
_Amount = Annotated[float, Field(ge=0)]
_Part = Annotated[float, Field(ge=0, le=1)]
_PLOTS = {
    "kl": ("Divergence from the chat model", "nats an answer"),
    "value_loss": ("What the value network is wrong by", "squared reward"),
}


class PPOStage(Stage):
    """Trains a chat model against a reward model."""

    training: Training
    value_learning_rate: float | None = Field(None, ge=0)
    """The value network's; by default the policy's."""
    average: float | None = Field(None, ge=0, lt=1)
    """The decay of the policy's averaged weights, 0.992 in InstructGPT; by default none are kept."""
    model: str | None = None
    """A stage or model folder to start from; by default what the latest instruct stage made."""
    reward: str | None = None
    """A reward stage or model's folder; by default what the latest reward stage made."""
    questions: Count = 4_000
    """Of how many of the world's questions prompts are drawn."""
    skills: tuple[str, ...] = ()
    """Of which skills they are; by default of all."""
    prompts: Count = 64
    """Prompts of a rollout."""
    answers: Count = 2
    """Answers to each."""
    parts: Count = 2
    """Batches, and so steps, that a rollout is divided into."""
    epochs: Count = 1
    """How often a rollout is learned from."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_new_tokens: Count = 64
    kl: _Amount = 0.02
    """What a nat of divergence from the chat model costs; where it starts, if a target is given."""
    kl_target: float | None = Field(None, gt=0)
    """Nats an answer that the coefficient steers to; by default it stays as it is."""
    kl_horizon: Count = 10_000
    """Answers over which it moves by a fifth."""
    gamma: _Part = 1.0
    lam: _Part = 0.95
    clip: _Amount = 0.2
    value_clip: _Amount = 0.2
    value_weight: _Amount = 0.1
    whiten_rewards: bool = False
    reward_scale: Annotated[float, Field(gt=0)] = 1.0
    missing_end: _Amount = 1.0
    """What an answer loses that was cut before its end."""
    pretraining: _Amount = 0.0
    """PPO-ptx: what the next-token loss of the shards' text counts; 27.8 in InstructGPT."""
    pretraining_rows: Count = 8
    """Rows of text with each batch of answers."""
    validation: Count = 200
    """How many questions of the held-out split are asked before, during and after."""
    stop: tuple[str, ...] = ()
    """Rules of health that end the run, such as "reward_hacking" or "drift"; all others warn."""

    def check(self) -> None:
        """Looks whether the numbers fit together, and whether there are such skills."""
        if self.training.optimizer != "adamw":
            raise ConfigError('PPO is trained with optimizer = "adamw": two networks with a learning rate each')
        self.training.check()
        check_skills(self.skills)
        self._rules()

    def named_models(self) -> Sequence[str]:
        """The policy and the reward model to start from."""
        return [path for path in (self.model, self.reward) if path]

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """From a chat model and a reward model to `model/`."""
        import torch

        import penjing
        from penjing.alignment.health import Health, plot_health
        from penjing.alignment.ppo import PPO, ActorCritic, Experience, PPOLoader, RewardJudge
        from penjing.alignment.ranked import answerable
        from penjing.alignment.rewards import world
        from penjing.alignment.rollout_loader import RolloutLoader, each
        from penjing.alignment.rollouts import Rollouts
        from penjing.alignment.sampled import world_items
        from penjing.data.world import calculator
        from penjing.device import choose_device
        from penjing.models.scored_folder import load_scored

        base = workshop.model(self.model, Instruct)
        scored = workshop.model(self.reward, Reward)
        policy, tokenizer = penjing.load(base, dtype=torch.float32)
        reference, _ = penjing.load(base, dtype=torch.float32)
        scorer = load_scored(scored, device=choose_device(), dtype=torch.float32)
        judge = RewardJudge(scorer, self.reward_scale, self.missing_end)
        model = ActorCritic(policy, load_scored(scored, dtype=torch.float32))
        rollouts = Rollouts(self.answers, self.temperature, self.max_new_tokens, tools={"calculator": calculator})
        seed = workshop.recipe.seed * 1_000_000_000 + _FRESH
        asked, held_out = (
            answerable(
                world_items(count, seed=seed, split=split, skills=self.skills, **known_world(workshop)),
                tokenizer,
                policy.config.context,
                _ROOM,
            )
            for split, count in (("train", self.questions), ("heldout", self.validation))
        )
        loader = PPOLoader(
            RolloutLoader.Config(self.prompts, self.parts, self.epochs, seed=workshop.recipe.seed),
            asked,
            model,
            tokenizer,
            rollouts,
            judge,
            reference=reference,
            kl=self._coefficient(),
            experience=Experience(self.gamma, self.lam, self.whiten_rewards),
            pretraining=self._text(workshop, tokenizer, policy) if self.pretraining else None,
            watch={"checked": each(world)},
        )

        def measure(policy: "LanguageModel") -> dict[str, float]:
            return measured(policy, tokenizer, held_out, replace(rollouts, n=1), judge, reference)

        before = measure(policy)
        trainer = replace(self.training.trainer(workshop.recipe.seed), optimizer=self._optimizer()).build(
            model,
            PPO(self.clip, self.value_clip, self.value_weight, self.pretraining, self.temperature),
            loader,
            workshop.folder,
            tokenizer=tokenizer,
            validate=lambda trained: measure(trained.policy),
            console=workshop.output,
            watch=Health.of(workshop.folder, self._rules()),
        )
        result = trainer.run()
        if result.stopped == "interrupted":
            raise Interrupted
        self._keep_average(workshop, result.checkpoint, policy, tokenizer)
        plot_health(workshop.folder)
        plot_curves(workshop.folder, _PLOTS)
        plot_rewards(workshop.folder)
        after = dict(result.validation)
        workshop.output.print(
            f"  held out: {before['checked']:.1%} right before, {after['checked']:.1%} after, "
            f"{after['kl']:.2f} nats from the chat model"
        )
        return {
            "questions": len(asked),
            "epochs": loader.epoch,
            "steps": result.step,
            "tokens": result.tokens,
            "before": before,
            "after": after,
            "kl_coefficient": loader.coefficient,
            "training_seconds": result.seconds,
        }

    def _rules(self) -> "list[Rule]":
        """The rules of health.

        Raises:
            ConfigError: one of those that end the run is unknown.
        """
        from penjing.alignment.health import RULES, name_of

        names = [name_of(rule) for rule in RULES]
        for name in self.stop:
            if name not in names:
                raise ConfigError(f"there is no rule of health '{name}'{nearest(name, names)}")
        return [replace(rule, stops=name_of(rule) in self.stop) for rule in RULES]

    def _coefficient(self) -> "FixedKL":
        from penjing.alignment.gae import AdaptiveKL, FixedKL

        return FixedKL(self.kl) if self.kl_target is None else AdaptiveKL(self.kl, self.kl_target, self.kl_horizon)

    def _optimizer(self) -> "PPOOptimizer.Config":
        from penjing.alignment.ppo_optimizer import PPOOptimizer

        training = self.training
        return PPOOptimizer.Config(
            learning_rate=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
            value_learning_rate=self.value_learning_rate,
            average=self.average,
        )

    def _text(self, workshop: Workshop, tokenizer: "Tokenizer", policy: "LanguageModel") -> "Loader":
        """Batches of the text that the latest shards stage made."""
        from penjing.data import shards
        from penjing.data.loader import PackedLoader

        text = shards.Shards.open(workshop.made_by(Shards) / "train", tokenizer)
        config = PackedLoader.Config(
            context=policy.config.context, batch=self.pretraining_rows, seed=workshop.recipe.seed
        )
        return config.build([text])

    def _keep_average(
        self, workshop: Workshop, checkpoint: Path, policy: "LanguageModel", tokenizer: "Tokenizer"
    ) -> None:
        import penjing
        from penjing.alignment.ppo_optimizer import averaged_policy

        if self.average is not None:
            penjing.save(workshop.folder / "average", averaged_policy(checkpoint, policy), tokenizer)


def measured(
    policy: "LanguageModel",
    tokenizer: "Tokenizer",
    items: "Sequence[Item]",
    rollouts: "Rollouts",
    judge: "RewardJudge",
    reference: "LanguageModel",
) -> dict[str, float]:
    """What a policy's answers to the world's items are worth, as drawn: by the checker, by the reward model, in nats.

    Returns:
        checked: the share of right answers. learned: the mean of the judge's rewards. kl: nats an answer from the
        reference (k1). length: tokens an answer.
    """
    from penjing.alignment.batch import pack
    from penjing.alignment.rewards import world
    from penjing.alignment.rollout_loader import RolloutBatch, frozen_log_probs
    from penjing.alignment.sampled import prompts_of

    groups = rollouts.draw(policy, tokenizer, prompts_of(items), list(range(len(items))))
    drawn = [(item, answer) for item, group in zip(items, groups, strict=True) for answer in group]
    answers = [answer for _, answer in drawn]
    nats = 0.0
    for start in range(0, len(answers), 64):
        batch = pack([answer.tokens for answer in answers[start : start + 64]], RolloutBatch)
        own, other = (frozen_log_probs(model, batch, rollouts.temperature) for model in (policy, reference))
        nats += float((own - other).double().sum())
    return {
        "checked": sum(world(item, answer.text) for item, answer in drawn) / len(drawn),
        "learned": sum(judge([item for item, _ in drawn], answers)) / len(drawn),
        "kl": nats / len(drawn),
        "length": sum(answer.length for answer in answers) / len(drawn),
    }


def plot_rewards(folder: Path) -> Path:
    """Draws `reward.png`: the learned reward and the checked one against the divergence that they cost, step by step.

    The learned reward is shifted and scaled to begin at 0 and to reach 1 at its highest, for its unit means nothing;
    the checked one is a share.
    """
    from penjing.training.metrics import read_metrics

    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "reward" in line and "checked" in line]
    path = folder / "reward.png"
    steps = [line["step"] for line in lines]
    rewards = [line["reward"] for line in lines]
    low, high = (min(rewards), max(rewards)) if rewards else (0.0, 1.0)
    scaled = [(reward - low) / ((high - low) or 1.0) for reward in rewards]
    curves = [
        Curve("learned, from its lowest (0) to its highest (1)", steps, scaled, smooth=True),
        Curve("checked", steps, [line["checked"] for line in lines], smooth=True),
    ]
    Plot("Rewards of the answers that are learned from", "step", "reward", curves).save(path)
    return path

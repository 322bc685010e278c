r"""Batches of rollouts for the Trainer: prompts, answers by the policy as it is now, their rewards, log-probabilities.

    loader = RolloutLoader.Config(prompts=32, parts=2, epochs=1, seed=1).build(
        items, model, tokenizer, Rollouts(n=8), judge, reference=reference, finish=group_advantages
    )
    Trainer.Config(budget, ...).build(model, objective, loader, out).run()

A *rollout* is what is drawn at a time: the next prompts of the seed's order, `n` answers of each. It is divided into
`parts`, batches that the Trainer takes one after the other, for one or several `epochs`; then the policy has changed,
and the next rollout is drawn. Three log-probabilities belong to each drawn token:

    sampled      what the engine computed as it drew it
    old          what a training pass computes before the first step on the rollout. Batch by batch as the training
                 does: kernels, packing and order of sums are the same, so the first ratio to it is exactly 1
    reference    the same of a frozen model, the one that the policy should not stray far from

The first two differ by rounding, or, where rollouts are drawn `lag` rollouts ahead (as when other machines draw them),
by the steps in between; methods can correct for it.

Groups whose answers all have one reward teach a group-relative method nothing. With `tries` above 1 they are left out
and other prompts asked instead, as DAPO's dynamic sampling does (Yu et al., 2025, arXiv:2503.14476, section 3.2), at
most so many times; how many there were is recorded.

A run that is resumed, even amid a rollout, goes on bit for bit: `state_dict` holds the rollout's own batches, since the
policy that drew them is no more.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penjing.alignment.batch import AnswerBatch, pack
from penjing.alignment.batch_state import from_json, to_json
from penjing.alignment.loader import Order
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.rollouts import Rollout, Rollouts
from penjing.data.order import key_of
from penjing.errors import ConfigError, DataError
from penjing.nn.mode import evaluation_mode

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer
    from penjing.tokenizer.chat import Message

T = TypeVar("T")

Judge = Callable[[Sequence[T], Sequence[Rollout]], Sequence[float]]
"""Rewards of answers; the first argument has each answer's item."""


@dataclass(frozen=True)
class RolloutBatch(AnswerBatch):
    """Answers that a policy drew. Of counted predictions, log-probabilities are in nats, at the draw's temperature."""

    sampled_log_probs: Float[Tensor, " counted"] | None = None
    """By the engine, as the token was drawn."""
    old_log_probs: Float[Tensor, " counted"] | None = None
    """By a training pass, before the first step on the rollout; None: this is the first step."""
    reference_log_probs: Float[Tensor, " counted"] | None = None
    """Of the reference model; None: there is none."""
    rewards: Float[Tensor, " answers"] | None = None
    groups: Int[Tensor, " answers"] | None = None
    """Answers of one prompt have one number, within the whole rollout."""
    truncated: Bool[Tensor, " answers"] | None = None
    """Which answers were cut where the tokens ran out."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """What is known of the whole rollout, for the log."""


Finish = Callable[[list[RolloutBatch]], Sequence[RolloutBatch]]
"""What a method makes of all batches of one rollout before it is learned from: advantages, values."""


class RolloutLoader(Iterator[RolloutBatch], Generic[T]):
    """Batches of rollouts without end. See the module; `build` of the config for the arguments."""

    @dataclass(frozen=True)
    class Config:
        """How rollouts are drawn and divided."""

        prompts: int
        """Prompts of a rollout."""
        parts: int = 1
        """Batches that a rollout is divided into."""
        epochs: int = 1
        """How often a rollout is gone through; from the second time on, its batches are in another order."""
        lag: int = 0
        """How many rollouts ahead answers are drawn; 0: by the policy that learns from them."""
        tries: int = 1
        """How many times prompts are drawn until there are enough groups with more than one reward."""
        only_signal: bool = False
        """Whether groups of one reward are left out where they are not replaced. Their gradient is 0, but for that of a
        KL or entropy term, and computing it takes as long as any other's."""
        old_log_probs: bool = True
        """Whether `old` is computed; without, each batch must be learned from before the policy changes."""
        seed: int = 0

        def __post_init__(self) -> None:
            for name in ("prompts", "parts", "epochs", "tries"):
                if getattr(self, name) < 1:
                    raise ConfigError(f"{name} is {getattr(self, name)}; a rollout needs at least 1")
            if self.lag < 0:
                raise ConfigError(f"lag is {self.lag}; it counts rollouts, from 0 on")
            if self.epochs > 1 and not self.old_log_probs:
                raise ConfigError("several epochs over a rollout need old_log_probs")

        def build(
            self,
            items: Sequence[T],
            policy: "LanguageModel",
            tokenizer: "Tokenizer",
            rollouts: Rollouts,
            judge: Judge[T],
            **more: Any,
        ) -> "RolloutLoader[T]":
            """The loader; `more` is what `RolloutLoader` takes besides."""
            return RolloutLoader(self, items, policy, tokenizer, rollouts, judge, **more)

    def __init__(
        self,
        config: Config,
        items: Sequence[T],
        policy: "LanguageModel",
        tokenizer: "Tokenizer",
        rollouts: Rollouts,
        judge: Judge[T],
        *,
        reference: "LanguageModel | None" = None,
        finish: Finish | None = None,
        prompt: "Callable[[T], Sequence[Message]] | None" = None,
        watch: Mapping[str, Judge[T]] | None = None,
        kind: type[RolloutBatch] = RolloutBatch,
    ):
        """Prepares the loader; nothing is drawn before the first batch is asked for.

        Args:
            config: how rollouts are drawn and divided.
            items: what is asked; their `repr` tells this data from any other.
            policy: the model that the Trainer trains; drawn from as it is at the time.
            tokenizer: its tokenizer.
            rollouts: how answers are drawn.
            judge: gives rewards.
            reference: a model whose log-probabilities batches shall have. It is put into evaluation mode, where the
                policy is, and in the precision that the policy computes in.
            finish: what the method makes of a rollout's batches.
            prompt: an item's messages; by default its `prompt`, as the generated world's items have it.
            watch: further rewards that are only recorded, by name.
            kind: the class of the batches that `finish` returns.

        Raises:
            DataError: there are no items.
            ConfigError: there are more parts than answers.
        """
        if not items:
            raise DataError("there is nothing to ask")
        if config.parts > config.prompts * rollouts.n:
            raise ConfigError(f"{config.prompts * rollouts.n} answers of a rollout do not make {config.parts} parts")
        self.config, self.policy, self.reference, self.kind = config, policy, reference, kind
        self.last: list[tuple[T, list[Rollout]]] = []
        """The newest rollout's items with their answers, to be looked at."""
        self._items, self._tokenizer, self._rollouts, self._judge = items, tokenizer, rollouts, judge
        self._finish, self._watch = finish or (lambda batches: batches), dict(watch or {})
        self._prompt = prompt or (lambda item: cast(Any, item).prompt)
        self._order = Order(items, config.seed)
        self._taken = self._drawn = self._place = 0
        self._batches: list[RolloutBatch] = []
        self._ahead: deque[list[RolloutBatch]] = deque()

    def __next__(self) -> RolloutBatch:
        if self._place == len(self._batches) * self.config.epochs:
            self._begin()
        epoch, place = divmod(self._place, len(self._batches))
        self._place += 1
        if epoch == 0:
            return self._batches[place]
        return self._batches[self._order.shuffled(len(self._batches), self._drawn, epoch)[place]]

    @property
    def epoch(self) -> float:
        """How often the items have been gone through."""
        return self._taken / len(self._items)

    @property
    def rows(self) -> int:
        """Answers of a rollout."""
        return self.config.prompts * self._rollouts.n

    # --- a rollout -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Makes the next rollout ready to be learned from."""
        while len(self._ahead) <= self.config.lag:
            self._ahead.append(self._draw())
        batches = [self._with_log_probs(batch) for batch in self._ahead.popleft()]
        self._batches, self._place = list(self._finish(batches)), 0

    def _draw(self) -> list[RolloutBatch]:
        """Has prompts answered and judged."""
        config, n = self.config, self._rollouts.n
        kept: list[_Group[T]] = []
        spare: list[_Group[T]] = []
        asked = 0
        for _ in range(config.tries):
            groups = self._groups(config.prompts - len(kept))
            asked += len(groups)
            for group in groups:
                (kept if group.has_signal or config.tries == 1 else spare).append(group)
            if len(kept) == config.prompts:
                break
        facts = self._facts([*kept, *spare], asked)
        kept += spare[: config.prompts - len(kept)]
        with_signal = [group for group in kept if group.has_signal]
        if config.only_signal and len(with_signal) * n >= config.parts:
            kept = with_signal
        self._drawn += 1
        self.last = [(group.item, group.answers) for group in kept]
        answers = [(number, answer, reward) for number, group in enumerate(kept) for answer, reward in group.judged]
        batches = []
        for part in range(config.parts):
            chosen = answers[part * len(answers) // config.parts : (part + 1) * len(answers) // config.parts]
            origin = f"rollout {self._drawn}, part {part + 1}, answers to items {kept[0].number}, ..."
            batches.append(_packed(chosen, origin, facts))
        return batches

    def _groups(self, count: int) -> "list[_Group[T]]":
        places = range(self._taken, self._taken + count)
        numbers = self._order(places.start, count)
        items = [self._items[number] for number in numbers]
        self._taken += count
        prompts = [self._prompt(item) for item in items]
        seeds = [key_of(self.config.seed, "answers", place) for place in places]
        answers = self._rollouts.draw(self.policy, self._tokenizer, prompts, seeds)
        flat = [answer for group in answers for answer in group]
        whose = [item for item, group in zip(items, answers, strict=True) for _ in group]
        rewards = [float(reward) for reward in self._judge(whose, flat)]
        watched = {name: [float(value) for value in judge(whose, flat)] for name, judge in self._watch.items()}
        n = self._rollouts.n
        return [
            _Group(
                number,
                item,
                answers[place],
                rewards[place * n : (place + 1) * n],
                {name: values[place * n : (place + 1) * n] for name, values in watched.items()},
            )
            for place, (number, item) in enumerate(zip(numbers, items, strict=True))
        ]

    def _facts(self, groups: "list[_Group[T]]", asked: int) -> dict[str, float]:
        """Of all groups that were drawn, those that are left out included."""
        rewards = torch.tensor([group.rewards for group in groups], dtype=torch.float64)  # (groups, n)
        answers = [answer for group in groups for answer in group.answers]
        lengths = torch.tensor([answer.length for answer in answers], dtype=torch.float64)
        facts: dict[str, float | Tensor] = {
            "reward": rewards.mean(),
            "reward_spread": rewards.std(correction=0),
            "without_signal": sum(not group.has_signal for group in groups) / len(groups),
            "asked_again": float(asked - self.config.prompts),
            "answer_length": lengths.mean(),
            "truncated": sum(answer.truncated for answer in answers) / len(answers),
        }
        for name in self._watch:
            facts[name] = torch.tensor([group.watched[name] for group in groups], dtype=torch.float64).mean()
        return {name: float(value) for name, value in facts.items()}

    def _with_log_probs(self, batch: RolloutBatch) -> RolloutBatch:
        temperature = self._rollouts.temperature
        if self.config.old_log_probs:
            batch = replace(batch, old_log_probs=frozen_log_probs(self.policy, batch, temperature))
        if self.reference is not None:
            weight = self.policy.embedding.weight
            self.reference.to(weight.device, weight.dtype)
            batch = replace(batch, reference_log_probs=frozen_log_probs(self.reference, batch, temperature))
        return batch

    # --- resuming --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, with the batches that were drawn and not all learned from; JSON-able."""
        left = self._place < len(self._batches) * self.config.epochs
        return {
            **self._made_for(),
            "taken": self._taken,
            "drawn": self._drawn,
            "place": self._place if left else 0,
            "batches": [to_json(batch) for batch in self._batches] if left else [],
            "ahead": [[to_json(batch) for batch in batches] for batches in self._ahead],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state` was taken.

        Raises:
            DataError: it is of other data, of another order, or of rollouts of another kind.
        """
        for name, now in self._made_for().items():
            if state.get(name) != now:
                what = "the data has changed" if name == "data" else f"{name} was {state.get(name)}, now it is {now}"
                raise DataError(f"the saved position in the data does not fit: {what}")
        self._taken, self._drawn, self._place = (int(state[name]) for name in ("taken", "drawn", "place"))
        self._batches = [from_json(self.kind, batch) for batch in state["batches"]]
        self._ahead = deque([from_json(RolloutBatch, batch) for batch in batches] for batches in state["ahead"])

    def _made_for(self) -> dict[str, Any]:
        """What the order of batches depends on."""
        config = {name: getattr(self.config, name) for name in self.config.__dataclass_fields__}
        drawing = {name: getattr(self._rollouts, name) for name in ("n", "temperature", "max_new_tokens", "rounds")}
        return {"data": self._order.fingerprint, **config, **drawing, "tools": sorted(self._rollouts.tools)}


@dataclass(frozen=True)
class _Group(Generic[T]):
    """The answers to one prompt."""

    number: int
    item: T
    answers: list[Rollout]
    rewards: list[float]
    watched: dict[str, list[float]]

    @property
    def has_signal(self) -> bool:
        return min(self.rewards) < max(self.rewards)

    @property
    def judged(self) -> Iterator[tuple[Rollout, float]]:
        return zip(self.answers, self.rewards, strict=True)


def _packed(chosen: Sequence[tuple[int, Rollout, float]], origin: str, facts: Mapping[str, float]) -> RolloutBatch:
    answers = [answer for _, answer, _ in chosen]
    batch = pack(
        [answer.tokens for answer in answers],
        RolloutBatch,
        origin=origin,
        rewards=torch.tensor([reward for _, _, reward in chosen]),
        groups=torch.tensor([group for group, _, _ in chosen]),
        truncated=torch.tensor([answer.truncated for answer in answers]),
        facts=facts,
    )
    return replace(batch, sampled_log_probs=batch.spread([torch.tensor(answer.log_probs) for answer in answers]))


def each(reward: Callable[[T, str], float]) -> Judge[T]:
    """A judge of each answer's text by itself."""
    return lambda items, answers: [reward(item, answer.text) for item, answer in zip(items, answers, strict=True)]


def frozen_log_probs(model: "LanguageModel", batch: AnswerBatch, temperature: float) -> Float[Tensor, " counted"]:
    """Log-probabilities of the counted tokens by the passes of training, without a gradient; on the CPU.

    Gradients stay enabled, for there are kernels that are used only then, and their sums are added in another order;
    but no weight has one, so nothing is kept for a backward pass.
    """
    with evaluation_mode(model), _frozen(model), torch.enable_grad():
        found, _ = answer_log_probs(model, batch.to(model.embedding.weight.device), temperature)
        return found.detach().cpu()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)

r"""Rollouts: answers drawn from the policy as it is now, token for token as it drew them.

    rollouts = Rollouts(n=8, temperature=1.0, max_new_tokens=64, tools={"calculator": calculator})
    groups = rollouts.draw(model, tokenizer, [item.prompt for item in items], seeds)       # 8 answers of each prompt

What is learned from is what was drawn: the ids are the engine's own, never text that was encoded again, which could
come out as other tokens with other probabilities. An answer that calls a tool is told the result, by the rule of every
chat (`inference.tools.why_over`), and goes on; the result and whatever the template writes around it is read, and not
trained on:

    ids    <prompt> <tool_call>...</tool_call> <|im_end|>  \n <|im_start|> tool ... assistant \n  It is 1776. <|im_end|>
    mask      no                  yes                                no                                 yes

All answers are drawn at once by one engine, which reads a prompt once for all its answers, and finds in its cache what
an answer has already read when its next turn begins. The engine lives as long as the draw does, so nothing computed
with earlier weights is ever found there.

Randomness: each prompt has a seed and each answer a stream of its own, so that answers do not depend on what else is
drawn. The engine is a `steady` one: the same weights and prompts give the same bits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penjing.data.order import key_of
from penjing.errors import ConfigError, GenerationError
from penjing.inference.batch_chat import calls_in
from penjing.inference.engine.engine import Engine
from penjing.inference.engine.request import Request
from penjing.inference.engine.runner import PAGE, tokens_that_fit
from penjing.inference.sampling import Sampling
from penjing.inference.text import end_ids, text_of
from penjing.inference.tools import CALL_OPEN, ROUNDS, run_call, why_over
from penjing.tokenizer.chat import ChatTokens

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer
    from penjing.tokenizer.chat import ChatTemplate, Message


@dataclass(frozen=True)
class Rollout:
    """One answer of the policy."""

    tokens: ChatTokens
    """The prompt and the answer; the mask marks what the policy drew, the end of its turns included."""
    log_probs: tuple[float, ...]
    """Of each drawn token, in nats, at the temperature of the draw, as the engine computed it."""
    messages: "tuple[Message, ...]"
    """The answer: what the assistant said, with tools' results in between."""
    truncated: bool
    """Whether it was cut where the tokens ran out."""

    @property
    def text(self) -> str:
        """What the assistant said last, without special tokens; nothing where that is a call of a tool."""
        last = self.messages[-1]["content"] if self.messages[-1]["role"] == "assistant" else ""
        return "" if CALL_OPEN in last else last.strip()

    @property
    def length(self) -> int:
        """How many tokens the policy drew."""
        return len(self.log_probs)


@dataclass(frozen=True)
class Rollouts:
    """How answers are drawn.

    Raises:
        ConfigError: a number outside its range.
    """

    n: int = 8
    """Answers of each prompt."""
    temperature: float = 1.0
    """What logits are divided by; above 0."""
    max_new_tokens: int = 128
    """Tokens of a turn, at most; fewer where the context ends before."""
    tools: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    """What the model has learned to call, by name."""
    rounds: int = ROUNDS
    """How many times in one answer it may call tools."""
    seats: int = 512
    """How many answers are drawn at once; the others wait."""

    def __post_init__(self) -> None:
        for name in ("n", "max_new_tokens", "seats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; rollouts need at least 1")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}; rollouts are drawn at one above 0")

    def draw(
        self,
        model: "LanguageModel",
        tokenizer: "Tokenizer",
        prompts: "Sequence[Sequence[Message]]",
        seeds: Sequence[int],
    ) -> list[list[Rollout]]:
        """`n` answers of each prompt, by the model in evaluation mode and in the precision of its weights.

        Args:
            model: the policy.
            tokenizer: its tokenizer, with a chat template.
            prompts: conversations, each up to where the assistant is to answer.
            seeds: one for each prompt.

        Raises:
            GenerationError: there is no chat template, or a prompt leaves no room for an answer.
        """
        if tokenizer.chat is None:
            raise GenerationError("this model has no chat template, so it cannot be asked by messages")
        chat, context = tokenizer.chat, model.config.context
        rendered = [chat.render(prompt, add_generation_prompt=True).ids for prompt in prompts]
        for number, ids in enumerate(rendered):
            if len(ids) >= context:
                raise GenerationError(
                    f"prompt {number} has {len(ids)} tokens; the model's context of {context} leaves no room for an "
                    "answer: leave such prompts out"
                )
        engine = self._engine(model, rendered)
        drafts = [
            _Draft(self, tokenizer, chat, prompt, ids, key_of(seed, sample), context)
            for prompt, ids, seed in zip(prompts, rendered, seeds, strict=True)
            for sample in range(self.n)
        ]
        requests = [
            request
            for number, (ids, seed) in enumerate(zip(rendered, seeds, strict=True))
            for request in self._ask(engine, tokenizer, ids, seed, number * self.n, self.n)
        ]
        while engine.busy:
            for token in engine.step():
                if token.reason is None:
                    continue
                draft = drafts[token.row]
                prompt = draft.take(requests[token.row])
                if prompt is not None:
                    (requests[token.row],) = self._ask(engine, tokenizer, prompt, draft.next_seed, token.row)
        found = [draft.rollout() for draft in drafts]
        return [found[start : start + self.n] for start in range(0, len(found), self.n)]

    def _ask(
        self, engine: Engine, tokenizer: "Tokenizer", ids: Sequence[int], seed: int, row: int, samples: int = 1
    ) -> list[Request]:
        sampling = Sampling(
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            seed=seed,
            logprobs=0,
            tempered_logprobs=True,
        )
        return engine.add(ids, sampling, stop_ids=end_ids(tokenizer), row=row, samples=samples, within_context=True)

    def _engine(self, model: "LanguageModel", prompts: Sequence[Sequence[int]]) -> Engine:
        """An engine with seats and memory for all answers, as far as there is memory."""
        context = model.config.context
        turns = 2 if self.tools else 1  # more of them wait for memory
        lengths = [min(context, len(prompt) + turns * self.max_new_tokens) + PAGE for prompt in prompts]
        seats = min(self.seats, self.n * len(prompts))
        needed = min(self.n * sum(lengths), seats * max(lengths))
        tokens = max(context + PAGE, min(needed, tokens_that_fit(model)))
        return Engine(model, tokens=tokens, seats=seats, step=max(512, 2 * seats), steady=True)


class _Draft:
    """An answer in the making."""

    def __init__(
        self,
        rollouts: Rollouts,
        tokenizer: "Tokenizer",
        chat: "ChatTemplate",
        asked: "Sequence[Message]",
        prompt: Sequence[int],
        seed: int,
        context: int,
    ):
        self.rollouts, self.tokenizer, self.chat, self.asked = rollouts, tokenizer, chat, asked
        self.seed, self.context = seed, context
        self.ids = list(prompt)
        self.mask = [False] * len(prompt)
        self.log_probs: list[float] = []
        self.said: list[Message] = []
        self.rounds_left = rollouts.rounds
        self.truncated = False

    @property
    def next_seed(self) -> int:
        """Of the turn that comes now."""
        return key_of(self.seed, self.rounds_left)

    def take(self, request: Request) -> list[int] | None:
        """Takes a turn that has ended; the prompt of the next turn, or None where the answer is over."""
        drawn = list(request.generated)
        self.ids += drawn
        self.mask += [True] * len(drawn)
        self.log_probs += [token.logprob or 0.0 for token in request.output]
        stopped = request.output[-1].is_stop
        text = text_of(self.tokenizer, drawn[:-1] if stopped else drawn)
        self.said.append({"role": "assistant", "content": text})
        self.truncated = not stopped
        calls = calls_in(text)
        if self.truncated or why_over(calls, "stop", self.rounds_left) is not None:
            return None
        results = [run_call(call, self.rollouts.tools).content for call in calls]
        between = self._between([{"role": "tool", "content": result} for result in results])
        self.rounds_left -= 1
        if len(self.ids) + len(between) >= self.context:
            self.truncated = True
            return None
        self.said += [{"role": "tool", "content": result} for result in results]
        self.ids += between
        self.mask += [False] * len(between)
        return self.ids

    def _between(self, results: "list[Message]") -> list[int]:
        """What stands between the end of the assistant's turn and its next."""
        rendered = self.chat.render([*self.asked, *self.said, *results], add_generation_prompt=True)
        end = len(rendered.mask) - rendered.mask[::-1].index(True)
        after = rendered.ids[end:]
        drawn_already = self.chat.end_of_turn_id is None and after[:1] == self.ids[-1:]  # of the next turn, as a stop
        return after[1:] if drawn_already else after

    def rollout(self) -> Rollout:
        return Rollout(ChatTokens(self.ids, self.mask), tuple(self.log_probs), tuple(self.said), self.truncated)

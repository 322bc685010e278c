"""The decoding loop: a batch of sequences that grow by one token a step.

    prefill  the prompts, padded on the left so that they end together, fill the cache in one pass; only the last
             position's logits are computed
    step     one token a row goes through the model; keys and values of all before it come from the cache

A row that has ended is taken out of the batch once enough of its companions have. There is one such loop in the
project: streams, batches, chats and evaluations all drive this one.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penjing.errors import GenerationError
from penjing.inference import packing
from penjing.inference.sampling import Sampler, Sampling

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel
    from penjing.nn.state import State

Reason = Literal["stop", "length"]

_WORTH_DROPPING = 0.75
"""Rows are dropped when at most this share of the batch is still growing: dropping copies the cache of the others."""

_ROOM_AT_FIRST = 1024
"""New tokens that the cache has room for from the start; it grows when an answer is longer."""


@dataclass(frozen=True)
class Token:
    """One row's next token."""

    row: int
    """Which row: `prompt * samples + sample`."""
    id: int
    logprob: float | None = None
    """Its log-probability in nats, when asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The most probable tokens with theirs, falling, when asked for."""
    reason: Reason | None = None
    """Why the row ends with it: "stop" (a stop id), "length" (max_new_tokens or the context); None: it goes on."""


class Decoding:
    """Sequences being continued together.

        decoding = Decoding(model, [[5, 7], [9]], Sampling(temperature=0, max_new_tokens=20), stop_ids={2})
        while tokens := decoding.step():
            ...

    Args:
        model: moved to evaluation mode for each step, and back.
        prompts: token ids, at least one each.
        sampling: how tokens are chosen. Stop *strings* are the caller's affair (`stop`), since only text has them.
        stop_ids: ids that end a row (they are its last token).
        samples: how many continuations of each prompt; the prompt is processed once.
        state: a cache that already holds the first `state.length` tokens of the only prompt.
        within_context: whether a row whose prompt leaves less than `max_new_tokens` gets what there is; else that is an
            error.

    Raises:
        GenerationError: no prompt, an empty one, an id that the model does not have, or more tokens than its context.
    """

    def __init__(
        self,
        model: "LanguageModel",
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        stop_ids: Collection[int] = (),
        samples: int = 1,
        state: "State | None" = None,
        within_context: bool = False,
    ):
        context = model.config.context
        rooms = check_prompts(prompts, sampling, model.config.vocab, context, within_context=within_context)
        self.model = model
        self.device = model.embedding.weight.device
        self.stop_ids = frozenset(stop_ids)
        self.logprobs = sampling.logprobs
        self.state = state
        self._prompts = prompts
        self._samples = samples
        self._sampler = Sampler.start(sampling, prompts, samples, model.config.vocab, self.device)
        self._rows = list(range(len(prompts) * samples))  # the row of each line of the batch
        self._left = [room for room in rooms for _ in range(samples)]  # new tokens still allowed, by row
        self._growing = set(self._rows)
        self._packed = packing.packed_before(model, len(self._rows))
        self._steps = 0
        self._newest: Tensor | None = None  # (batch, 1)

    @property
    def growing(self) -> frozenset[int]:
        """The rows that have not ended."""
        return frozenset(self._growing)

    def stop(self, row: int) -> None:
        """Ends a row: no more of its tokens are wanted."""
        self._growing.discard(row)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """The next token of each row that has not ended; nothing when all have.

        Raises:
            GenerationError: the model's logits are not finite.
        """
        if not self._growing:
            return []
        with evaluation_mode(self.model):
            if self._newest is None:
                logits = self._prefill()
            else:
                logits = self._advance(self._newest)
        self._steps += 1
        chosen = self._sampler.choose(logits)  # (batch,)
        self._newest = chosen[:, None]
        ids = chosen.tolist()
        scores = None if self.logprobs is None else _scores(logits, chosen, self.logprobs)
        tokens = []
        for line, row in enumerate(self._rows):
            if row in self._growing:
                self._left[row] -= 1
                reason: Reason | None = None
                if ids[line] in self.stop_ids:
                    reason = "stop"
                elif not self._left[row]:
                    reason = "length"
                if reason:
                    self._growing.discard(row)
                logprob, top = scores[line] if scores else (None, ())
                tokens.append(Token(row, ids[line], logprob, top, reason))
        return tokens

    def _prefill(self) -> Float[Tensor, "batch vocab"]:
        """Runs the prompts, fills the cache, and gives the logits after their last tokens."""
        if self.state is None:
            longest = max(map(len, self._prompts))
            capacity = longest + min(max(self._left), _ROOM_AT_FIRST)
            self.state = self.model.new_state(len(self._prompts), capacity)
        known = self.state.length
        tokens, documents = pad_left([prompt[known:] for prompt in self._prompts], self.device)
        hidden = self.model.hidden(tokens, documents=documents, state=self.state)  # (prompts, longest, width)
        logits = self.model.head(hidden[:, -1:])[:, 0]  # (prompts, vocab)
        if self._samples > 1:
            index = torch.arange(len(self._prompts), device=self.device).repeat_interleave(self._samples)
            self.state.select(index)
            logits = logits[index]
        return logits

    def _advance(self, newest: Int[Tensor, "batch 1"]) -> Float[Tensor, "batch vocab"]:
        """Runs the newest token of each row and gives the logits after it."""
        assert self.state is not None
        if len(self._growing) <= _WORTH_DROPPING * len(self._rows) or self._beyond_reach():
            lines = [line for line, row in enumerate(self._rows) if row in self._growing]
            index = torch.tensor(lines, device=self.device)
            self.state.select(index)
            self._sampler.select(lines, index)
            self._rows = [self._rows[line] for line in lines]
            newest = newest[index]
        if self._steps == packing.STEPS_BEFORE <= max(self._left[row] for row in self._growing) and not self._packed:
            self._packed = packing.pack(self.model, len(self._rows))
        with packing.using(self._packed):
            return self.model.head(self.model.hidden(newest, state=self.state))[:, 0]

    def _beyond_reach(self) -> bool:
        """Whether an ended row's newest token has a place that the model has no position vector for."""
        if self.model.config.positions is None:
            return False
        return (
            max(len(self._prompts[row // self._samples]) for row in self._rows) + self._steps
            > self.model.config.context
        )


def check_prompts(
    prompts: Sequence[Sequence[int]], sampling: Sampling, vocab: int, context: int, *, within_context: bool = False
) -> list[int]:
    """How many new tokens each prompt may get; `within_context` as of `Decoding`.

    Raises:
        GenerationError: no prompt, an empty one, an id that the model does not have, or more tokens than its context.
    """
    if not prompts:
        raise GenerationError("there is no prompt to continue")
    rooms = []
    for number, prompt in enumerate(prompts):
        which = f"prompt {number} " if len(prompts) > 1 else "the prompt "
        if not prompt:
            raise GenerationError(f"{which}is empty; give it at least one token")
        if not 0 <= min(prompt) <= max(prompt) < vocab:
            bad = next(id for id in prompt if not 0 <= id < vocab)
            raise GenerationError(f"{which}has the id {bad}; the model's ids are 0 to {vocab - 1}")
        room = context - len(prompt)
        wanted = sampling.max_new_tokens or room
        least = 1 if within_context or not sampling.max_new_tokens else wanted
        if room < least:
            raise GenerationError(
                f"{which}has {len(prompt)} tokens; with {least} new ones that is more than the model's context "
                f"of {context}: shorten it or lower max_new_tokens"
            )
        rooms.append(min(wanted, room))
    return rooms


def pad_left(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"] | None]:
    """Tokens of prompts that end together, and their documents (-1 in the padding); None when none needs padding."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    if all(len(prompt) == longest for prompt in prompts):
        return tokens, None
    padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    in_padding = torch.arange(longest, device=device) < padding[:, None]  # (batch, seq)
    return tokens, torch.where(in_padding, -1, 0)


def _scores(
    logits: Float[Tensor, "batch vocab"], chosen: Int[Tensor, " batch"], count: int
) -> list[tuple[float, tuple[tuple[int, float], ...]]]:
    """For each row the chosen token's log-probability, and the `count` most probable tokens with theirs."""
    logprobs = logits.log_softmax(dim=-1)
    of_chosen = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
    best = logprobs.topk(min(count, logits.shape[-1]), dim=-1)
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(score, tuple(zip(ids, values, strict=True))) for score, (ids, values) in zip(of_chosen, tops, strict=True)]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switches dropout and the like off for a while."""
    if not model.training:
        yield
        return
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True

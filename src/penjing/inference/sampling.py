"""How a token is chosen: the settings of a request, and the sampler that follows them row by row.

Randomness belongs to a row, not to a batch: sample `j` of a request with the seed `s` draws its numbers from a stream
named by `s` and `j` alone. What a request answers is therefore the same alone, in a batch, and beside any other
requests.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from penjing.errors import GenerationError, nearest
from penjing.inference import logits as transform


@dataclass(frozen=True)
class Sampling:
    """The settings of a request for text. The defaults draw from the model's own distribution.

    Raises:
        GenerationError: a value outside its range; the message names it.
    """

    temperature: float = 1.0
    """What logits are divided by. 0 takes the most probable token always (greedy); no cut below then matters."""
    top_k: int | None = None
    """Draw from the k most probable tokens."""
    top_p: float | None = None
    """Draw from the smallest set of most probable tokens that holds this probability."""
    min_p: float | None = None
    """Draw from tokens at least this many times as probable as the most probable."""
    repetition_penalty: float = 1.0
    """Above 1: tokens of the prompt and of the answer so far become less probable."""
    presence_penalty: float = 0.0
    """What a token's logit loses once it is in the answer."""
    frequency_penalty: float = 0.0
    """What a token's logit loses for each time it is in the answer."""
    max_new_tokens: int | None = None
    """How many tokens at most; None: until the model ends its text or its context is full."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; it is cut right before the first to be complete, and a stream never shows part of
    one."""
    seed: int | None = None
    """The same seed gives the same text; None draws a new one."""
    logprobs: int | None = None
    """Report each token's log-probability under the model's own distribution (before penalties, temperature and cuts),
    and this many of the most probable tokens beside it; None: report nothing."""

    def __post_init__(self) -> None:
        if self.stop is None or isinstance(self.stop, str | Iterable):
            strings = () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
            object.__setattr__(self, "stop", strings)
        for name, valid, range_ in (
            ("temperature", lambda x: 0 <= x < math.inf, "0 (greedy) or more"),
            ("top_k", lambda x: x is None or _whole(x, 1), "a whole number, at least 1"),
            ("top_p", lambda x: x is None or 0 < x <= 1, "above 0 and at most 1"),
            ("min_p", lambda x: x is None or 0 < x <= 1, "above 0 and at most 1"),
            ("repetition_penalty", lambda x: 0 < x < math.inf, "above 0 (1 changes nothing)"),
            ("presence_penalty", lambda x: math.isfinite(x), "a finite number"),
            ("frequency_penalty", lambda x: math.isfinite(x), "a finite number"),
            ("max_new_tokens", lambda x: x is None or _whole(x, 1), "a whole number, at least 1"),
            ("stop", lambda x: all(isinstance(s, str) and s for s in x), "strings that are not empty"),
            ("seed", lambda x: x is None or _whole(x), "a whole number"),
            ("logprobs", lambda x: x is None or _whole(x, 0), "a whole number, at least 0"),
        ):
            value = getattr(self, name)
            try:
                good = valid(value)
            except TypeError:
                good = False
            if not good:
                raise GenerationError(f"{name} is {value!r}; it must be {range_}")

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn: always the most probable token."""
        return self.temperature == 0

    @classmethod
    def of(cls, base: "Sampling | None" = None, /, **options: Any) -> "Sampling":
        """`base` with some settings replaced.

        Raises:
            GenerationError: an unknown setting (with the nearest known one) or a value outside its range.
        """
        known = [setting.name for setting in fields(cls)]
        for name in options:
            if name not in known:
                raise GenerationError(f"there is no setting '{name}'{nearest(name, known)}")
        return replace(base or cls(), **options)

    def within(self, room: int) -> "Sampling":
        """The same with no more new tokens than `room`."""
        return replace(self, max_new_tokens=min(self.max_new_tokens or room, room))


DEFAULT = Sampling()


def _whole(value: object, least: float = -math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass
class Sampler:
    """Chooses the next token of each row of a batch, and remembers for each row what penalties and draws need."""

    sampling: Sampling
    streams: list[random.Random]
    """A row's own stream of uniform numbers."""
    seen: Tensor | None = field(default=None, repr=False)
    """(rows, vocab) bool: tokens of the prompt and of the answer; only with a repetition penalty."""
    counts: Tensor | None = field(default=None, repr=False)
    """(rows, vocab): how often each token was generated; only with a presence or frequency penalty."""

    @classmethod
    def start(
        cls, sampling: Sampling, prompts: Sequence[Sequence[int]], samples: int, vocab: int, device: torch.device
    ) -> "Sampler":
        """A sampler for `samples` rows of each prompt, prompt by prompt."""
        # a seed of None draws one from the operating system
        seeds = [None if sampling.seed is None else f"{sampling.seed}/{sample}" for sample in range(samples)]
        streams = [random.Random(seed) for _ in prompts for seed in seeds]
        rows, seen, counts = len(streams), None, None
        if sampling.repetition_penalty != 1:
            seen = torch.zeros(rows, vocab, dtype=torch.bool, device=device)
            for row in range(rows):
                seen[row, torch.tensor(prompts[row // samples], device=device, dtype=torch.long)] = True
        if sampling.presence_penalty or sampling.frequency_penalty:
            counts = torch.zeros(rows, vocab, dtype=torch.int32, device=device)
        return cls(sampling, streams, seen, counts)

    def select(self, rows: list[int], index: Int[Tensor, " new"]) -> None:
        """Keeps the given rows (as numbers and as a tensor of them), in that order."""
        self.streams = [self.streams[row] for row in rows]
        self.seen = None if self.seen is None else self.seen[index]
        self.counts = None if self.counts is None else self.counts[index]

    def choose(self, logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, " rows"]:
        """The next token of each row.

        Raises:
            GenerationError: the logits hold NaN, or no token is possible.
        """
        settings = self.sampling
        if self.seen is not None:
            logits = transform.repetition_penalty(logits, self.seen, settings.repetition_penalty)
        if self.counts is not None:
            logits = transform.count_penalties(
                logits, self.counts, settings.presence_penalty, settings.frequency_penalty
            )
        best, chosen = logits.max(dim=-1)
        transform.check_finite(best)
        if not settings.greedy:
            # the largest logit becomes 0, so that no temperature, however small, overflows
            chosen = transform.draw(self._cut(logits - best[:, None]), self._uniforms(logits.device))
        self._remember(chosen)
        return chosen

    def _cut(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        settings = self.sampling
        if settings.temperature != 1:
            logits = transform.temperature(logits, settings.temperature)
        if settings.top_k is not None:
            logits = transform.top_k(logits, settings.top_k)
        if settings.top_p is not None and settings.top_p < 1:
            logits = transform.top_p(logits, settings.top_p)
        if settings.min_p is not None:
            logits = transform.min_p(logits, settings.min_p)
        return logits

    def _uniforms(self, device: torch.device) -> Float[Tensor, " rows"]:
        numbers = [stream.random() for stream in self.streams]
        return torch.tensor(numbers, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)

    def _remember(self, chosen: Int[Tensor, " rows"]) -> None:
        index = chosen[:, None]
        if self.seen is not None:
            self.seen.scatter_(1, index, True)
        if self.counts is not None:
            self.counts.scatter_add_(1, index, torch.ones_like(index, dtype=self.counts.dtype))

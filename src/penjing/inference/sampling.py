"""How a token is chosen: the settings of a request, and the choice by them, each request by its own.

Randomness belongs to a row, not to a batch: sample `j` of a request with the seed `s` draws its numbers from a stream
named by `s` and `j` alone. What a request answers is therefore the same alone, in a batch, and beside any other
requests.
"""

import copy
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
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
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit): -100 or so forbids a token, 100 or so leaves nothing else. A mapping may
    be given."""
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
    tempered_logprobs: bool = False
    """Report them under the distribution at this temperature instead, which the tokens are drawn from where nothing
    else is asked: what rollouts need. The temperature must then be above 0."""

    def __post_init__(self) -> None:
        if self.stop is None or isinstance(self.stop, str | Iterable):
            strings = () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
            object.__setattr__(self, "stop", strings)
        if isinstance(self.logit_bias, Mapping):
            object.__setattr__(self, "logit_bias", tuple(self.logit_bias.items()))
        elif isinstance(self.logit_bias, list):  # as JSON gives it back
            pairs = [tuple(pair) if isinstance(pair, list) else pair for pair in self.logit_bias]
            object.__setattr__(self, "logit_bias", tuple(pairs))
        for name, valid, range_ in (
            ("temperature", lambda x: 0 <= x < math.inf, "0 (greedy) or more"),
            ("top_k", lambda x: x is None or _whole(x, 1), "a whole number, at least 1"),
            ("top_p", lambda x: x is None or 0 < x <= 1, "above 0 and at most 1"),
            ("min_p", lambda x: x is None or 0 < x <= 1, "above 0 and at most 1"),
            ("repetition_penalty", lambda x: 0 < x < math.inf, "above 0 (1 changes nothing)"),
            ("presence_penalty", lambda x: math.isfinite(x), "a finite number"),
            ("frequency_penalty", lambda x: math.isfinite(x), "a finite number"),
            ("logit_bias", lambda x: all(map(_is_bias, x)), "token ids, at least 0, with a finite number each"),
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
        if self.tempered_logprobs and self.greedy:
            raise GenerationError("temperature is 0; there are no log-probabilities at that temperature")

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


def _is_bias(pair: object) -> bool:
    if not isinstance(pair, tuple) or len(pair) != 2:
        return False
    id, bias = pair
    return _whole(id, 0) and isinstance(bias, int | float) and math.isfinite(bias)


def _whole(value: object, least: float = -math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


DEFAULT = Sampling()


def preferred(values: Mapping[str, Any]) -> Sampling:
    """The settings that a model prefers, by its `generation_config.json`; the defaults where it says nothing."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    settings = {name: values[name] for name in names if values.get(name) is not None}
    if settings.get("top_k") == 0:
        del settings["top_k"]  # how transformers says "no limit"
    if values.get("do_sample") is False:
        settings["temperature"] = 0.0
    return Sampling.of(**settings)


class Row:
    """What the choice of one request's tokens depends on beside its settings: its random stream and its past.

    Args:
        sampling: the settings.
        prompt: the ids that the text begins with.
        sample: which of several continuations of the prompt this is; each has a stream of its own.
        vocab: how many ids the model has.
        device: where the logits are.

    Raises:
        GenerationError: a biased id that the model does not have.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], sample: int, vocab: int, device: torch.device):
        self.sampling = sampling
        foreign = next((id for id, _ in sampling.logit_bias if id >= vocab), None)
        if foreign is not None:
            raise GenerationError(f"logit_bias has the id {foreign}; the model's ids are 0 to {vocab - 1}")
        # a seed of None draws one from the operating system
        self.stream = random.Random(None if sampling.seed is None else f"{sampling.seed}/{sample}")
        self.seen: Tensor | None = None  # (vocab,) bool: tokens of the prompt and of the answer
        self.counts: Tensor | None = None  # (vocab,): how often each token was generated
        if sampling.repetition_penalty != 1:
            self.seen = torch.zeros(vocab, dtype=torch.bool, device=device)
            self.seen[torch.tensor(prompt, device=device, dtype=torch.long)] = True
        if sampling.presence_penalty or sampling.frequency_penalty:
            self.counts = torch.zeros(vocab, dtype=torch.int32, device=device)

    def remember(self, id: int) -> None:
        """Takes note of a chosen token."""
        if self.seen is not None:
            self.seen[id] = True
        if self.counts is not None:
            self.counts[id] += 1

    def twin(self) -> "Row":
        """A copy that may be asked what this one will choose, without this one's noticing."""
        other = copy.copy(self)
        other.stream = random.Random()
        other.stream.setstate(self.stream.getstate())
        other.seen = None if self.seen is None else self.seen.clone()
        other.counts = None if self.counts is None else self.counts.clone()
        return other


def choose(logits: Float[Tensor, "rows vocab"], rows: Sequence[Row]) -> list[int]:
    """The next token of each row, by its own settings; rows whose settings are alike are worked on together.

    Raises:
        GenerationError: the logits hold NaN, or no token is possible.
    """
    groups: dict[Sampling, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(_what_matters(row.sampling), []).append(number)
    chosen = [0] * len(rows)
    for settings, numbers in groups.items():
        own = logits if len(groups) == 1 else logits[torch.tensor(numbers, device=logits.device)]
        for number, id in zip(numbers, _choose(own, [rows[n] for n in numbers], settings), strict=True):
            chosen[number] = id
            rows[number].remember(id)
    return chosen


@lru_cache(maxsize=1 << 14)
def _what_matters(sampling: Sampling) -> Sampling:
    """The settings that a choice depends on, without those that end a text or name a stream."""
    return replace(sampling, seed=None, stop=(), max_new_tokens=None, logprobs=None, tempered_logprobs=False)


def _choose(logits: Float[Tensor, "rows vocab"], rows: Sequence[Row], settings: Sampling) -> list[int]:
    if settings.repetition_penalty != 1:
        seen = torch.stack([row.seen for row in rows if row.seen is not None])
        logits = transform.repetition_penalty(logits, seen, settings.repetition_penalty)
    if settings.presence_penalty or settings.frequency_penalty:
        counts = torch.stack([row.counts for row in rows if row.counts is not None])
        logits = transform.count_penalties(logits, counts, settings.presence_penalty, settings.frequency_penalty)
    if settings.logit_bias:
        logits = transform.bias(logits, dict(settings.logit_bias))
    best, chosen = logits.max(dim=-1)
    transform.check_finite(best)
    if not settings.greedy:
        # the largest logit becomes 0, so that no temperature, however small, overflows
        chosen = transform.draw(_cut(logits - best[:, None], settings), _uniforms(rows, logits.device))
    return chosen.tolist()


def _cut(logits: Float[Tensor, "rows vocab"], settings: Sampling) -> Float[Tensor, "rows vocab"]:
    if settings.temperature != 1:
        logits = transform.temperature(logits, settings.temperature)
    if settings.top_k is not None:
        logits = transform.top_k(logits, settings.top_k)
    if settings.top_p is not None and settings.top_p < 1:
        logits = transform.top_p(logits, settings.top_p)
    if settings.min_p is not None:
        logits = transform.min_p(logits, settings.min_p)
    return logits


def _uniforms(rows: Sequence[Row], device: torch.device) -> Float[Tensor, " rows"]:
    numbers = [row.stream.random() for row in rows]
    return torch.tensor(numbers, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)

"""The engine: requests in, tokens out, a pass of the model at a time.

    engine = Engine(model)
    first = engine.add([5, 7, 9], Sampling(max_new_tokens=20), stop_ids={2})
    while engine.busy:
        for token in engine.step():
            ...                     # requests may be added and cancelled between steps
    first.generated, first.reason, first.time_to_first_token

What a request answers depends on nothing but itself: not on its companions, on how its prompt was cut, on what was
found of it in the cache, on whether it had to wait in between. (Where the model computes in a precision in which the
order of a sum matters to the choice between two tokens, this holds up to that.)
"""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from penjing.errors import GenerationError
from penjing.inference.engine.cache import PageCache
from penjing.inference.engine.request import Reason, Request, Token, room_for
from penjing.inference.engine.runner import PAGE, runner_for, tokens_that_fit
from penjing.inference.engine.scheduler import Scheduler, Work
from penjing.inference.sampling import Row, Sampling, choose

if TYPE_CHECKING:
    from penjing.inference.constrained import Constraint
    from penjing.inference.speculative import Drafter
    from penjing.models.language_model import LanguageModel

SEATS = 32
STEP = 512


@dataclass
class Metrics:
    """What an engine has done so far."""

    passes: int = 0
    """Passes of the model."""
    read: int = 0
    """Tokens that they read, guesses included."""
    prompt_tokens: int = 0
    """Tokens of prompts."""
    cached_tokens: int = 0
    """Of these, found in the cache."""
    generated: int = 0
    """New tokens."""
    drafted: int = 0
    """Guessed tokens that were checked."""
    accepted: int = 0
    """Of these, right."""
    preempted: int = 0
    """How many times a request had to give its memory back and wait."""
    seconds: float = 0.0
    """Time spent in `step`."""

    @property
    def tokens_per_second(self) -> float:
        """New tokens a second of `step`."""
        return self.generated / self.seconds if self.seconds else 0.0


class Engine:
    """Serves requests from one model. One thread at a time may use it.

    Args:
        model: its weights must not change while requests run (afterwards, call `forget`).
        tokens: how many tokens the cache holds, of all texts together; None for what a quarter of the free memory
            holds.
        seats: how many requests run at once; the others wait.
        step: how many tokens one pass reads at most: smaller lets those that generate wait less for prompts.
        reuse: whether texts that begin alike share what was computed, one after the other too.
        drafter: guesses tokens, which are then checked several at a time.
        steady: whether the same requests get the same bits in any process: nothing then depends on how long passes
            took or on what was done with the model before, which otherwise chooses between equals but for rounding.
    """

    def __init__(
        self,
        model: "LanguageModel",
        *,
        tokens: int | None = None,
        seats: int = SEATS,
        step: int = STEP,
        reuse: bool = True,
        drafter: "Drafter | None" = None,
        steady: bool = False,
    ):
        for name, value in (("tokens", 1 if tokens is None else tokens), ("seats", seats), ("step", step)):
            if value < 1:
                raise GenerationError(f"{name} is {value}; an engine needs at least 1")
        if drafter is not None:
            drafter.check(model)
        self.model = model
        self.drafter = drafter
        self.metrics = Metrics()
        step = max(step, PAGE)
        room = tokens_that_fit(model) if tokens is None else tokens
        self._runner = runner_for(model, room, seats, step, steady)
        self.cache = PageCache(self._runner.sizes, PAGE, step, reuse=reuse and self._runner.can_reuse)
        self._scheduler = Scheduler(self.cache, seats, step)
        self._vocab = model.config.vocab
        self._device = model.embedding.weight.device

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    @property
    def longest(self) -> int:
        """How many tokens a text may have: the model's context, or what the cache holds of a single one."""
        room = min(
            (
                size * PAGE
                for window, size in self.cache.sizes.items()
                if self.cache.holds(window, self.model.config.context) > size
            ),
            default=self.model.config.context,
        )
        return min(self.model.config.context, room)

    def add(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        stop_ids: Collection[int] = (),
        row: int = 0,
        samples: int = 1,
        sample: int = 0,
        within_context: bool = False,
        constraint: "Constraint[Any] | None" = None,
        prompt_logprobs: bool = False,
    ) -> list[Request]:
        """Puts a request in the queue; the same with several samples, whose prompt is read once.

        Args:
            prompt: token ids, at least one.
            sampling: how tokens are chosen. Stop *strings* are the caller's affair (`cancel`): only text has them.
            stop_ids: ids that end the text (they are its last token).
            row: a number that comes back with each token; samples are numbered on from it.
            samples: how many continuations.
            sample: the first one's number; each number has a random stream of its own.
            within_context: whether a prompt that leaves less room than `max_new_tokens` gets what there is; else that
                is an error.
            constraint: what the text must be (`inference.constrained`).
            prompt_logprobs: whether the prompt's own tokens are scored too (`sampling.logprobs` says how many beside).

        Raises:
            GenerationError: an empty prompt, an id that the model does not have, or more tokens than there is room for.
        """
        room = room_for(prompt, sampling, self._vocab, self.longest, within=within_context)
        requests = [
            Request(
                row=row + number,
                prompt=tuple(prompt),
                sampling=sampling,
                stop_ids=frozenset(stop_ids),
                room=room,
                chooser=Row(sampling, prompt, sample + number, self._vocab, self._device),
                constraint=constraint,
                constraint_state=None if constraint is None else constraint.start(),
                prompt_logprobs=[] if prompt_logprobs and number == 0 else None,
            )
            for number in range(samples)
        ]
        self.metrics.prompt_tokens += len(prompt)
        first, *others = requests
        first.siblings = others
        self._scheduler.add(first)
        return requests

    def cancel(self, request: Request, reason: Reason = "cancelled") -> None:
        """Ends a request, at any moment; its memory is free at once. One that has ended stays as it is."""
        if request.done:
            return
        request.reason = reason
        parent = next((other for other in self._requests() if request in other.siblings), None)
        if parent is not None:
            parent.siblings.remove(request)
            return
        waiting, request.siblings = request.siblings, []
        self._end(request)
        if waiting:  # the prompt was not read yet: another takes its place
            waiting[0].siblings = waiting[1:]
            self._scheduler.add(waiting[0])

    def step(self) -> list[Token]:
        """One pass: the new tokens, in the order of the requests' arrival; maybe none while prompts are read.

        Raises:
            GenerationError: the model's logits are not finite. All requests are given up.
        """
        begin = time.perf_counter()
        work = self._scheduler.schedule()
        if not work:
            assert not self.busy, "whoever runs has something to read"
            return []
        wanted = [self._wanted(part) for part in work]
        left = max(part.request.room - len(part.request.generated) for part in work)
        try:
            logits = self._runner.run(work, wanted, left)
            tokens = self._choose(work, logits.split(list(map(len, wanted))))
        except GenerationError:
            while self.busy:
                self.cancel(self._requests()[0])
            raise
        self.metrics.passes += 1
        self.metrics.read += sum(part.count for part in work)
        self.metrics.generated += len(tokens)
        self.metrics.preempted = self._scheduler.preempted
        self.metrics.seconds += time.perf_counter() - begin
        return tokens

    def stream(self, request: Request) -> Iterator[Token]:
        """A request's tokens as they come; the others go on meanwhile. Leaving it early cancels the request."""
        sent = 0
        try:
            while sent < len(request.output) or not request.done:
                if sent == len(request.output):
                    self.step()
                else:
                    sent += 1
                    yield request.output[sent - 1]
        finally:
            self.cancel(request)

    def forget(self) -> None:
        """Forgets what ended requests left in the cache."""
        self.cache.forget()

    def _requests(self) -> list[Request]:
        return [*self._scheduler.running, *self._scheduler.waiting]

    def _wanted(self, part: Work) -> range:
        """Which of a part's tokens need logits."""
        request = part.request
        if request.prompt_logprobs is not None and request.computed < len(request.prompt):
            return range(part.count)
        return range(request.pending - 1, part.count) if part.completes else range(0)

    def _choose(self, work: Sequence[Work], logits: Sequence[Float[Tensor, "rows vocab"]]) -> list[Token]:
        """Takes note of what was read, and lets every request whose tokens are all read choose its next."""
        plain: list[tuple[Request, Tensor]] = []
        tokens: list[Token] = []
        for part, own in zip(work, logits, strict=True):
            request, pending = part.request, part.request.pending
            if request.prompt_logprobs is not None and request.computed < len(request.prompt):
                self._score_prompt(request, own)
            if not part.completes:
                self._read(request, part.count)
            elif part.count > pending:
                tokens += self._check(request, own[-(part.count - pending + 1) :])
            else:
                self._read(request, part.count)
                plain.append((request, own[-1:]))
                if not request.generated:
                    self.metrics.cached_tokens += request.cached
                    plain += [(sibling, own[-1:]) for sibling in self._fork(request)]
        if plain:
            rows = plain[0][1] if len(plain) == 1 else torch.cat([row for _, row in plain])
            ids = choose(self._allowed([request for request, _ in plain], rows), [r.chooser for r, _ in plain])
            scores = self._scores([request for request, _ in plain], rows, ids)
            for (request, _), id, score in zip(plain, ids, scores, strict=True):
                tokens.append(self._emit(request, id, score))
        for request in [*self._scheduler.running]:
            if self.drafter is not None and request.pending == 1:
                most = request.room - len(request.generated) - 1
                request.draft = self.drafter.propose(request)[: max(most, 0)]
        return tokens

    def _read(self, request: Request, count: int) -> None:
        """Takes note that so many more tokens are in the cache."""
        assert request.pages is not None
        request.computed += count
        self.cache.seal(request.pages, request.tokens, request.computed)
        self.cache.slide(request.pages, request.computed)

    def _check(self, request: Request, logits: Float[Tensor, "guesses vocab"]) -> list[Token]:
        """Chooses tokens as without guesses, one after the other, for as long as the guesses were what is chosen.

        So the text is the one that there would be without guesses, of whatever quality they are: at each place the
        token is drawn from the model's own distribution by the request's own random numbers.
        """
        guesses, request.draft = request.draft, []
        tokens, right = [], 0
        for place in range(len(guesses) + 1):
            row = logits[place : place + 1]
            (id,) = choose(self._allowed([request], row), [request.chooser])
            (score,) = self._scores([request], row, [id])
            self._read(request, request.pending)  # the newest token: of a right guess the keys are there too
            tokens.append(self._emit(request, id, score))
            if request.done or place == len(guesses) or id != guesses[place]:
                break
            right += 1
        request.drafted += len(guesses)
        request.accepted += right
        self.metrics.drafted += len(guesses)
        self.metrics.accepted += right
        return tokens

    def _fork(self, request: Request) -> list[Request]:
        """Seats the other continuations of a prompt that has been read; those without room wait for it."""
        siblings, request.siblings = request.siblings, []
        for sibling in siblings:
            sibling.cached = request.cached
            room = len(self._scheduler.running) < self._scheduler.seats and self._runner.can_copy
            if room and request.pages is not None:
                sibling.pages = self.cache.fork(request.pages, request.computed, self._runner.copy)
            if sibling.pages is None:
                self._scheduler.add(sibling)
            else:
                sibling.computed = request.computed
                self._scheduler.join(sibling)
        return siblings

    def _emit(self, request: Request, id: int, score: tuple[float, tuple[tuple[int, float], ...]] | None) -> Token:
        """Appends a chosen token, and ends the request where it ends it."""
        request.tokens.append(id)
        request.times.append(time.perf_counter())
        if request.constraint is not None:
            request.constraint_state = request.constraint.advance(request.constraint_state, id)
        reason: Reason | None = None
        if id in request.stop_ids or (
            request.constraint is not None and request.constraint.finished(request.constraint_state)
        ):
            reason = "stop"
        elif len(request.generated) == request.room:
            reason = "length"
        if reason is not None:
            request.reason = reason
            self._end(request)
        logprob, top = score or (None, ())
        request.output.append(Token(request.row, id, logprob, top, reason, id in request.stop_ids))
        return request.output[-1]

    def _end(self, request: Request) -> None:
        self._scheduler.remove(request)
        if self.drafter is not None:
            self.drafter.end(request)

    def _allowed(self, requests: Sequence[Request], logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        """The logits, those of tokens that a request's constraint does not allow being -infinity."""
        if all(request.constraint is None for request in requests):
            return logits
        logits = logits.clone()
        for row, request in zip(logits, requests, strict=True):
            if request.constraint is not None:
                left = request.room - len(request.generated)
                mask = request.constraint.mask(request.constraint_state, within=left)
                row.masked_fill_(~torch.tensor(mask, device=logits.device), -torch.inf)
        return logits

    def _scores(
        self, requests: Sequence[Request], logits: Float[Tensor, "rows vocab"], ids: Sequence[int]
    ) -> list[tuple[float, tuple[tuple[int, float], ...]] | None]:
        counts = [request.sampling.logprobs for request in requests]
        asked = [index for index, count in enumerate(counts) if count is not None]
        found: list[tuple[float, tuple[tuple[int, float], ...]] | None] = [None] * len(requests)
        if asked:
            most = max(count for count in counts if count is not None)
            settings = [requests[index].sampling for index in asked]
            divisors = [each.temperature if each.tempered_logprobs else 1.0 for each in settings]
            rows = logits[asked]
            if any(divisor != 1 for divisor in divisors):
                rows = rows / torch.tensor(divisors, device=rows.device)[:, None]
            for index, score in zip(asked, scored(rows, [ids[i] for i in asked], most), strict=True):
                found[index] = score[0], score[1][: counts[index]]
        return found

    def _score_prompt(self, request: Request, logits: Float[Tensor, "rows vocab"]) -> None:
        """Scores the prompt's tokens that come after those which were just read, once each."""
        assert request.prompt_logprobs is not None
        known = len(request.prompt_logprobs) - request.computed  # more than 0 when it had to give its memory back
        following = list(request.prompt[request.computed + 1 : request.computed + 1 + len(logits)])[max(known, 0) :]
        if following:
            rows = logits[max(known, 0) :][: len(following)]
            request.prompt_logprobs += scored(rows, following, request.sampling.logprobs or 0)


def scored(
    logits: Float[Tensor, "rows vocab"], chosen: Sequence[int], count: int
) -> list[tuple[float, tuple[tuple[int, float], ...]]]:
    """For each row the chosen token's log-probability, and the `count` most probable tokens with theirs."""
    logprobs = logits.log_softmax(dim=-1)
    index = torch.tensor(chosen, device=logits.device)[:, None]
    of_chosen = logprobs.gather(1, index)[:, 0].tolist()
    best = logprobs.topk(min(count, logits.shape[-1]), dim=-1)
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(score, tuple(zip(ids, values, strict=True))) for score, (ids, values) in zip(of_chosen, tops, strict=True)]

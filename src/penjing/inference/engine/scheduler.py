"""Which tokens of which requests the next pass of the model reads.

Requests join and leave between passes. In each pass

    1. every request that is generating reads its newest token (and the guesses that are to be checked with it);
    2. what is left of the pass's tokens is shared evenly among the requests that are still reading their prompts, so
       that neither those that generate nor a short prompt wait for a long one;
    3. waiting requests join, first come first served, while there is a seat, a share, and memory for their prompt.

When the memory is full the request that came last gives its pages back and waits again; it keeps what it has generated
and reads it anew later, so no token is lost. The request that came first is never sent away, so there is always one
that goes on to its end.

Source: Yu et al., "Orca", 2022, OSDI, section 3.1 (continuous batching); Agrawal et al., "Sarathi-Serve", 2024,
arXiv:2403.02310, section 4 (chunked prefills).
"""

from collections import deque
from dataclasses import dataclass

from penjing.inference.engine.cache import PageCache
from penjing.inference.engine.request import Request


@dataclass(frozen=True)
class Work:
    """A request's part in a pass."""

    request: Request
    count: int
    """How many of its tokens after the computed ones are read, guesses included."""

    @property
    def tokens(self) -> list[int]:
        """Their ids."""
        known = self.request.tokens[self.request.computed : self.request.computed + self.count]
        return known + self.request.draft[: self.count - len(known)]

    @property
    def completes(self) -> bool:
        """Whether the request's newest token is among them, so that the next can be chosen."""
        return self.count >= self.request.pending


class Scheduler:
    """The requests of an engine, running and waiting.

    Args:
        cache: who holds which page.
        seats: how many requests run at once.
        budget: how many tokens a pass reads at most (each running request reads one in any case).
    """

    def __init__(self, cache: PageCache, seats: int, budget: int):
        self.cache = cache
        self.seats = seats
        self.budget = budget
        self.running: list[Request] = []
        """In the order of their arrival."""
        self.waiting: deque[Request] = deque()
        self.preempted = 0
        """How many times a request had to give its pages back."""

    def add(self, request: Request) -> None:
        """Puts a request at the end of the queue."""
        self.waiting.append(request)

    def join(self, request: Request) -> None:
        """Seats a request that has its pages already (a sibling of one that runs)."""
        self.running.append(request)
        self.running.sort(key=lambda other: other.arrived)

    def remove(self, request: Request) -> None:
        """Takes a request out and its pages back at once, wherever it is."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._vacate(request)

    def schedule(self) -> list[Work]:
        """The next pass; empty when there is nothing to do."""
        work: dict[Request, int] = {}
        left = self.budget
        for request in [r for r in self.running if r.pending == 1]:
            if request in self.running:
                request.draft = request.draft[: max(0, left - 1)]
                count = 1 + len(request.draft)
                if self._make_room(request, count, work):
                    work[request] = count
                    left -= count
        left = max(left, self.cache.page)
        self._join_first()  # before those that read take all that is left
        left = self._share(left, [r for r in self.running if r not in work], work)
        while left > 0 and (newcomer := self._join_first()) is not None:
            left = self._share(left, [newcomer], work)
        return [Work(request, count) for request, count in work.items()]

    def _share(self, left: int, readers: list[Request], work: dict[Request, int]) -> int:
        """Gives each reader an even part of the tokens that are left, and what remains to the first that can use it."""
        parts: dict[Request, int] = {}
        hungry = [request for request in readers if request in self.running]
        while left > 0 and hungry:
            part = max(1, left // len(hungry))
            for request in list(hungry):
                more = min(part, left, request.pending - parts.get(request, 0))
                parts[request] = parts.get(request, 0) + more
                left -= more
                if parts[request] == request.pending:
                    hungry.remove(request)
        for request, count in parts.items():
            if count and request in self.running and self._make_room(request, count, work):
                work[request] = count
        return left

    def _join_first(self) -> Request | None:
        """Lets the first of those that wait join, if there is a seat and memory."""
        if not self.waiting or len(self.running) >= self.seats or not self._admit(self.waiting[0]):
            return None
        request = self.waiting.popleft()
        self.join(request)
        return request

    def _admit(self, request: Request) -> bool:
        """Gives a waiting request what is there of its beginning, if the rest of what it has to read fits too."""
        pages = self.cache.begin(request.tokens if request.prompt_logprobs is None else ())
        if not self.running or self.cache.fits(pages, len(request.tokens)):
            request.pages = pages
            request.computed = pages.length
            if not request.generated:
                request.cached = request.computed
            return True
        self.cache.retire(pages, request.tokens, pages.length)
        return False

    def _make_room(self, request: Request, count: int, work: dict[Request, int]) -> bool:
        """Takes the pages that the next tokens need; sends away whoever came last until there are enough."""
        assert request.pages is not None
        while not self.cache.extend(request.pages, request.computed + count):
            last = self.running[-1]
            assert last is not request or len(self.running) > 1, "a request fits when alone: Engine.add has seen to it"
            self.running.remove(last)
            self._vacate(last)
            self.waiting.appendleft(last)
            self.preempted += 1
            work.pop(last, None)
            if last is request:
                return False
        return True

    def _vacate(self, request: Request) -> None:
        if request.pages is not None:
            self.cache.retire(request.pages, request.tokens, request.computed)
        request.pages, request.computed, request.draft = None, 0, []

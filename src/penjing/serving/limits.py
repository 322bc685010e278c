"""How much one client may ask: sizes, times, requests a minute, requests at once.

Requests a minute are counted by a token bucket: it holds up to `burst` tokens, gains `rate / 60` of them a second, and
a request takes one or, if there is none, is refused and told when there will be:

    tokens(t) = min(burst, tokens(t0) + (t - t0) * rate / 60)        retry after (1 - tokens(t)) * 60 / rate seconds

Requests at once are counted by user, and all users' together: more than `queue` of those that make a model work are
refused rather than kept waiting, and told how long the server just now takes to finish one.

Source: Turner, "New Directions in Communications", 1986, for the bucket.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from penjing.errors import ConfigError

_MEGABYTE = 1 << 20
_REMEMBERED_USERS = 1 << 14
_FINISHED = 32


@dataclass(frozen=True)
class Limits:
    """What a server grants. A count of 0 means: no limit of this kind.

    Raises:
        ConfigError: a value below what makes sense; the message names it.
    """

    rate: float = 0
    """Requests a minute of one user; a key may have its own."""
    burst: int = 30
    """How many of them may come at once, after a pause."""
    concurrent: int = 0
    """Requests of one user at once; a key may have its own."""
    queue: int = 256
    """Requests that make a model work, of all users, at once; those that run count too."""
    connections: int = 1024
    """Open connections."""
    body: int = 4 * _MEGABYTE
    """Bytes of a request's body."""
    import_body: int = 64 * _MEGABYTE
    """Bytes of a file of conversations that is imported."""
    header: int = 32 * 1024
    """Bytes of a request's head."""
    depth: int = 100
    """How deep JSON may be nested."""
    prompt: int = _MEGABYTE
    """Characters of a request's prompt or messages together."""
    samples: int = 16
    """`n`: answers to one request."""
    inputs: int = 256
    """Texts in one request for embeddings, moderations or completions."""
    header_seconds: float = 10
    """For a request's head to come."""
    body_seconds: float = 30
    """For its body to come."""
    idle_seconds: float = 20
    """How long an open connection may wait for its next request."""
    request_seconds: float = 600
    """For the whole answer; 0: as long as it takes."""

    def __post_init__(self) -> None:
        may_be_zero = ("rate", "concurrent", "queue", "request_seconds")
        for item in fields(self):
            value = getattr(self, item.name)
            if not (value >= 0 if item.name in may_be_zero else value > 0) or not math.isfinite(value):
                least = "0 (no limit) or more" if item.name in may_be_zero else "above 0"
                raise ConfigError(f"the limit {item.name} is {value}; it must be {least}")

    def body_of(self, path: str) -> int:
        """Bytes that a request to this path may have."""
        return self.import_body if path == "/api/conversations/import" else self.body


@dataclass(frozen=True)
class Refusal:
    """Why a request is not let in now."""

    reason: str
    """One word, for metrics."""
    message: str
    retry_after: int
    """Seconds, at least 1."""


class Bucket:
    """A token bucket, full at first.

    >>> bucket = Bucket(rate=60, burst=2, now=0.0)
    >>> [bucket.take(0.0), bucket.take(0.0), bucket.take(0.0), bucket.take(1.0)]
    [0.0, 0.0, 1.0, 0.0]
    """

    def __init__(self, rate: float, burst: int, now: float):
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._then = now

    def take(self, now: float) -> float:
        """Takes a token; 0, or how many seconds until there is one, and then takes none."""
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._then) * self.rate / 60)
        self._then = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) * 60 / self.rate

    def full(self, now: float) -> bool:
        """Whether it forgot all that was taken."""
        return self._tokens + (now - self._then) * self.rate / 60 >= self.burst


@dataclass
class _User:
    bucket: Bucket | None = None
    at_once: int = 0


@dataclass
class Limiter:
    """Lets requests in, or says why not. For one event loop's thread.

    Args:
        limits: what is granted.
        clock: seconds, for tests.
    """

    limits: Limits
    clock: Callable[[], float] = time.monotonic
    at_once: int = 0
    """Requests that are let in and have not left, of all users."""
    _users: dict[str, _User] = field(default_factory=dict)
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=_FINISHED))

    def enter(self, user: str, *, rate: float | None = None, concurrent: int | None = None) -> Refusal | None:
        """Lets a request in that makes a model work, whose end `leave` must be told, or refuses it.

        Args:
            user: whose it is.
            rate: requests a minute that this user's key is granted; None: what everybody is.
            concurrent: requests at once, likewise.
        """
        limits, now = self.limits, self.clock()
        if limits.queue and self.at_once >= limits.queue:
            return Refusal("queue", f"{self.at_once} requests are being worked on; try again later", self._wait(now))
        known = self._user(user, now)
        concurrent = limits.concurrent if concurrent is None else concurrent
        if concurrent and known.at_once >= concurrent:
            message = f"this user has {known.at_once} requests running, and may have {concurrent}"
            return Refusal("concurrent", message, self._wait(now))
        rate = limits.rate if rate is None else rate
        if rate:
            if known.bucket is None or known.bucket.rate != rate:
                known.bucket = Bucket(rate, limits.burst, now)
            wait = known.bucket.take(now)
            if wait:
                message = f"this user may make {rate:g} requests a minute"
                return Refusal("rate", message, max(1, math.ceil(wait)))
        known.at_once += 1
        self.at_once += 1
        return None

    def leave(self, user: str) -> None:
        """A request that was let in has ended, however it did."""
        self._users[user].at_once -= 1
        self.at_once -= 1
        self._ends.append(self.clock())

    def _user(self, user: str, now: float) -> _User:
        if user not in self._users and len(self._users) >= _REMEMBERED_USERS:
            self._users = {name: other for name, other in self._users.items() if not _forgettable(other, now)}
        return self._users.setdefault(user, _User())

    def _wait(self, now: float) -> int:
        """Seconds until one of the running requests will have ended, by how the last ones did; 1 to 60."""
        if len(self._ends) < 2:
            return 1
        pause = (now - self._ends[0]) / len(self._ends)
        return max(1, min(60, math.ceil(pause)))


def _forgettable(user: _User, now: float) -> bool:
    return not user.at_once and (user.bucket is None or user.bucket.full(now))

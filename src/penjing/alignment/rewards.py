r"""Verifiable rewards: whether an answer is right, decided by a program and not by a learned judge.

A reward is a callable `(item, text) -> float`; small frozen dataclasses, so that a recipe can name them and a run can
remember which they were:

    world                       the generated world's own checker
    Number()                    the answer's last number is the expected one: arithmetic, GSM8K
    Matches(r"[A-Z]\d+")        the whole text matches a regular expression
    Schema({"type": ...})       the text is JSON that satisfies a schema
    PassesTests()               the text's Python passes the item's tests, in a sandbox
    Exact()                     the text is the expected one, but for white space and ways to write a fraction
    Boxed(Exact())              what stands in the last \boxed{} is judged: MATH
    Tagged("answer", Number())  what stands between <answer> and </answer> is judged, and stands there once
    Weighted(((Number(), 1.0), (Matches(r"(?s)<think>.*</think>.*"), 0.1)))

What is expected is the item's `answer`. Rewards of a whole answer, whose length matters, are judges (`each` makes a
judge of a reward):

    Shaped(each(world), length=Overlong(limit=64, buffer=16))

A text by a model may be anything. So nothing in it is evaluated, patterns have a time limit, and JSON has bounds; what
goes wrong is worth nothing, and never ends a run.

Source: Lambert et al., "Tulu 3", 2024, arXiv:2411.15124, section 6 (rewards that can be verified); Yu et al., "DAPO",
2025, arXiv:2503.14476, equation 13 (`Overlong`).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import regex

from penjing.alignment.rollouts import Rollout
from penjing.alignment.sandbox import Limits, run
from penjing.data.world import check
from penjing.errors import ConfigError, GenerationError

if TYPE_CHECKING:
    from penjing.inference.constrained.validity import Values

Reward = Callable[[Any, str], float]

LONGEST_TEXT = 1 << 16
"""Characters of a text that is judged; a longer one is wrong."""
_PATTERN_SECONDS = 0.5
_NUMBER = re.compile(
    r"(?<![A-Za-z_\d.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+(?!\.?\d))?(?:[eE][-+]?\d{1,3})?"
)
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
_MOST_DIGITS = 400


def world(item: Any, text: str) -> float:
    """1 where the generated world's checker finds the answer exactly right."""
    return float(check(item, text))


@dataclass(frozen=True)
class Number:
    """1 where the last number in the text equals the one that the item expects.

    "1,776", "1776.0" and "3552/2" are one number; a comma before three digits is no decimal sign.
    """

    tolerance: float = 0.0
    """How far off it may be, relative to the expected one."""

    def __call__(self, item: Any, text: str) -> float:
        """The reward."""
        expected, found = _last_number(str(item.answer)), _last_number(text)
        if expected is None or found is None:
            return 0.0
        return float(abs(found - expected) <= Fraction(self.tolerance) * abs(expected))


@dataclass(frozen=True)
class Matches:
    """1 where the text as a whole matches a regular expression.

    Raises:
        ConfigError: it is none.
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            regex.compile(self.pattern)
        except regex.error as fault:
            raise ConfigError(f"{self.pattern!r} is no regular expression: {fault}") from None

    def __call__(self, item: Any, text: str) -> float:
        """The reward."""
        if len(text) > LONGEST_TEXT:
            return 0.0
        try:
            return float(regex.fullmatch(self.pattern, text, timeout=_PATTERN_SECONDS) is not None)
        except TimeoutError:
            return 0.0


@dataclass(frozen=True)
class Schema:
    """1 where the text is JSON and satisfies a schema; `inference.constrained.json_schema` has the keywords.

    Raises:
        GenerationError: the schema has a keyword that is unknown or not supported.
    """

    schema: Mapping[str, Any] | bool
    valid: float = 0.0
    """What JSON that does not satisfy it is worth."""

    def __post_init__(self) -> None:
        self._values  # noqa: B018  a schema that cannot be is an error here, not amid a run

    @cached_property
    def _values(self) -> "Values":
        from penjing.inference.constrained.conjunction import Schemas
        from penjing.inference.constrained.keywords import read
        from penjing.inference.constrained.validity import Values

        schema = self.schema if isinstance(self.schema, bool) else dict(self.schema)
        return Values(Schemas(read(schema)))

    def __call__(self, item: Any, text: str) -> float:
        """The reward."""
        from penjing.inference.constrained.conjunction import Part

        if len(text) > LONGEST_TEXT:
            return 0.0
        try:
            value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_without_repeats)
            return 1.0 if self._values.satisfies((Part("#"),), value) else self.valid
        except (ValueError, OverflowError, RecursionError, GenerationError):
            return 0.0


@dataclass(frozen=True)
class PassesTests:
    """How many of the item's tests the text's Python passes, run in a sandbox; see there for what it keeps out.

    The code is what stands in the text's last fence (```python), or the whole text without one. Tests are the item's
    `tests`, a list of statements that raise where the code is wrong.
    """

    seconds: float = 2.0
    """Of processor time for the code with all its tests."""
    memory_bytes: int = 512 << 20
    partial: bool = False
    """Whether some tests passed are worth their share; else all or nothing."""

    def __call__(self, item: Any, text: str) -> float:
        """The reward."""
        if len(text) > LONGEST_TEXT:
            return 0.0
        fences = _FENCE.findall(text)
        outcome = run(fences[-1] if fences else text, item.tests, Limits(self.seconds, self.memory_bytes))
        passed = sum(outcome.passed)
        if not outcome.passed or (passed < len(outcome.passed) and not self.partial):
            return 0.0
        return passed / len(outcome.passed)


@dataclass(frozen=True)
class Exact:
    """1 where the text is the expected one, but for white space, dollar signs and other ways to write a fraction."""

    def __call__(self, item: Any, text: str) -> float:
        """The reward."""
        return float(len(text) <= LONGEST_TEXT and _plain(text) == _plain(str(item.answer)))


@dataclass(frozen=True)
class Boxed:
    r"""Judges what stands in the last `\boxed{}`; where there is none, the reward is 0."""

    reward: Reward

    def __call__(self, item: Any, text: str) -> float:
        """The reward."""
        _, found, rest = text[-LONGEST_TEXT:].rpartition("\\boxed{")
        depth = 1
        for place, character in enumerate(rest if found else ""):
            depth += {"{": 1, "}": -1}.get(character, 0)
            if depth == 0:
                return self.reward(item, rest[:place])
        return 0.0


@dataclass(frozen=True)
class Tagged:
    """Judges what stands between `<tag>` and `</tag>`; where that is not there exactly once, the reward is 0."""

    tag: str
    reward: Reward

    def __call__(self, item: Any, text: str) -> float:
        """The reward."""
        before, opened, rest = text.partition(f"<{self.tag}>")
        inside, closed, after = rest.partition(f"</{self.tag}>")
        once = not any(f"{mark}{self.tag}>" in part for mark in ("<", "</") for part in (before, inside, after))
        return self.reward(item, inside.strip()) if opened and closed and once else 0.0


@dataclass(frozen=True)
class Weighted:
    """The sum of rewards, each times its weight."""

    parts: tuple[tuple[Reward, float], ...]

    def __call__(self, item: Any, text: str) -> float:
        """The reward."""
        return sum(weight * reward(item, text) for reward, weight in self.parts)


@dataclass(frozen=True)
class Overlong:
    """DAPO's soft punishment of length, so that the last tokens before the limit are not as good as the first:

        0                                    length <= limit - buffer
        (limit - buffer - length) / buffer   in between
        -1                                   length > limit

    Raises:
        ConfigError: the buffer is not from 1 to the limit.
    """

    limit: int
    """Tokens that an answer may have."""
    buffer: int
    """Of these, the last so many are punished more and more."""

    def __post_init__(self) -> None:
        if not 1 <= self.buffer <= self.limit:
            raise ConfigError(f"buffer is {self.buffer}; it is a part of the limit of {self.limit} tokens")

    def __call__(self, length: int) -> float:
        """What a length adds to a reward."""
        return max(-1.0, min(0.0, (self.limit - self.buffer - length) / self.buffer))


@dataclass(frozen=True)
class Shaped:
    """A judge whose rewards depend on the answers' lengths, too."""

    judge: Callable[[Sequence[Any], Sequence[Rollout]], Sequence[float]]
    length: Overlong
    weight: float = 1.0

    def __call__(self, items: Sequence[Any], answers: Sequence[Rollout]) -> list[float]:
        """The rewards of answers."""
        rewards = self.judge(items, answers)
        return [
            reward + self.weight * self.length(answer.length) for reward, answer in zip(rewards, answers, strict=True)
        ]


@dataclass(frozen=True)
class Task:
    """Something to ask whose answer can be verified; the world's items are of this form, too."""

    prompt: tuple[Any, ...]
    """The conversation up to the answer."""
    answer: str = ""
    """What is expected."""
    tests: tuple[str, ...] = field(default=())
    """Statements that judge code."""
    origin: str = ""


def _last_number(text: str) -> Fraction | None:
    found = None
    for match in _NUMBER.finditer(text[-LONGEST_TEXT:]):
        found = match
    if found is None or len(found[0]) > _MOST_DIGITS:
        return None
    above, _, below = found[0].replace(",", "").replace("−", "-").partition("/")
    try:
        return Fraction(above.strip()) / Fraction(below.strip() or 1)
    except (ValueError, ZeroDivisionError):
        return None


def _plain(text: str) -> str:
    """A text without what makes no difference to a formula."""
    for written, plain in (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\left", ""), ("\\right", ""), ("$", "")):
        text = text.replace(written, plain)
    return "".join(text.split()).removesuffix(".")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)

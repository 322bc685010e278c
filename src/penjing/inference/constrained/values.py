"""JSON values as a grammar: nodes that say which values, and how a value of theirs begins.

A node is asked with a depth, how many arrays and objects may still be opened. That makes everything finite: what a
recursive schema needs at least (`cost`) is found for no depth first, then for one, and so on (`settle`); values that
would need more depth than is left are not begun; and no text nests deeper than `DEEPEST`, for JSON's readers have such
limits as well.
"""

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from penjing.inference.constrained.machine import NEVER, Machine
from penjing.inference.constrained.pushdown import Blank, Frame, Lexeme, Literal, Rule, Terminal
from penjing.inference.constrained.spelling import ALL_BYTES

DEEPEST = 64
"""Arrays and objects within one another."""


@dataclass(frozen=True)
class Layout:
    """How JSON is laid out."""

    whitespace: int = 0
    """Characters of white space wherever JSON allows it, at most."""
    usable: int = ALL_BYTES
    """The bytes that can be written."""

    @property
    def blank(self) -> tuple[Frame, ...]:
        """The frames of white space."""
        bytes_ = sum(1 << byte for byte in b" \n\r\t") & self.usable
        return (Blank(self.whitespace, bytes_),) if self.whitespace and bytes_ else ()

    def writes(self, content: bytes) -> bool:
        """Whether these bytes can be written."""
        return all(self.usable >> byte & 1 for byte in content)


class Node:
    """A set of JSON values."""

    def __init__(self) -> None:
        self._costs: dict[int, int] = {}
        self.steady = DEEPEST
        """From this depth on the cost is the same."""

    def cost(self, depth: int) -> int:
        """Bytes that are enough to write one of the values with so much depth left; `NEVER` when that is too little."""
        depth = min(depth, self.steady)
        if depth not in self._costs:
            self._costs[depth] = min(self._cost(depth), NEVER)
        return self._costs[depth]

    @abstractmethod
    def _cost(self, depth: int) -> int:
        """As `cost`, found anew."""

    @abstractmethod
    def open(self, depth: int) -> Iterable[tuple[Frame, ...]]:
        """The sequences of frames that write a value; asked only where `cost` is less than `NEVER`."""


@dataclass(frozen=True, slots=True)
class Value(Rule):
    """Any value of a node."""

    node: Node
    depth: int

    @property
    def need(self) -> int:
        """As of `Rule`."""
        return self.node.cost(self.depth)

    def expand(self) -> Iterable[tuple[Frame, ...]]:
        """As of `Rule`."""
        return self.node.open(self.depth)


class Slot(Node):
    """A node that is made later: what a schema that refers to itself refers to."""

    def __init__(self, where: str):
        super().__init__()
        self.where = where
        self.target: Node | None = None

    def _cost(self, depth: int) -> int:
        assert self.target is not None
        return self.target.cost(depth)

    def open(self, depth: int) -> Iterable[tuple[Frame, ...]]:
        """As of `Node`."""
        assert self.target is not None
        return self.target.open(depth)


def settle(slots: Sequence[Slot]) -> None:
    """Finds the costs of nodes that refer to each other, from depth 0 up, until more depth changes nothing.

    The slots come in the order in which they were made; later ones are asked first, for the earlier ones ask them.
    """
    costs: list[int] = []
    for depth in range(DEEPEST + 1):
        before, costs = costs, [slot.cost(depth) for slot in reversed(slots)]
        if costs == before:
            break
    for slot in slots:
        slot.steady = depth


class Choice(Node):
    """The values of any of several nodes; without any, no value at all."""

    def __init__(self, options: Sequence[Node]):
        super().__init__()
        self.options = tuple(options)

    def _cost(self, depth: int) -> int:
        return min((option.cost(depth) for option in self.options), default=NEVER)

    def open(self, depth: int) -> Iterable[tuple[Frame, ...]]:
        """As of `Node`."""
        return [frames for option in self.options if option.cost(depth) < NEVER for frames in option.open(depth)]


class Read(Node):
    """What a machine reads: numbers, or the insides of strings."""

    def __init__(self, machine: Machine | None, *, quoted: bool, layout: Layout):
        super().__init__()
        self.machine = machine if not quoted or layout.writes(b'"') else None
        self.quotes: tuple[Frame, ...] = (Literal(b'"'),) if quoted else ()

    def _cost(self, depth: int) -> int:
        return NEVER if self.machine is None else self.machine.need(self.machine.start) + 2 * len(self.quotes)

    def open(self, depth: int) -> Iterable[tuple[Frame, ...]]:
        """As of `Node`."""
        assert self.machine is not None
        return [(*self.quotes, Lexeme(self.machine, self.machine.start), *self.quotes)]


class Texts:
    """Some texts, each with a number; they are equal when the texts are."""

    __slots__ = ("_hash", "items")

    def __init__(self, items: Iterable[bytes]):
        self.items = tuple(sorted(set(items)))
        self._hash = hash(self.items)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Texts) and self.items == other.items)


class After:
    """What comes after one of some texts; this one: nothing."""

    __slots__ = ()

    def need(self, text: bytes) -> int:
        """Bytes that are enough for it."""
        return 0

    def frames(self, text: bytes) -> tuple[Frame, ...]:
        """The frames of it."""
        return ()


NOTHING_AFTER = After()


@dataclass(frozen=True, slots=True)
class OneOf(Terminal):
    """One of the texts from number `first` up to `last`; their first `at` bytes are the same and have been read."""

    texts: Texts
    first: int
    last: int
    at: int
    after: After

    @classmethod
    def of(cls, texts: Texts, after: After = NOTHING_AFTER) -> "OneOf":
        """Any of the texts, from its beginning."""
        return cls(texts, 0, len(texts.items), 0, after)

    @property
    def need(self) -> int:
        """As of `Terminal`."""
        items = self.texts.items[self.first : self.last]
        return min((len(text) - self.at + self.after.need(text) for text in items), default=NEVER)

    def moves(self) -> Iterable[tuple[int, tuple[Frame, ...]]]:
        """As of `Terminal`."""
        items, at, place = self.texts.items, self.at, self.first
        while place < self.last:
            byte = items[place][at]
            end = bisect_right(items, byte, place, self.last, key=lambda text: text[at])
            if len(items[place]) == at + 1:
                yield 1 << byte, self.after.frames(items[place])
                place += 1
            if place < end:
                yield 1 << byte, (OneOf(self.texts, place, end, at + 1, self.after),)
            place = end


class Given(Node):
    """Values that are given one by one, as they are written."""

    def __init__(self, texts: Iterable[bytes], layout: Layout):
        super().__init__()
        self.texts = Texts(text for text in texts if layout.writes(text))

    def _cost(self, depth: int) -> int:
        return min(map(len, self.texts.items), default=NEVER)

    def open(self, depth: int) -> Iterable[tuple[Frame, ...]]:
        """As of `Node`."""
        return [(OneOf.of(self.texts),)]

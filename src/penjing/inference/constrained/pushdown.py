"""A pushdown automaton over bytes: a stack of what is still to come, all alternatives at once.

JSON nests, so no finite automaton describes it. What may follow at a point of a text is a stack of frames:

    {"name": "Bo|          the rest of a string; the rest of an object that has one member; the end

A frame is a *terminal*, which reads bytes (`"name"`, the rest of a string), or a *rule*, which stands for any of some
sequences of frames (a value: an object, or an array, or ...). Rules are expanded when they come to the top, so that a
grammar may be recursive, and count without limit, without being written out.

Alternatives are followed together. Stacks with the same frame on top are one stack, whose rest is either's rest: then
a state stays small however deep ambiguous alternatives nest. Equal stacks are one object; a state is such an object.

No stack is a dead end: frames are only made where some text leads to the end (`need` bytes of it are enough).

Sources: Thompson, "Regular Expression Search Algorithm", 1968 (following all alternatives at once); Tomita, "Efficient
Parsing for Natural Language", 1985 (stacks that share their tops and rests); Dong et al., "XGrammar", 2024,
arXiv:2411.15100 (pushdown automata over bytes for constrained decoding).
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from penjing.inference.constrained.machine import NEVER, Machine, Place
from penjing.inference.constrained.spelling import ALL_BYTES

_REMEMBERED = 1 << 16
"""Stacks that are remembered; then all are forgotten. States that are in use stay valid, they are only found anew."""


class Terminal:
    """A frame that reads bytes. Frames are equal when they stand for the same."""

    __slots__ = ()

    @property
    @abstractmethod
    def need(self) -> int:
        """Bytes that are enough to get past it; some byte from here leads to where one less is enough."""

    @property
    def ends(self) -> bool:
        """Whether nothing more need come."""
        return False

    @abstractmethod
    def moves(self) -> "Iterable[tuple[int, tuple[Frame, ...]]]":
        """(set of bytes, the frames that stand in its place after one of them)."""

    def step(self, byte: int) -> "Iterable[tuple[Frame, ...]]":
        """The frames that stand in its place after a byte, each alternative."""
        return [frames for bytes_, frames in self.moves() if bytes_ >> byte & 1]


class Rule:
    """A frame that stands for any of several sequences of frames."""

    __slots__ = ()

    @property
    @abstractmethod
    def need(self) -> int:
        """As a terminal's."""

    @abstractmethod
    def expand(self) -> "Iterable[tuple[Frame, ...]]":
        """The sequences, the next frame first."""


Frame = Terminal | Rule


@dataclass(frozen=True, slots=True)
class Literal(Terminal):
    """Just these bytes, from place `at`."""

    text: bytes
    at: int = 0

    @property
    def need(self) -> int:
        """As of `Terminal`."""
        return len(self.text) - self.at

    def moves(self) -> Iterable[tuple[int, tuple[Frame, ...]]]:
        """As of `Terminal`."""
        after = (Literal(self.text, self.at + 1),) if self.at + 1 < len(self.text) else ()
        return ((1 << self.text[self.at], after),)


@dataclass(frozen=True, slots=True)
class Lexeme(Terminal):
    """What a machine reads from a place on."""

    machine: Machine
    place: Place

    @property
    def need(self) -> int:
        """As of `Terminal`."""
        return self.machine.need(self.place)

    @property
    def ends(self) -> bool:
        """As of `Terminal`."""
        return self.machine.accepts(self.place)

    def moves(self) -> Iterable[tuple[int, tuple[Frame, ...]]]:
        """As of `Terminal`."""
        for bytes_, place in self.machine.moves(self.place):
            over = self.machine.accepts(place) and not self.machine.moves(place)
            yield bytes_, () if over else (Lexeme(self.machine, place),)


@dataclass(frozen=True, slots=True)
class Blank(Terminal):
    """Up to so many characters of white space."""

    left: int
    bytes_: int

    @property
    def need(self) -> int:
        """As of `Terminal`."""
        return 0

    @property
    def ends(self) -> bool:
        """As of `Terminal`."""
        return True

    def moves(self) -> Iterable[tuple[int, tuple[Frame, ...]]]:
        """As of `Terminal`."""
        return ((self.bytes_, (Blank(self.left - 1, self.bytes_),) if self.left > 1 else ()),)


@dataclass(frozen=True, slots=True)
class Unsure(Terminal):
    """Whether this byte may come cannot be told without knowing exactly what was written; see `objects`."""

    @property
    def need(self) -> int:
        """As of `Terminal`."""
        return 0

    def moves(self) -> Iterable[tuple[int, tuple[Frame, ...]]]:
        """As of `Terminal`."""
        return ((ALL_BYTES, (self,)),)


class Stack:
    """What may still come: any frame of `entries` and then its rest, or nothing when `done`."""

    __slots__ = ("done", "entries", "need")

    def __init__(self, entries: "tuple[tuple[Frame, Stack], ...]", done: bool):
        self.entries = entries
        self.done = done
        self.need: int = 0 if done else min((frame.need + rest.need for frame, rest in entries), default=NEVER)
        """Bytes that are enough to come to the end."""

    def __repr__(self) -> str:
        return f"Stack({len(self.entries)} alternatives, at most {self.need} bytes to the end)"


Moves = tuple[tuple[int, Stack], ...]


class Pushdown:
    """Makes stacks, and follows bytes through them."""

    def __init__(self) -> None:
        self.dead = Stack((), done=False)
        """Nothing can follow, and the text is not complete."""
        self.end = Stack((), done=True)
        """The text is complete, and nothing can follow."""
        self.unsure = Stack(((Unsure(), self.dead),), done=False)
        """What is asked must be answered byte by byte, with `step`."""
        self._made: dict[object, Stack] = {}
        self._moves: dict[Stack, Moves] = {}

    def push(self, frames: tuple[Frame, ...], below: Stack) -> Stack:
        """The frames, the first on top, above a stack."""
        for frame in reversed(frames):
            key = (frame, below)
            known = self._made.get(key)
            if known is None:
                known = self._made[key] = self.unsure if isinstance(frame, Unsure) else Stack((key,), done=False)
            below = known
        return below

    def union(self, one: Stack, other: Stack) -> Stack:
        """What may come from either."""
        if one is other or other is self.dead:
            return one
        if one is self.dead:
            return other
        if one is self.unsure or other is self.unsure:
            return self.unsure
        rests = dict(one.entries)
        for frame, rest in other.entries:
            rests[frame] = self.union(rests[frame], rest) if frame in rests else rest
        done = one.done or other.done
        key = (frozenset(rests.items()), done)
        known = self._made.get(key)
        if known is None:
            known = self._made[key] = Stack(tuple(rests.items()), done)
        return known

    def accepts(self, stack: Stack) -> bool:
        """Whether the text may end here."""
        return stack.done or any(
            any(self.accepts(self.push(frames, rest)) for frames in frame.expand())
            if isinstance(frame, Rule)
            else frame.ends and self.accepts(rest)
            for frame, rest in stack.entries
        )

    def moves(self, stack: Stack) -> Moves:
        """(set of bytes, the stack after one of them), the sets disjoint. Names in objects are not kept track of."""
        known = self._moves.get(stack)
        if known is None:
            known = self._moves[stack] = self._disjoint(self._all_moves(stack))
        return known

    def _all_moves(self, stack: Stack) -> Iterator[tuple[int, Stack]]:
        for frame, rest in stack.entries:
            if isinstance(frame, Rule):
                for frames in frame.expand():
                    yield from self.moves(self.push(frames, rest))
            else:
                for bytes_, frames in frame.moves():
                    yield bytes_, self.push(frames, rest)
                if frame.ends:
                    yield from self.moves(rest)

    def _disjoint(self, moves: Iterable[tuple[int, Stack]]) -> Moves:
        bytes_to: dict[Stack, int] = {}
        for bytes_, stack in moves:
            bytes_to[stack] = bytes_to.get(stack, 0) | bytes_
        apart: list[tuple[int, Stack]] = []
        taken = 0
        for stack, bytes_ in bytes_to.items():
            if bytes_ & taken:
                for place, (others, other) in enumerate(apart[:]):
                    if shared := others & bytes_:
                        apart[place] = (others & ~shared, other)
                        apart.append((shared, self.union(other, stack)))
            apart.append((bytes_ & ~taken, stack))
            taken |= bytes_
        joined: dict[Stack, int] = {}
        for bytes_, stack in apart:
            if bytes_:
                joined[stack] = joined.get(stack, 0) | bytes_
        return tuple((bytes_, stack) for stack, bytes_ in joined.items())

    def step(self, stack: Stack, byte: int) -> Stack:
        """The stack after a byte, `dead` when it may not come. Names in objects are kept track of."""
        after = self.dead
        for frame, rest in stack.entries:
            if isinstance(frame, Rule):
                for frames in frame.expand():
                    after = self.union(after, self.step(self.push(frames, rest), byte))
            else:
                for frames in frame.step(byte):
                    after = self.union(after, self.push(frames, rest))
                if frame.ends:
                    after = self.union(after, self.step(rest, byte))
        return after

    def run(self, stack: Stack, content: bytes) -> Stack:
        """The stack after all these bytes."""
        for byte in content:
            stack = self.step(stack, byte)
        return stack

    @property
    def full(self) -> bool:
        """Whether more is remembered than should be."""
        return len(self._made) + len(self._moves) > _REMEMBERED

    def forget(self) -> None:
        """Forgets all stacks but those in use."""
        self._made.clear()
        self._moves.clear()

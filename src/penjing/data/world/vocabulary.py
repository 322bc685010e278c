"""The lexicon as the generators draw from it: pools in a fixed order, common words first, each built once.

The pools mix categories (a cat, a cup, an apple, a drum, ...), because the front of a pool is drawn from more often.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, zip_longest
from typing import TypeVar

from penjing.data.world.lexicon import Adjective, Antonym, Category, Lexicon, Place, Thing, Verb, Word, lexicon
from penjing.data.world.naming import Names, names_by_split

T = TypeVar("T")

_NOT_CARRIED = {
    "body",
    "sky",
    "nature",
    "building",
    "mammal",
    "bird",
    "fish",
    "insect",
    "reptile",
    "animal",
    "seasoning",
}
_ANIMALS = {"animal"}
_ODD = ("shape", "position")
_ODD_FOR_GROWN = ("shape", "position", "state", "weight")
_GROWN = {"animal", "plant", "food", "drink"}
_NO_STORY = {"home", "corner", "roof", "sky", "space", "ground", "ocean", "desert"}


@dataclass
class Vocabulary:
    """Pools of words, by what they are drawn for."""

    lexicon: Lexicon
    names: dict[str, Names]
    things: tuple[Thing, ...]
    """All concrete nouns."""
    portable: tuple[Thing, ...]
    """Countable things that one person carries, without animals: what stories hand around."""
    artefacts: tuple[Thing, ...]
    """The portable things that are made, so that they come in any colour."""
    countable: tuple[Thing, ...]
    """Things that can be counted in small numbers and owned: for sums about things."""
    edible: tuple[Thing, ...]
    animals: tuple[Thing, ...]
    places: tuple[Place, ...]
    colours: tuple[Word, ...]
    categories: tuple[Category, ...]
    """Categories that have at least five things."""
    members: dict[str, tuple[Thing, ...]]
    """The things of each category, those of the categories within it included."""
    ancestors: dict[str, frozenset[str]]
    antonyms: tuple[Antonym, ...]
    """Pairs of opposites, without exclamations (yes, no), whose opposite one would not ask for."""
    weekdays: tuple[Word, ...]
    months: tuple[Word, ...]
    coloured: dict[str, tuple[Word, ...]] = field(default_factory=dict)
    fitting: dict[str, tuple[Adjective, ...]] = field(default_factory=dict)
    cache: dict[object, object] = field(default_factory=dict)

    def kind_of(self, thing: Thing) -> Category:
        """The thing's own category."""
        return self.lexicon.category(thing.category)

    def is_a(self, thing: Thing, category: Category) -> bool:
        """Whether the thing is of the category or of one within it."""
        return category.key in self.ancestors[thing.category]

    def colours_of(self, thing: Thing) -> tuple[Word, ...]:
        """The colours that a thing may have: its typical ones if it grows, lives or is eaten, else any."""
        found = self.coloured.get(thing.en)
        if found is None:
            typical = thing.colours if self.ancestors[thing.category] & _GROWN else ()
            named = thing.en.split()  # no red red date
            others = tuple(c for c in self.colours if c.en not in named)
            found = tuple(c for c in others if c.en in typical) or others
            self.coloured[thing.en] = found
        return found

    def qualities_of(self, thing: Thing) -> tuple[Adjective, ...]:
        """The adjectives that fit a thing, common ones first."""
        found = self.fitting.get(thing.en)
        if found is None:
            accepted = {"thing", thing.en, *self.ancestors[thing.category]}
            odd = _ODD_FOR_GROWN if self.ancestors[thing.category] & _GROWN else _ODD
            found = tuple(a for a in self.lexicon.adjectives if accepted.intersection(a.fits) and a.kind not in odd)
            self.fitting[thing.en] = found
        return found

    def remembered(self, key: object, build: Callable[[], T]) -> T:
        """A pool that some skill needs, built at its first use."""
        if key not in self.cache:
            self.cache[key] = build()
        return self.cache[key]  # type: ignore[return-value]

    def verbs(self, frame: str) -> tuple[Verb, ...]:
        """The verbs of one frame that people do."""
        return self.remembered(
            ("verbs", frame),
            lambda: tuple(v for v in self.lexicon.verbs if v.frame == frame and "person" in v.subjects),
        )


@cache
def vocabulary() -> Vocabulary:
    """The vocabulary, built from the lexicon at the first call."""
    lex = lexicon()
    ancestors = {c.key: frozenset(lex.ancestors(c.key)) for c in lex.categories}
    members = {c.key: tuple(t for t in lex.things if c.key in ancestors[t.category]) for c in lex.categories}

    every_en = {word for t in lex.things for word in (t.en, t.plural)}
    every_zh = {e.zh for e in lex.things} | {e.zh for e in lex.places} | {e.zh for e in lex.people}
    every_zh |= {e.zh for e in lex.adjectives} | {e.zh for e in lex.verbs}

    def pool(wanted: Callable[[Thing], bool]) -> tuple[Thing, ...]:
        return _mixed(t for t in lex.things if wanted(t))

    def carried(t: Thing) -> bool:
        return t.number == "count" and t.portable and t.size <= 5 and not ancestors[t.category] & _NOT_CARRIED

    return Vocabulary(
        lexicon=lex,
        names=names_by_split(lex, every_en, every_zh),
        things=pool(lambda t: True),
        portable=pool(carried),
        artefacts=pool(lambda t: carried(t) and not ancestors[t.category] & _GROWN),
        countable=pool(lambda t: carried(t) and t.size <= 3),
        edible=pool(lambda t: carried(t) and t.edible),
        animals=pool(lambda t: bool(ancestors[t.category] & _ANIMALS)),
        places=tuple(p for p in lex.places if p.en not in _NO_STORY),
        colours=lex.of_kind("colour"),
        categories=tuple(c for c in lex.categories if len(members[c.key]) >= 5),
        members=members,
        ancestors=ancestors,
        antonyms=tuple(pair for pair in lex.antonyms if pair.kind != "interjection"),
        weekdays=lex.of_kind("weekday"),
        months=lex.of_kind("month"),
    )


def _mixed(things: Iterable[Thing]) -> tuple[Thing, ...]:
    """Things with the categories taken in turn: the first of each, the second of each, and so on."""
    groups: dict[str, list[Thing]] = {}
    for thing in things:
        groups.setdefault(thing.category, []).append(thing)
    rounds = zip_longest(*groups.values())
    return tuple(thing for thing in chain.from_iterable(rounds) if thing is not None)

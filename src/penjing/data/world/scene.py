"""A scene: dice, a split and a language, and what may be drawn from the lexicon under that split.

Every generator works on a scene, so that no generator can put a held-out name or combination into training: names
are drawn from the split's own, adjectives are fitted to nouns here, and the combination that makes an item new is
asked for by `new`.
"""

from types import ModuleType
from typing import TypeVar

from penjing.data.world import grammar_en, grammar_zh
from penjing.data.world.dice import Dice
from penjing.data.world.lexicon.entries import Adjective, Category, Name, Person, Place, Thing, Word
from penjing.data.world.split import held_out
from penjing.data.world.syntax import Phrase
from penjing.data.world.vocabulary import Vocabulary, vocabulary

T = TypeVar("T", Thing, Place, Word, Adjective, Name)
A = TypeVar("A", Adjective, Word)

GRAMMARS: dict[str, ModuleType] = {"en": grammar_en, "zh": grammar_zh}


class Scene:
    """Where one document or dialogue is made."""

    __slots__ = ("dice", "g", "keys", "language", "notes", "split", "testing", "words", "zh")

    def __init__(self, dice: Dice, split: str, language: str, notes: bool = True):
        self.dice = dice
        self.split = split
        self.notes = notes
        self.testing = split == "heldout"
        self.language = language
        self.zh = language == "zh"
        self.g = GRAMMARS[language]
        self.words: Vocabulary = vocabulary()
        self.keys: list[tuple[str | int, ...]] = []

    def may(self, *key: str | int) -> bool:
        """Whether this combination may be mentioned: in training only if it is not held out."""
        return self.testing or not held_out(*key)

    def new(self, *key: str | int) -> bool:
        """Whether this combination may make an item: training's own in training, a held-out one in the test."""
        if held_out(*key) is not self.testing:
            return False
        self.keys.append(key)
        return True

    def length(self, low: int, high: int, beyond: int) -> int:
        """How many steps: low to high in training; in the test one time in four beyond that, up to `beyond`."""
        if self.testing and self.dice.chance(0.25):
            return self.dice.between(high + 1, beyond)
        return self.dice.between(low, high)

    def t(self, en: str, zh: str) -> str:
        """The text in the scene's language."""
        return zh if self.zh else en

    def name(self) -> Name:
        """A person's name of this split."""
        names = self.words.names[self.split]
        return self.dice.pick(names.listed if self.dice.random() < 0.5 else names.composed)

    def names(self, count: int) -> list[Name]:
        """Different people."""
        found: list[Name] = []
        while len(found) < count:
            name = self.name()
            if all(name.en != other.en and name.zh != other.zh for other in found):
                found.append(name)
        return found

    def word(self, entry: Thing | Person | Place | Adjective | Word | Name | Category) -> str:
        """The bare word in the scene's language."""
        return entry.zh if self.zh else entry.en

    def thing(self, pool: tuple[Thing, ...] | None = None) -> Thing:
        """A thing, common ones more often; by default one that can be carried and counted."""
        return self.dice.often_early(self.words.portable if pool is None else pool)

    def things(self, count: int, pool: tuple[Thing, ...] | None = None) -> list[Thing]:
        """Different things, whose words differ in both languages."""
        return self._different(count, self.words.portable if pool is None else pool)

    def places(self, count: int) -> list[Place]:
        """Different places, common ones more often."""
        return self.companions("places", self.words.places, count)

    def companions(self, kind: str, pool: "tuple[T, ...]", count: int) -> "list[T]":
        """Different entries of which no two are a held-out pair; in the test the first two are one."""
        while True:
            chosen = self._different(2, pool)
            if self.new(kind, *sorted(entry.en for entry in chosen)):
                break
        while len(chosen) < count:
            more = self._different(1, pool)[0]
            if all(more.en != c.en and more.zh != c.zh and self.may(kind, *sorted((more.en, c.en))) for c in chosen):
                chosen.append(more)
        return chosen

    def _different(self, count: int, pool: "tuple[T, ...]") -> "list[T]":
        chosen: list[T] = []
        seen: set[str] = set()
        while len(chosen) < count:
            entry = self.dice.often_early(pool)
            if entry.en not in seen and entry.zh not in seen:
                chosen.append(entry)
                seen.update((entry.en, entry.zh))
        return chosen

    def colour(self, thing: Thing) -> Word:
        """A colour that may be said of this thing here, a typical one if there is one."""
        found = self._adjective(thing, self.words.colours_of(thing))
        while found is None or found.en in thing.en:
            found = self._adjective(thing, self.words.colours)
        return found

    def quality(self, thing: Thing) -> Adjective | Word:
        """A quality that fits this thing and may be said of it here; a colour where there is none."""
        return self._adjective(thing, self.words.qualities_of(thing)) or self.colour(thing)

    def _adjective(self, thing: Thing, pool: "tuple[A, ...]") -> "A | None":
        for _ in range(20 if pool else 0):
            adjective = self.dice.often_early(pool)
            if self.may("adjective", adjective.en, thing.en):
                return adjective
        return None

    def described(self, thing: Thing, det: str = "a", adjectives: float = 0.5) -> Phrase:
        """The thing with a determiner and, with the given probability, an adjective or two."""
        dice = self.dice
        if not dice.chance(adjectives):
            return Phrase(thing, det)
        x = dice.random()
        if x < 0.5:
            return Phrase(thing, det, (self.colour(thing),))
        if x < 0.85:
            return Phrase(thing, det, (self.quality(thing),))
        return Phrase(thing, det, (self.quality(thing), self.colour(thing)))

"""The bilingual lexicon as one object: every table read once, checked as a whole, and indexed for look-up."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TypeAlias, TypeVar

from penjing.data.world.lexicon.checking import check
from penjing.data.world.lexicon.entries import (
    Adjective,
    Adverb,
    Antonym,
    Category,
    Country,
    Name,
    OppositePair,
    Person,
    Place,
    Thing,
    Verb,
    Word,
)
from penjing.data.world.lexicon.reading import read_table
from penjing.errors import DataError, nearest

Entry: TypeAlias = Name | Person | Category | Thing | Place | Verb | Adjective | Adverb | Word | Country


@dataclass(frozen=True)
class Lexicon:
    """All entries, by class. Within a class, English and Chinese are one to one."""

    names: tuple[Name, ...]
    people: tuple[Person, ...]
    categories: tuple[Category, ...]
    things: tuple[Thing, ...]
    places: tuple[Place, ...]
    verbs: tuple[Verb, ...]
    adjectives: tuple[Adjective, ...]
    adverbs: tuple[Adverb, ...]
    words: tuple[Word, ...]
    countries: tuple[Country, ...]
    antonyms: tuple[Antonym, ...]

    def named(self, split: str, origin: str | None = None, gender: str | None = None) -> tuple[Name, ...]:
        """The names of one split, and of one origin and gender if these are given."""
        return tuple(
            name
            for name in self.names
            if name.split == split and origin in (None, name.origin) and gender in (None, name.gender)
        )

    def of_kind(self, kind: str) -> tuple[Word, ...]:
        """The words of one small class, such as colour, weekday or unit, in the file's order."""
        found = tuple(word for word in self.words if word.kind == kind)
        if not found:
            raise DataError(f"no kind of word is called {kind!r}{nearest(kind, {word.kind for word in self.words})}")
        return found

    def in_category(self, key: str) -> tuple[Thing, ...]:
        """The things of a category and of the categories within it."""
        return tuple(thing for thing in self.things if key in self.ancestors(thing.category))

    def ancestors(self, key: str) -> tuple[str, ...]:
        """A category's key and those of the categories around it, innermost first."""
        chain = [_entry(self.categories, key, "key").key]
        while parent := _entry(self.categories, chain[-1], "key").parent:
            chain.append(parent)
        return tuple(chain)

    def category(self, key: str) -> Category:
        """The category with this key."""
        return _entry(self.categories, key, "key")

    def thing(self, en: str) -> Thing:
        """The thing with this English name."""
        return _entry(self.things, en)

    def place(self, en: str) -> Place:
        """The place with this English name."""
        return _entry(self.places, en)

    def verb(self, en: str) -> Verb:
        """The verb with this English base form."""
        return _entry(self.verbs, en)

    def adjective(self, en: str) -> Adjective:
        """The adjective with this English base form."""
        return _entry(self.adjectives, en)

    def word(self, kind: str, en: str) -> Word:
        """The word of a small class with this English form."""
        return _entry(self.of_kind(kind), en)


EntryType = TypeVar("EntryType", bound=Entry)


def _entry(entries: Iterable[EntryType], word: str, field: str = "en") -> EntryType:
    by_word = {getattr(entry, field): entry for entry in entries}
    if word not in by_word:
        raise DataError(f"the lexicon has no such entry: {word!r}{nearest(word, by_word)}")
    return by_word[word]


@cache
def lexicon() -> Lexicon:
    """The lexicon, read and checked at the first call.

    Raises:
        DataError: a table is malformed or contradicts another; says what and where.
    """
    tables = {
        "names": read_table("names.tsv", Name),
        "people": read_table("people.tsv", Person),
        "categories": read_table("categories.tsv", Category),
        "things": read_table("things.tsv", Thing),
        "places": read_table("places.tsv", Place),
        "verbs": read_table("verbs.tsv", Verb),
        "adjectives": read_table("adjectives.tsv", Adjective),
        "adverbs": read_table("adverbs.tsv", Adverb),
        "words": read_table("words.tsv", Word),
        "countries": read_table("countries.tsv", Country),
    }
    whole = Lexicon(**tables, antonyms=())  # type: ignore[arg-type]
    check(whole)
    return replace(whole, antonyms=_antonyms(whole, read_table("antonyms.tsv", OppositePair)))


def _antonyms(whole: Lexicon, pairs: Iterable[OppositePair]) -> tuple[Antonym, ...]:
    """The adjectives' opposites, each pair once, then the pairs of the other classes."""
    found = [
        Antonym("adjective", word.en, word.opposite, word.zh, whole.adjective(word.opposite).zh)
        for word in whole.adjectives
        if word.opposite and word.en < word.opposite
    ]
    classes: dict[str, Iterable[Entry]] = {
        "person": whole.people,
        "thing": whole.things,
        "place": whole.places,
        "verb": whole.verbs,
        "adverb": whole.adverbs,
    }
    for pair in pairs:
        entries = tuple(classes.get(pair.kind) or whole.of_kind(pair.kind))
        one, other = _entry(entries, pair.en), _entry(entries, pair.opposite)
        found.append(Antonym(pair.kind, one.en, other.en, one.zh, other.zh))
    return tuple(found)


def counts(language: str) -> dict[str, int]:
    """How many distinct words each class has in one language (en or zh), base forms only.

    `names` are the people's names, `capitals` the capitals, `measures` the Chinese measure words; small classes go by
    their kind. `all` counts each distinct word once, whatever its classes; `all but names` leaves names out.
    """
    if language not in ("en", "zh"):
        raise DataError(f"no words in language {language!r}; known: en, zh")
    whole = lexicon()
    classes = {field.name: set[str]() for field in fields(whole) if field.name not in ("words", "antonyms")}
    for name, words in classes.items():
        words.update(getattr(entry, language) for entry in getattr(whole, name))
    classes["capitals"] = {country.capital if language == "en" else country.capital_zh for country in whole.countries}
    for word in whole.words:
        classes.setdefault(word.kind, set()).add(word.en if language == "en" else word.zh)
    if language == "zh":
        classes["measures"] = {noun.measure for group in (whole.things, whole.people, whole.places) for noun in group}
    everyday = set[str]().union(*(words for name, words in classes.items() if name != "names"))
    report = {name: len(words) for name, words in classes.items()}
    return report | {"all but names": len(everyday), "all": len(everyday | classes["names"])}

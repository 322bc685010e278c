"""What must hold between the lexicon's tables, so that every translation and every fact in the world is exact."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from penjing.errors import DataError

if TYPE_CHECKING:
    from penjing.data.world.lexicon.lexicon import Entry, Lexicon

GENERAL = {"person", "place", "thing", "clause", "event", "weather"}
"""What verbs and adjectives go with, beside categories and single words."""


def check(lexicon: "Lexicon") -> None:
    """Passes if the tables agree with themselves and with each other.

    Raises:
        DataError: a word occurs twice in its class, points to a missing word, or lacks a form; says which.
    """
    for field in ("names", "people", "categories", "things", "places", "verbs", "adjectives", "adverbs", "countries"):
        _one_to_one(field, getattr(lexicon, field))
    kinds = {word.kind for word in lexicon.words}
    for kind in sorted(kinds):
        _one_to_one(kind, lexicon.of_kind(kind))
    _check_references(lexicon)
    _check_things(lexicon)
    _check_opposites(lexicon)


def _one_to_one(name: str, entries: "Sequence[Entry]") -> None:
    for language in ("en", "zh"):
        seen: set[str] = set()
        for entry in entries:
            word = getattr(entry, language)
            if word in seen:
                raise DataError(f"{name}: {word!r} is there twice; a class needs one row for each word")
            seen.add(word)


def _check_references(lexicon: "Lexicon") -> None:
    keys = {category.key for category in lexicon.categories}
    places = {place.en for place in lexicon.places}
    known = {kind: {word.en for word in lexicon.of_kind(kind)} for kind in ("material", "colour", "sound", "continent")}
    for category in lexicon.categories:
        _known(category.key, "parent", [category.parent], keys)
    for person in lexicon.people:
        _known(person.en, "place", [person.place], places)
    for thing in lexicon.things:
        _known(thing.en, "category", [thing.category], keys)
        _known(thing.en, "found_in", thing.found_in, places)
        _known(thing.en, "made_of", [thing.made_of], known["material"])
        _known(thing.en, "colours", thing.colours, known["colour"])
        _known(thing.en, "sound", [thing.sound], known["sound"])
    tables: tuple[Sequence[Any], ...] = (lexicon.people, lexicon.things, lexicon.places, lexicon.words)
    arguments = keys | GENERAL | {entry.en for table in tables for entry in table}
    for verb in lexicon.verbs:
        _known(verb.en, "subjects", verb.subjects, arguments)
        _known(verb.en, "objects", verb.objects, arguments)
    for adjective in lexicon.adjectives:
        _known(adjective.en, "fits", adjective.fits, keys | GENERAL)
    for country in lexicon.countries:
        _known(country.en, "continent", [country.continent], known["continent"])
        _known(country.en, "language", [country.language], {word.en for word in lexicon.of_kind("language")})


def _known(word: str, column: str, values: Iterable[str], known: set[str]) -> None:
    for value in values:
        if value and value not in known:
            raise DataError(f"{word}: {column} names {value!r}, which the lexicon does not have")


def _check_things(lexicon: "Lexicon") -> None:
    for thing in lexicon.things:
        forms = {
            "count": bool(thing.plural) and not thing.partitive,
            "mass": bool(thing.partitive) and not thing.plural,
            "plural": bool(thing.partitive) and thing.plural == thing.en,
        }
        if not forms.get(thing.number, False):
            raise DataError(f"{thing.en}: number {thing.number!r} does not go with its plural and partitive")
        if not 1 <= thing.size <= 9:
            raise DataError(f"{thing.en}: the size is {thing.size}, but ranks go from 1 to 9")


def _check_opposites(lexicon: "Lexicon") -> None:
    opposite = {word.en: word.opposite for word in lexicon.adjectives}
    for word, other in opposite.items():
        if other and opposite.get(other) != word:
            raise DataError(f"{word}: its opposite {other!r} does not point back")

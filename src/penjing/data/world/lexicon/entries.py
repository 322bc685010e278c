"""The kinds of entry in the lexicon: one frozen dataclass for each word class, one field for each column of its file.

A field without a default must be filled in every row. Several values in one cell are separated by commas. `also` holds
other Chinese words for the same thing, which a lenient reader may accept; the canonical pair is always `en` <-> `zh`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Name:
    """A person's name, in Latin and in Chinese characters."""

    en: str
    zh: str
    gender: str
    """f or m"""
    origin: str
    """en (Anna, 安娜) or zh (Li Ming, 李明; Xiaomei, 小美)"""
    split: str
    """train, or heldout: never seen in training"""


@dataclass(frozen=True, slots=True)
class Person:
    """What a person is: a relative (mother), a worker (teacher) or someone in a role (friend)."""

    en: str
    plural: str
    zh: str
    kind: str
    """family, job or role"""
    gender: str
    """f, m or n (either)"""
    measure: str
    """the measure word: 个, 位, 名"""
    place: str = ""
    """where such a person works, `en` of a Place"""
    task_en: str = ""
    """what such a person does, base form: "teach children" """
    task_zh: str = ""
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Category:
    """What kinds of thing there are; categories nest (a bird is an animal)."""

    key: str
    """how other entries name it"""
    en: str
    """a countable phrase: "tool", "piece of furniture" """
    plural: str
    zh: str
    parent: str = ""
    """`key` of the category that holds this one, or nothing"""


@dataclass(frozen=True, slots=True)
class Thing:
    """A concrete noun with what is true of it."""

    en: str
    zh: str
    number: str
    """count (one cat, two cats), mass (water) or plural (scissors: always plural)"""
    measure: str
    """the Chinese measure word: 一只猫, 一杯水"""
    category: str
    """`key` of a Category"""
    size: int
    """rank: 1 ant, 2 egg, 3 book, 4 cat, 5 dog or chair, 6 person or table, 7 car or cow, 8 house, 9 mountain"""
    portable: bool
    """one person can pick it up and carry it"""
    edible: bool
    """people eat or drink it"""
    plural: str = ""
    """empty for mass nouns; equal to `en` for plural nouns"""
    partitive: str = ""
    """for mass and plural nouns, what the measure word is in English: a `cup` of water, a `pair` of scissors"""
    colours: tuple[str, ...] = ()
    """`en` of the colours it typically has"""
    can_fly: bool | None = None
    can_swim: bool | None = None
    legs: int | None = None
    found_in: tuple[str, ...] = ()
    """`en` of the places where it lives, grows or is kept"""
    made_of: str = ""
    """`en` of the material (a Word of kind material)"""
    use_en: str = ""
    """what people use it for, base form: "cut paper" """
    use_zh: str = ""
    sound: str = ""
    """`en` of the sound that the animal makes (a Word of kind sound)"""
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where things happen. In English `{prep} {article} {en}`; in Chinese `在{zh}{side}`."""

    en: str
    plural: str
    zh: str
    measure: str
    kind: str
    """home, town or nature"""
    prep: str
    """in, at or on"""
    article: str = ""
    """the, or nothing (at home)"""
    side: str = ""
    """what follows the noun in Chinese: 里 or 上, or nothing (在学校)"""
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb with its English forms and its frame.

    English: `subject verb link_en object`. Chinese: `subject before_zh object verb` when `before_zh` is there
    (和他聊天), else `subject verb link_zh object`.
    """

    en: str
    third: str
    past: str
    participle: str
    ing: str
    zh: str
    frame: str
    """intransitive, transitive, ditransitive, motion (object: a place), speech, mental or weather"""
    aspect: str
    """action (takes 了 and 正在) or state (takes neither)"""
    subjects: tuple[str, ...]
    """person, thing, event, weather, keys of categories, or `en` of single things"""
    objects: tuple[str, ...] = ()
    """person, place, thing, clause, event, keys of categories, or `en` of single people, things, places or words"""
    link_en: str = ""
    """the preposition before the object: look `at`"""
    link_zh: str = ""
    """what stands between the Chinese verb and its object: 走`到`"""
    before_zh: str = ""
    """the Chinese preposition that takes the object before the verb: `和`他聊天"""
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Adjective:
    """A quality. `comparative` and `superlative` are empty where it has no degrees."""

    en: str
    zh: str
    kind: str
    """size, shape, emotion, quality, taste, weather, age, state, character, speed, sound, price, health, order ..."""
    fits: tuple[str, ...]
    """what it can be said of: person, place, thing, weather, event, or keys of categories"""
    comparative: str = ""
    superlative: str = ""
    opposite: str = ""
    """`en` of the opposite adjective; the link holds both ways"""
    also: tuple[str, ...] = ()

    @property
    def degrees(self) -> bool:
        """Whether `very` and 很 go with it (very big; not: very dead)."""
        return bool(self.comparative)


@dataclass(frozen=True, slots=True)
class Adverb:
    """How, when, how often or how much."""

    en: str
    zh: str
    kind: str
    """manner, time, frequency, degree, place or attitude"""
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Word:
    """An entry of a small class: colours, weekdays, units, function words and the like."""

    kind: str
    en: str
    zh: str
    plural: str = ""
    measure: str = ""
    group: str = ""
    """a subclass: the quantity of a unit, the season of a month, good or bad for an emotion"""
    value: int | None = None
    """a place in order, a number, a unit's size in the smallest unit of its quantity, the sides of a shape"""
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Country:
    """A country with its capital, continent and main official language."""

    en: str
    zh: str
    capital: str
    capital_zh: str
    continent: str
    """`en` of a Word of kind continent"""
    language: str = ""
    """`en` of a Word of kind language; empty where several are equal"""
    article: str = ""
    """the, for the United States and such"""


@dataclass(frozen=True, slots=True)
class Antonym:
    """Two words of one class that are each other's opposite."""

    kind: str
    """adjective, verb, adverb, thing, person, place, or the kind of a Word"""
    en: str
    en_opposite: str
    zh: str
    zh_opposite: str


@dataclass(frozen=True, slots=True)
class OppositePair:
    """A row of the antonyms' file: two English words of one class (adjectives name their opposites themselves)."""

    kind: str
    """person, thing, place, verb, adverb, or the kind of a Word"""
    en: str
    opposite: str

"""Sentences of one meaning in both languages: composed clauses of limited size, for translation."""

from penjing.data.world import grammar_en, grammar_zh
from penjing.data.world.actions import new_action
from penjing.data.world.lexicon import Adjective, Place, Thing, Word
from penjing.data.world.scene import Scene
from penjing.data.world.syntax import (
    AND,
    BE_A,
    BE_AT,
    BE_LIKE,
    BECAUSE,
    BUT,
    GIVES,
    HAVE,
    MOVES,
    TAKES,
    WANT,
    Clause,
    Connective,
    I,
    NounPhrase,
    Phrase,
    Speaker,
)

_JOINED: tuple[Connective, ...] = (AND, BUT, BECAUSE)


def noun_pair(scene: Scene) -> tuple[str, str]:
    """A noun phrase in English and Chinese: a red ball, three books, 一个红色的球, 三本书."""
    dice = scene.dice
    if dice.chance(0.4):
        while True:
            thing, n = scene.thing(), dice.between(2, 10)
            if scene.new("number of", n, thing.en):
                break
        phrase = Phrase(thing, "count", number=n)
    else:
        thing, adjective = _new_description(scene, scene.words.portable)
        phrase = Phrase(thing, "a", (adjective,))
    return grammar_en.noun_phrase(phrase), grammar_zh.noun_phrase(phrase)


def _new_description(scene: Scene, things: tuple[Thing, ...]) -> tuple[Thing, Adjective | Word]:
    """A thing of the pool and a colour or quality that is new with it."""
    dice = scene.dice
    while True:
        thing = scene.thing(things)
        pool: tuple[Adjective | Word, ...] = (*scene.words.colours_of(thing), *scene.words.qualities_of(thing))
        for _ in range(8):
            adjective = dice.often_early(pool)
            if scene.new("adjective", adjective.en, thing.en):
                return thing, adjective


def sentence_pair(scene: Scene) -> tuple[str, str, int]:
    """A sentence in English and in Chinese, and how difficult it is: 1 simple, 2 with more parts, 3 two clauses."""
    dice = scene.dice
    if dice.chance(0.15):
        connective = dice.pick(_JOINED)
        one, two = _clause(scene), _clause(scene)
        en = connective.en[0].format(grammar_en.clause(one), grammar_en.clause(two))
        zh = connective.zh[0].format(grammar_zh.clause(one), grammar_zh.clause(two))
        return grammar_en.sentence(en), grammar_zh.sentence(zh), 3
    clause = _clause(scene)
    if dice.chance(0.12):
        en, zh = grammar_en.question(clause, "y"), grammar_zh.question(clause, "y")
        return grammar_en.sentence(en, "?"), grammar_zh.sentence(zh, "？"), 2
    if dice.chance(0.15):
        clause.negated = True
    difficulty = 2 if clause.to is not None or clause.negated else 1
    return grammar_en.sentence(grammar_en.clause(clause)), grammar_zh.sentence(grammar_zh.clause(clause)), difficulty


def _subject(scene: Scene) -> NounPhrase:
    dice = scene.dice
    if dice.chance(0.65):
        return scene.name()
    if dice.chance(0.4):
        return dice.pick((I, _YOU))
    person = dice.often_early(scene.words.lexicon.people)
    return Phrase(person, "my" if person.kind == "family" else "the")


_YOU = Speaker("you", "you", "your", "你")


def _clause(scene: Scene) -> Clause:
    """One clause whose combination of words is new."""
    dice = scene.dice
    subject = _subject(scene)
    x = dice.random()
    if x < 0.2:
        thing, adjective = _new_description(scene, scene.words.artefacts)
        verb, tense = dice.pick(((HAVE, "present"), (WANT, "present"), (TAKES[0], "past"), (TAKES[1], "past")))
        return Clause(subject, verb, Phrase(thing, "a", (adjective,)), tense=tense)
    if x < 0.32:
        place = _new_place(scene, "place and verb", "be")
        return Clause(subject, BE_AT, place=place, tense="present")
    if x < 0.45:
        verb = dice.pick(MOVES)
        place = _new_place(scene, "place and verb", verb.base)
        return Clause(subject, verb, place=place)
    if x < 0.55:
        thing, adjective = _new_description(scene, scene.words.artefacts)
        while True:
            to = scene.name()
            if to is not subject:
                break
        return Clause(subject, dice.pick(GIVES), Phrase(thing, "the", (adjective,)), to)
    if x < 0.63:
        thing, adjective = _new_description(scene, scene.words.artefacts)
        return Clause(Phrase(thing, "this"), BE_LIKE, quality=adjective, tense="present")
    if x < 0.7:
        jobs = scene.words.remembered("jobs", lambda: tuple(p for p in scene.words.lexicon.people if p.kind == "job"))
        return Clause(scene.name(), BE_A, Phrase(dice.often_early(jobs), "a"), tense="present")
    tense = dice.pick(("past", "past", "now", "future", "can"))
    return new_action(scene, subject, tense)


def _new_place(scene: Scene, kind: str, verb: str) -> Place:
    while True:
        place = scene.dice.often_early(scene.words.places)
        if scene.new(kind, verb, place.en):
            return place

"""What people do, from the lexicon's verbs: each verb with an object that it takes, in a clause for both grammars."""

from penjing.data.world.lexicon import Name, Person, Thing
from penjing.data.world.lexicon import Verb as Entry
from penjing.data.world.scene import Scene
from penjing.data.world.syntax import Clause, NounPhrase, Phrase, Verb
from penjing.data.world.vocabulary import Vocabulary

_LEFT_OUT = {
    "live",
    "exist",
    "be born",
    "die",
    "kill",
    "shoot",
    "hurt",
    "start",
    "finish",
    "put",
    "hit",
    "translate",
    "appear",
    "disappear",
    "win",
    "lose",
}


def as_verb(entry: Entry) -> Verb:
    """A lexicon verb as the grammars use it."""
    slot = "p" if entry.frame == "motion" else "r" if entry.frame == "ditransitive" else "o"
    en = ((entry.link_en, slot),) if entry.frame != "ditransitive" else (("", "o"), (entry.link_en, "r"))
    target = "{" + slot + "}"
    if entry.frame == "ditransitive":
        zh = "{a}把{o}" + entry.zh + "{le}{r}"
    elif entry.before_zh:
        zh = "{a}" + entry.before_zh + target + entry.zh + "{le}"
    else:
        zh = "{a}" + entry.zh + entry.link_zh + "{le}" + target
    base, _, particle = entry.en.partition(" ")
    forms = (entry.third, entry.past, entry.participle, entry.ing)
    if particle and all(f.endswith(" " + particle) for f in forms):
        third, past, participle, ing = (f.removesuffix(" " + particle) for f in forms)
        return Verb(base, third, past, participle, ing, en, zh, entry.aspect == "state", particle)
    return Verb(entry.en, *forms, en, zh, entry.aspect == "state")


def _transitive(words: Vocabulary) -> tuple[tuple[Verb, str, tuple[Thing, ...]], ...]:
    """The verbs that people do to things, each with the things it takes."""
    found = []
    for entry in words.verbs("transitive"):
        if entry.en in _LEFT_OUT:
            continue
        things = [
            t
            for t in words.things
            if t.en in entry.objects
            or words.ancestors[t.category].intersection(entry.objects)
            or ("thing" in entry.objects and t in words.remembered("portable set", lambda: frozenset(words.portable)))
        ]
        if things:
            found.append((as_verb(entry), entry.en, tuple(things)))
    return tuple(found)


def _intransitive(words: Vocabulary) -> tuple[tuple[Verb, str], ...]:
    """The verbs that need no object."""
    return tuple(
        (as_verb(e), e.en) for e in words.verbs("intransitive") if not e.objects and e.en not in _LEFT_OUT
    )  # fmt: skip


def action(scene: Scene, subject: NounPhrase, tense: str = "past") -> Clause:
    """Someone does something that training may mention: a verb alone, or with a fitting object."""
    dice, words = scene.dice, scene.words
    if dice.chance(0.25):
        verb, _ = dice.pick(words.remembered("intransitive", lambda: _intransitive(words)))
        return Clause(subject, verb, tense=tense)
    pool = words.remembered("transitive", lambda: _transitive(words))
    while True:
        verb, name, things = dice.pick(pool)
        thing = dice.often_early(things)
        if scene.may("verb", name, thing.en):
            return Clause(subject, verb, _object(scene, thing), tense=tense)


def new_action(scene: Scene, subject: NounPhrase, tense: str = "past") -> Clause:
    """Someone does something to a thing; the pair of verb and thing is what makes the item new."""
    pool = scene.words.remembered("transitive", lambda: _transitive(scene.words))
    while True:
        verb, name, things = scene.dice.pick(pool)
        thing = scene.dice.often_early(things)
        if scene.new("verb", name, thing.en):
            return Clause(subject, verb, _object(scene, thing), tense=tense)


def _object(scene: Scene, thing: Thing) -> Phrase:
    if thing.number != "count":
        return Phrase(thing, "some" if thing.number == "mass" else "a")
    return scene.described(thing, "a" if scene.dice.chance(0.6) else "the", 0.35)


def someone(scene: Scene) -> NounPhrase:
    """A person by name, or by what they are: the teacher, my sister."""
    if scene.dice.chance(0.7):
        return scene.name()
    person = scene.dice.often_early(scene.words.lexicon.people)
    return Phrase(person, "my" if person.kind == "family" else "the")


__all__ = ["Name", "Person", "action", "as_verb", "new_action", "someone"]

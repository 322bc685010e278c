"""One fact from a short text: who has, likes, wants or saw what, and of what colour."""

from penjing.data.world.items import Skill
from penjing.data.world.lexicon import Name
from penjing.data.world.quiz import Question, Quiz, different
from penjing.data.world.scene import Scene
from penjing.data.world.syntax import BE_LIKE, BUY, FIND, HAVE, LIKE, LOSE, SEE, WANT, Clause, Phrase, Verb
from penjing.data.world.telling import answers, ask, jot, narrate

SKILL = Skill("reading", True, "One fact of a text in which several people each have their own.", 0.37)

_VERBS: tuple[tuple[Verb, str], ...] = (
    (HAVE, "present"), (HAVE, "past"), (LIKE, "present"), (WANT, "present"), (BUY, "past"), (FIND, "past"),
    (SEE, "past"),
    (LOSE, "past"),
)  # fmt: skip


def quiz(scene: Scene, questions: int) -> Quiz:
    """Two to four people with a thing each; questions about the thing, the person or the colour."""
    dice = scene.dice
    count = scene.length(2, 3, 5)
    people = scene.names(count)
    things = scene.companions("things", scene.words.artefacts if dice.chance(0.8) else scene.words.portable, count)
    colours = [scene.colour(t) for t in things]
    verb, tense = dice.pick(_VERBS)
    same_verb = dice.chance(0.6)
    clauses = []
    for person, thing, colour in zip(people, things, colours, strict=True):
        v, t = (verb, tense) if same_verb else dice.pick(_VERBS)
        obj = Phrase(thing, "bare", (colour,), 2) if v is LIKE else Phrase(thing, "a", (colour,))
        clauses.append(Clause(person, v, obj, tense=t))
    asked = different(lambda: _question(scene, clauses, dice.below(count), people), questions)
    return Quiz(narrate(scene, clauses, all(c.tense == "past" for c in clauses)), asked)


def _question(scene: Scene, clauses: list[Clause], i: int, people: list[Name]) -> Question:
    dice, g = scene.dice, scene.g
    clause = clauses[i]
    phrase = clause.obj
    assert isinstance(phrase, Phrase)
    thing, colour = phrase.head, phrase.adjectives[0]
    x = dice.random()
    difficulty = len(clauses) - 1
    owns = clause.verb in (HAVE, BUY, FIND, LOSE)
    if x < 0.4:
        named = Phrase(thing, "bare", (), 2) if clause.verb is LIKE else Phrase(thing, "the")
        plain = Clause(clause.subject, clause.verb, named, tense=clause.tense)
        # A text is read forwards and the question runs against it: so first all of it turned round, then what is asked.
        turned = [
            (scene.word(c.obj.head), scene.word(p))
            for c, p in zip(clauses, people, strict=True)
            if isinstance(c.obj, Phrase)
        ]
        steps = (jot(scene, turned), jot(scene, [turned[i]]))
        options = tuple(scene.word(p) for p in people)
        return Question(ask(scene, plain, "s"), answers(scene, plain, "s"), options, difficulty, steps=steps)
    if x < 0.75 or not owns:
        objects = [c.obj for c in clauses if c.obj is not None]
        uncoloured = Phrase(thing, phrase.det, (), phrase.number)
        short = g.noun_phrase(uncoloured)
        whole = g.clause(Clause(clause.subject, clause.verb, uncoloured, tense=clause.tense))
        accepts = (*answers(scene, clause, "o"), whole, short)
        if scene.zh:
            accepts += (scene.word(colour) + "的" + thing.zh, thing.zh)
        else:
            accepts += (thing.en,)
        return Question(ask(scene, clause, "o"), accepts, tuple(g.noun_phrase(o) for o in objects), difficulty)
    owned = Phrase(thing, "owned", owner=people[i])
    truth = Clause(owned, BE_LIKE, quality=colour, tense="present")
    text = f"{g.noun_phrase(owned)}是什么颜色的？" if scene.zh else f"What colour is {g.noun_phrase(owned)}?"
    accepts = (g.sentence(g.clause(truth)), scene.word(colour))
    if scene.zh:
        accepts += (colour.zh + "的",)
    else:
        accepts += (f"The {thing.en} is {colour.en}", f"It is {colour.en}")
    colours = dict.fromkeys(scene.word(c.obj.adjectives[0]) for c in clauses if isinstance(c.obj, Phrase))
    return Question(text, accepts, tuple(colours), difficulty)

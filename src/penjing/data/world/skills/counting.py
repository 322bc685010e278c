"""Quantities that change: someone has some things, gets more, gives some away; how many are there in the end?

The canonical answer to a story of several changes works them out one by one; the bare result is as good.
"""

from penjing.data.world.items import Skill
from penjing.data.world.lexicon import Name, Thing
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene
from penjing.data.world.syntax import BUY, FIND, HAVE, LOSE, SELL, Clause, NounPhrase, Phrase, They, Verb

SKILL = Skill("counting", False, "How many things someone has after getting and losing some.", 0.10)

_MORE = (BUY, FIND)
_LESS = (LOSE, SELL)
_GAVE = ("{0} gave {1} {2}", "{0}给了{1}{2}")


def quiz(scene: Scene, questions: int) -> Quiz:
    """One person's things change once to three times; a second question asks about the beginning."""
    dice, g = scene.dice, scene.g
    person, other = scene.names(2)
    changes = scene.length(1, 2, 3)
    while True:
        thing = scene.thing(scene.words.countable)
        start = dice.between(2, 12)
        if scene.new("count", thing.en, start):
            break
    has = Clause(person, HAVE, _some(thing, start), tense="past")
    told, have, steps = [g.sentence(g.clause(has))], start, []
    for _ in range(changes):
        more = have < 3 or (have < 15 and dice.chance(0.5))
        n = dice.between(1, 8 if more else have - 1)
        told.append(_change(scene, person, other, thing, more, n))
        after = have + n if more else have - n
        steps.append(
            f"{have}{'+' if more else '-'}{n}={after}" if scene.zh else f"{have} {'+' if more else '-'} {n} = {after}"
        )
        have = after
    asked = [_how_many(scene, person, thing, have, steps)]
    if questions > 1:
        asked.insert(dice.below(2), _at_first(scene, person, thing, start))
    return Quiz(g.SPACE.join(told), asked)


def _some(thing: Thing, n: int) -> Phrase:
    return Phrase(thing, "count", number=n, digits=True)


def _change(scene: Scene, person: Name, other: Name, thing: Thing, more: bool, n: int) -> str:
    dice, g = scene.dice, scene.g
    who: NounPhrase = They(person) if dice.chance(0.4) else person
    if dice.chance(0.4):
        giver, taker = (other, who) if more else (who, other)
        amount = g.noun_phrase(_some(thing, n), "object")
        return g.sentence(_GAVE[scene.zh].format(g.noun_phrase(giver), g.noun_phrase(taker, "object"), amount))
    verb: Verb = dice.pick(_MORE if more else _LESS)
    return g.sentence(g.clause(Clause(who, verb, _some(thing, n))))


def _how_many(scene: Scene, person: Name, thing: Thing, have: int, steps: list[str]) -> Question:
    g, dice = scene.g, scene.dice
    amount = g.noun_phrase(_some(thing, have))
    short = (str(have), amount)
    options = tuple(str(n) for n in range(max(0, have - 6), max(0, have - 6) + 20))
    if scene.zh:
        text = dice.pick(
            (f"{person.zh}现在有多少{thing.measure}{thing.zh}？", f"现在{person.zh}有几{thing.measure}{thing.zh}？")
        )
        last, worked = f"{person.zh}有{amount}。", "，".join(steps)
        full = f"{worked}。{last}"
        forms: tuple[str, ...] = (
            last,
            f"{person.zh}现在有{amount}",
            f"{worked}，{last}",
            f"现在{person.zh}有{amount}",
            f"{have}{thing.measure}",
            worked,
        )
    else:
        text = dice.pick(
            (f"How many {thing.plural} does {person.en} have now?", f"How many {thing.plural} does {person.en} have?")
        )
        last, worked = f"{person.en} has {amount}.", ". ".join(steps)
        full = f"{worked}. {last}"
        now = f"{person.en} has {amount} now"
        forms = (
            last,
            now,
            f"{'she' if person.gender == 'f' else 'he'} has {amount}",
            worked,
            f"{person.en} has {have}",
        )
    return Question(text, (full, *forms, *short), options, len(steps))


def _at_first(scene: Scene, person: Name, thing: Thing, start: int) -> Question:
    amount = scene.g.noun_phrase(_some(thing, start))
    options = tuple(str(n) for n in range(2, 13))
    if scene.zh:
        text = f"{person.zh}一开始有多少{thing.measure}{thing.zh}？"
        forms = (
            f"{person.zh}一开始有{amount}。",
            amount,
            str(start),
            f"{person.zh}有{amount}",
            f"{start}{thing.measure}",
        )
        return Question(text, forms, options, 1)
    text = f"How many {thing.plural} did {person.en} have at first?"
    forms = (
        f"{person.en} had {amount} at first.",
        amount,
        str(start),
        f"{person.en} had {amount}",
        f"At first {person.en} had {amount}",
    )
    return Question(text, forms, options, 1)

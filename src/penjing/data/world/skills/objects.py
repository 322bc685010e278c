"""Two steps of thought: a thing is where its holder went; who gave what to whom; who has it now."""

from collections.abc import Iterable

from penjing.data.world.items import Skill
from penjing.data.world.lexicon import Name, Place, Thing
from penjing.data.world.quiz import Question, Quiz, different
from penjing.data.world.scene import Scene
from penjing.data.world.simulate import State
from penjing.data.world.syntax import BE_AT, GIVE, HAVE, Clause, Phrase
from penjing.data.world.telling import answers, ask, jot, narrate

SKILL = Skill("objects", False, "Where a carried thing is, who has it, and who gave what to whom.", 0.42)


def quiz(scene: Scene, questions: int) -> Quiz:
    """People move, take, put down and give things; questions about the things."""
    dice = scene.dice
    steps = scene.length(4, 6, 8)
    people = scene.names(2 if steps < 6 else 3)
    things = scene.companions("things", scene.words.artefacts, 2)
    places = scene.places(3)
    state = State(people, places, things)
    for action in dice.sample((0, 1, 2), 3):  # two people in two places, one of them with a thing, in any order
        if action < 2:
            state.move(scene, people[action], places[action])
        else:
            state.take(scene, people[0], things[0])
    while len(state.clauses) < steps:
        _event(scene, state)
    kinds = (_where, _where, _who_has, _who_has, _gave)
    asked = different(lambda: dice.pick(kinds)(scene, state, dice.pick(things)), questions)
    for question in asked:
        question.difficulty = steps - 3
    return Quiz(narrate(scene, state.clauses), asked)


def _event(scene: Scene, state: State) -> None:
    """Something that can happen now."""
    dice = scene.dice
    person = dice.pick(state.people)
    x = dice.random()
    held = [t for t in state.things if state.holder.get(t.en) is person]
    here = state.at.get(person)
    beside = [p for p in state.people if p is not person and here is not None and state.at.get(p) is here]
    elsewhere = [p for p in state.people if p in state.at and state.at[p] is not here]
    if held and beside and x < 0.6:
        state.give(scene, person, dice.pick(held), dice.pick(beside))
    elif held and elsewhere and not beside and x < 0.3:
        state.move(scene, person, state.at[dice.pick(elsewhere)])
    elif held and x < 0.42 and person in state.at:
        state.drop(scene, person, dice.pick(held))
    elif x < 0.6:
        free = [t for t in state.things if t.en not in state.holder]
        if free:
            state.take(scene, person, dice.pick(free))
    else:
        state.move(scene, person, dice.pick([p for p in state.places if p is not here]))


def _where(scene: Scene, state: State, thing: Thing) -> Question | None:
    place = state.where(thing)
    if place is None:
        return None
    the = Phrase(thing, "the")
    truth = Clause(the, BE_AT, place=place, tense="present")
    seen = list(dict.fromkeys(c.place for c in state.clauses if c.place is not None))
    it = scene.t(f"It is {scene.g.where(place)}", f"它{scene.g.where(place)}")
    holder = state.holder.get(thing.en)
    last = ((thing, (place,)),) if holder is None else ((thing, (holder,)), (holder, (place,)))
    accepts, options = (*answers(scene, truth, "p"), it), tuple(scene.g.where(p) for p in seen)
    return Question(ask(scene, truth, "p"), accepts, options, steps=_jotted(scene, state, *last))


def _who_has(scene: Scene, state: State, thing: Thing) -> Question | None:
    holder = state.holder.get(thing.en)
    if holder is None:
        return None
    truth = Clause(holder, HAVE, Phrase(thing, "the"), tense="present")
    steps = _jotted(scene, state, (thing, (holder,)))
    return Question(ask(scene, truth, "s"), answers(scene, truth, "s"), _people(scene, state), steps=steps)


def _gave(scene: Scene, state: State, thing: Thing) -> Question | None:
    """Only where the thing changed hands once, so that there is one answer."""
    gifts = [gift for gift in state.gifts if gift[1] is thing]
    if len(gifts) != 1:
        return None
    giver, _, taker = gifts[0]
    truth = Clause(giver, GIVE, Phrase(thing, "the"), taker)
    slot = scene.dice.pick(("s", "r", "o"))
    if slot == "o" and sum(g[0] is giver and g[2] is taker for g in state.gifts) != 1:
        return None
    options = tuple(scene.word(t) for t in state.things) if slot == "o" else _people(scene, state)
    steps = _jotted(scene, state, (thing, (giver, taker)))
    return Question(ask(scene, truth, slot), answers(scene, truth, slot), options, steps=steps)


def _jotted(scene: Scene, state: State, *last: tuple[Name | Thing, tuple[Name | Place, ...]]) -> tuple[str, ...]:
    """Event by event what it made true, then the notes that count: `Mia: kitchen, ball: Mia, ball: Mia > Tom.`"""

    def notes(events: Iterable[tuple[Name | Thing, tuple[Name | Place, ...]]]) -> str:
        return jot(scene, [(scene.word(key), " > ".join(scene.word(x) for x in now)) for key, now in events])

    return notes(state.log), notes(last)


def _people(scene: Scene, state: State) -> tuple[str, ...]:
    told = {c.subject for c in state.clauses} | {c.to for c in state.clauses}
    return tuple(scene.word(p) for p in state.people if p in told)

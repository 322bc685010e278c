"""Where is someone now? People move from place to place, and the last move counts."""

from penjing.data.world.items import Skill
from penjing.data.world.lexicon import Name
from penjing.data.world.quiz import Question, Quiz, different
from penjing.data.world.scene import Scene
from penjing.data.world.simulate import State, moving
from penjing.data.world.syntax import BE_AT, Clause
from penjing.data.world.telling import answers, ask, jot, narrate, verdict

SKILL = Skill("location", True, "Where someone is after several people have moved about.", 0.40)


def quiz(scene: Scene, questions: int) -> Quiz:
    """A story of moves and questions about where everyone ended."""
    steps = scene.length(2, 5, 7)
    people = scene.dice.between(2, 3) if steps > 2 else 2
    state = moving(scene, people, 3 if steps < 4 else 4, steps)
    asked = different(lambda: _question(scene, state, scene.dice.pick(state.people), steps), questions)
    return Quiz(narrate(scene, state.clauses), asked)


def _question(scene: Scene, state: State, person: Name, steps: int) -> Question:
    dice, place = scene.dice, state.at[person]
    truth = Clause(person, BE_AT, place=place, tense="present")
    seen = list(dict.fromkeys(c.place for c in state.clauses if c.place is not None))
    x = dice.random()
    if x < 0.7 or len(seen) < 2:
        options = tuple(scene.g.where(p) for p in seen)
        return Question(ask(scene, truth, "p"), answers(scene, truth, "p"), options, steps)
    if x < 0.85 and list(state.at.values()).count(place) == 1:
        options = tuple(scene.word(p) for p in state.people)
        # Everyone's place, and each place's people: what is asked is looked up by the place.
        pairs = [(scene.word(p), scene.word(state.at[p])) for p in state.people]
        both = [(p, a + ("：" if scene.zh else ": ") + p) for p, a in pairs]
        found = jot(scene, both), jot(scene, [(scene.word(place), scene.word(person))])
        return Question(ask(scene, truth, "s"), answers(scene, truth, "s"), options, steps, steps=found)
    yes = dice.chance(0.5)
    other = place if yes else dice.pick([p for p in seen if p is not place])
    claim = Clause(person, BE_AT, place=other, tense="present")
    result = Clause(person, BE_AT, place=other, tense="present", negated=not yes)
    options = ("是的", "不") if scene.zh else ("Yes", "No")
    judged = verdict(scene, scene.word(person), [scene.word(place)], scene.word(other))
    return Question(ask(scene, claim, "y"), answers(scene, result, "y"), options, steps, steps=(judged,))

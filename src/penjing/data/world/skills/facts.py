"""What is true of things: their kind, colour, legs, sound, use, material, where they are found; what they can and are.

Yes and no are balanced for every kind of claim. The other questions are open: a guesser draws among the answers
that things of the lexicon have to that question.
"""

from penjing.data.world.items import Skill
from penjing.data.world.knowledge import Claim, Fact, can_claim, eat_claim, facts_of, kind_claim
from penjing.data.world.lexicon import Thing
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene
from penjing.data.world.telling import verdict, yes_no
from penjing.data.world.vocabulary import Vocabulary

SKILL = Skill(
    "facts", True, "Knowledge of things: kind, colour, use, material, sound, legs, home; yes/no and open.", 0.32
)


def quiz(scene: Scene, questions: int) -> Quiz:
    """Questions about things, without a text."""
    return Quiz("", [_claim(scene) if scene.dice.chance(0.55) else _open(scene) for _ in range(questions)])


def _open(scene: Scene) -> Question:
    dice, words, i = scene.dice, scene.words, int(scene.zh)
    while True:
        thing = dice.often_early(words.things, 8)
        fact: Fact = dice.pick(facts_of(words, thing))
        if scene.new("asked", fact.kind, thing.en):
            break
    answers = fact.answers[i]
    question = dice.pick(fact.questions[i])
    options = (answers[0], *dice.sample(_others(words, fact, i), 7))
    if scene.zh:
        return Question(question, answers, options)
    g = scene.g
    return Question(g.capital(question), (g.capital(answers[0]), *answers[1:]), options)


def _others(words: Vocabulary, fact: Fact, language: int) -> tuple[str, ...]:
    """Short answers to the same kind of question about other things, for the guesser."""
    pool = words.remembered(
        ("answers", fact.kind, language),
        lambda: tuple(
            dict.fromkeys(
                f.answers[language][-1] for t in words.things for f in facts_of(words, t) if f.kind == fact.kind
            )
        ),
    )
    others = tuple(a for a in pool if a not in fact.answers[language])
    return others * (7 // len(others) + 1) if len(others) < 7 else others


def _claim(scene: Scene) -> Question:
    dice = scene.dice
    wanted = dice.chance(0.5)
    while True:
        claim = _draw(scene, wanted)
        if claim is not None and claim[0].true is wanted and scene.new(claim[0].kind, claim[1].en, claim[0].other):
            break
    i = int(scene.zh)
    found = claim[0]
    accepts = yes_no(scene, wanted, (found.yes if wanted else found.no)[i])
    steps = (_kinds(scene, claim[1], found.other),) if found.kind == "is" else ()
    options = ("是的", "不") if scene.zh else ("Yes", "No")
    return Question(scene.g.capital(found.question[i]), accepts, options, steps=steps)


def _kinds(scene: Scene, thing: Thing, asked: str) -> str:
    """The thing's kind, those around it, and whether the asked one is among them."""
    lexicon = scene.words.lexicon
    around = [scene.word(lexicon.category(key)) for key in lexicon.ancestors(thing.category)]
    return verdict(scene, scene.word(thing), around, scene.word(lexicon.category(asked)))


def _draw(scene: Scene, wanted: bool) -> tuple[Claim, Thing] | None:
    dice, words = scene.dice, scene.words
    x = dice.random()
    if x < 0.6:
        thing = dice.often_early(words.things, 8)
        if wanted:
            chain = words.lexicon.ancestors(thing.category)
            category = words.lexicon.category(dice.pick(chain))
        else:
            category = dice.pick(words.categories)
        return kind_claim(thing, category, words.is_a(thing, category)), thing
    if x < 0.85:
        thing = dice.often_early(words.animals)
        claim = can_claim(thing, dice.pick(("fly", "swim")))
        return None if claim is None else (claim, thing)
    thing = dice.often_early(words.things, 8)
    return eat_claim(thing), thing

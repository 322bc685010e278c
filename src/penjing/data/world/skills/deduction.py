"""Drawing conclusions: orders from comparisons, properties from rules about kinds, what follows from a condition."""

from penjing.data.world.actions import action
from penjing.data.world.items import Skill
from penjing.data.world.lexicon import Name
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene
from penjing.data.world.syntax import IF, Clause, They
from penjing.data.world.telling import jot, yes_no

SKILL = Skill("deduction", False, "Conclusions from comparisons, from rules about kinds and from conditions.", 0.37)

_ORDERS = (
    (("taller", "tallest", "shorter", "shortest"), ("高", "矮")),
    (("older", "oldest", "younger", "youngest"), ("年纪大", "年纪小")),
    (("faster", "fastest", "slower", "slowest"), ("跑得快", "跑得慢")),
    (("stronger", "strongest", "weaker", "weakest"), ("力气大", "力气小")),
)
_CONDITIONS = (
    # the condition and that it is so today, in both languages
    (("it rains", "It is raining today."), ("下雨", "今天下雨了。")),
    (("it snows", "It is snowing today."), ("下雪", "今天下雪了。")),
    (("it is sunny", "It is sunny today."), ("天晴", "今天是晴天。")),
    (("it is windy", "It is windy today."), ("刮风", "今天刮风了。")),
    (("it is hot", "It is hot today."), ("天热", "今天很热。")),
    (("it is cold", "It is cold today."), ("天冷", "今天很冷。")),
    (("it is cloudy", "It is cloudy today."), ("阴天", "今天是阴天。")),
)


def quiz(scene: Scene, questions: int) -> Quiz:
    """One of three kinds of puzzle."""
    return scene.dice.pick((_order, _kinds, _condition))(scene, questions)


def _order(scene: Scene, questions: int) -> Quiz:
    """Comparisons of neighbours in shuffled order; who is the most, the least, or whether one is more than another."""
    dice, g = scene.dice, scene.g
    count = scene.length(3, 3, 4)
    people = scene.names(count)  # from most to least
    en, zh = dice.pick(_ORDERS)
    facts = [(_compared(scene, people[i], people[i + 1], en, zh, dice.chance(0.7)), i) for i in range(count - 1)]
    dice.shuffle(facts)
    shown = [scene.word(p) for p in people]
    pairs = (", ", "，")[scene.zh].join(f"{shown[i]} > {shown[i + 1]}" for _, i in facts)
    steps = (pairs + scene.g.STOP, " > ".join(shown) + scene.g.STOP)
    asked = []
    for most in dice.sample((True, False), min(questions, 2)):
        if dice.chance(0.3):
            asked.append(_whether(scene, people, en, zh, steps))
            continue
        best = scene.word(people[0] if most else people[-1])
        options = tuple(scene.word(p) for p in people)
        if scene.zh:
            word = _most(zh[0 if most else 1])
            accepts: tuple[str, ...] = (f"{best}{word}。", best)
            found = (*steps, jot(scene, [(word, best)]))
            asked.append(Question(f"谁{word}？", accepts, options, count - 2, steps=found))
        else:
            word = en[1] if most else en[3]
            accepts = (f"{best} is the {word}.", best, f"{best} is {word}")
            found = (*steps, jot(scene, [(word, best)]))
            asked.append(Question(f"Who is the {word}?", accepts, options, count - 2, steps=found))
    return Quiz(g.SPACE.join(fact for fact, _ in facts), asked)


def _most(word: str) -> str:
    return word[:-1] + "最" + word[-1] if len(word) > 1 else "最" + word


def _compared(scene: Scene, more: Name, less: Name, en: tuple[str, ...], zh: tuple[str, str], forward: bool) -> str:
    if scene.zh:
        return f"{more.zh}比{less.zh}{zh[0]}。" if forward else f"{less.zh}比{more.zh}{zh[1]}。"
    return f"{more.en} is {en[0]} than {less.en}." if forward else f"{less.en} is {en[2]} than {more.en}."


def _whether(
    scene: Scene, people: list[Name], en: tuple[str, ...], zh: tuple[str, str], steps: tuple[str, ...]
) -> Question:
    """About the two ends, which no sentence of the text compares."""
    yes = scene.dice.chance(0.5)
    a, b = (people[0], people[-1]) if yes else (people[-1], people[0])
    if scene.zh:
        true = f"{a.zh}比{b.zh}{zh[0]}" if yes else f"{a.zh}不比{b.zh}{zh[0]}"
        return Question(f"{a.zh}比{b.zh}{zh[0]}吗？", yes_no(scene, yes, true), ("是的", "不"), 2, steps=steps)
    true = f"{a.en} is {en[0]} than {b.en}" if yes else f"{a.en} is not {en[0]} than {b.en}"
    return Question(f"Is {a.en} {en[0]} than {b.en}?", yes_no(scene, yes, true), ("Yes", "No"), 2, steps=steps)


def _kinds(scene: Scene, questions: int) -> Quiz:
    """All boxes here are red; this is a box: what colour is it? Each kind has its own colour, each name its kind."""
    dice, g = scene.dice, scene.g
    count = scene.length(2, 3, 4)
    kinds = scene.companions("things", scene.words.artefacts, count)
    colours = scene.companions("pattern", scene.words.colours, count)
    people = scene.names(count)
    rules = []
    for kind, colour in zip(kinds, colours, strict=True):
        rules.append(
            f"这里的{kind.zh}都是{colour.zh}的。" if scene.zh else f"All the {kind.plural} here are {colour.en}."
        )
    owners = list(range(count))
    dice.shuffle(owners)
    facts = []
    for i in owners:
        kind, name = kinds[i], scene.word(people[i])
        facts.append(
            f"{name}拿了一{kind.measure}{kind.zh}。" if scene.zh else f"{name} took {g.article(kind.en)} from here."
        )
    asked = []
    for i in dice.sample(owners, min(questions, count)):
        kind, colour, person = kinds[i], colours[i], people[i]
        options = tuple(scene.word(c) for c in colours)
        if scene.zh:
            text = f"{person.zh}拿的东西是什么颜色的？"
            accepts: tuple[str, ...] = (
                f"{person.zh}的{kind.zh}是{colour.zh}的。",
                colour.zh,
                f"{colour.zh}的",
                f"{kind.zh}是{colour.zh}的",
                f"{person.zh}拿的东西是{colour.zh}的",
                f"{person.zh}拿的{kind.zh}是{colour.zh}的",
            )
        else:
            text = f"What colour is the thing that {person.en} took?"
            accepts = (
                f"{g.owner(person)} {kind.en} is {colour.en}.",
                colour.en,
                f"It is {colour.en}",
                f"The {kind.en} is {colour.en}",
                f"The thing that {person.en} took is {colour.en}",
            )
        asked.append(Question(text, accepts, options, count))
    return Quiz(g.SPACE.join(rules + facts), asked)


def _condition(scene: Scene, questions: int) -> Quiz:
    """If it rains, one thing happens; if it snows, another. It is one of these today."""
    dice, g = scene.dice, scene.g
    count = scene.length(2, 3, 4)
    name = scene.name()
    whens = dice.sample(_CONDITIONS, count)
    done: list[Clause] = []
    while len(done) < count:
        clause = action(scene, name, "present")
        if g.predicate(clause) not in [g.predicate(c) for c in done]:
            done.append(clause)
    pattern = dice.pick(IF.zh if scene.zh else IF.en)
    rules = [
        g.sentence(pattern.format(when[scene.zh][0], g.clause(clause)))
        for when, clause in zip(whens, done, strict=True)
    ]
    i = dice.below(count)
    shown = scene.word(name)
    he = scene.g.noun_phrase(They(name))
    full = g.sentence(g.clause(done[i]))
    text = f"{shown}做什么？" if scene.zh else f"What does {shown} do?"
    # Every rule with its condition first, then today's.
    rule = [(when[scene.zh][0], g.predicate(clause)) for when, clause in zip(whens, done, strict=True)]
    steps = (jot(scene, rule), jot(scene, [rule[i]]))
    accepts = (full, g.predicate(done[i]), full.replace(shown, he, 1))
    today = whens[i][scene.zh][1]
    options = tuple(g.sentence(g.clause(c)) for c in done)
    return Quiz(g.SPACE.join([*rules, today]), [Question(text, accepts, options, count, steps=steps)])

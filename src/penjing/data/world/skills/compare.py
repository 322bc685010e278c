"""Which is larger, longer, heavier, older: numbers, measured things, people by age, things of the world by size."""

from penjing.data.world.grammar_en import article
from penjing.data.world.items import Skill
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene
from penjing.data.world.telling import jot, yes_no

SKILL = Skill("compare", True, "The larger or smaller of numbers, measured things, ages and animals.", 0.39)

_MEASURES = (
    # verb and unit, and the two directions, in both languages
    (("is {0} centimetres long", "长{0}厘米"), ("longer", "longest", "长"), ("shorter", "shortest", "短")),
    (("weighs {0} grams", "重{0}克"), ("heavier", "heaviest", "重"), ("lighter", "lightest", "轻")),
    (("costs {0} yuan", "卖{0}元"), ("more expensive", "most expensive", "贵"), ("cheaper", "cheapest", "便宜")),
)


def quiz(scene: Scene, questions: int) -> Quiz:
    """One question, or several about different pairs."""
    x = scene.dice.random()
    if x < 0.4:
        return Quiz("", [_numbers(scene) for _ in range(questions)])
    if x < 0.6:
        return Quiz("", [_sizes(scene) for _ in range(questions)])
    return _measured(scene, questions)


def _different_numbers(scene: Scene, count: int, low: int, high: int) -> list[int]:
    """Numbers of which no two are a held-out pair; in the test the first two are one."""
    dice = scene.dice
    while True:
        a, b = dice.between(low, high), dice.between(low, high)
        if a != b and scene.new("compare", min(a, b), max(a, b)):
            break
    numbers = [a, b]
    while len(numbers) < count:
        c = dice.between(low, high)
        if c not in numbers and all(scene.may("compare", min(c, n), max(c, n)) for n in numbers):
            numbers.append(c)
    return numbers


def _numbers(scene: Scene) -> Question:
    dice = scene.dice
    count = scene.length(2, 3, 4)
    high = dice.pick((20, 100, 100, 1000))
    numbers = _different_numbers(scene, count, 1, high)
    dice.shuffle(numbers)
    large = dice.chance(0.5)
    best = max(numbers) if large else min(numbers)
    if count == 2 and dice.chance(0.3):
        a, b = numbers
        yes = (a > b) is large
        if scene.zh:
            word = "大" if large else "小"
            true = f"{a}比{b}{word}" if yes else f"{a}不比{b}{word}"
            return Question(f"{a}比{b}{word}吗？", yes_no(scene, yes, true), ("是的", "不"))
        word = "larger" if large else "smaller"
        true = f"{a} is {word} than {b}" if yes else f"{a} is not {word} than {b}"
        return Question(f"Is {a} {word} than {b}?", yes_no(scene, yes, true), ("Yes", "No"))
    options = tuple(str(n) for n in numbers)
    if scene.zh:
        word = "最" * (count > 2) + ("大" if large else "小")
        listed = "、".join(options[:-1]) + "和" + options[-1]
        text = dice.pick(
            (f"{listed}，哪个数{word}？", f"{listed}中，哪个{word}？" if count > 2 else f"{listed}哪个{word}？")
        )
        return Question(text, (f"{best}{word}。", str(best), f"{best}这个数{word}"), options, count - 1)
    word = ("larger" if large else "smaller") if count == 2 else ("largest" if large else "smallest")
    listed = scene.g.enumeration(list(options), "or")
    text = dice.pick((f"Which is {word}, {listed}?", f"Which number is {word}: {listed}?"))
    return Question(text, (f"{best} is {word}.", str(best), f"{best} is the {word}"), options, count - 1)


def _sizes(scene: Scene) -> Question:
    dice, words = scene.dice, scene.words
    pool = words.remembered("sized", lambda: tuple(t for t in words.things if t.number == "count"))
    while True:
        a, b = dice.often_early(pool), dice.often_early(pool)
        if abs(a.size - b.size) >= 2 and a.zh != b.zh and scene.new("size", *sorted((a.en, b.en))):
            break
    large = dice.chance(0.5)
    best = a if (a.size > b.size) is large else b
    other = b if best is a else a
    if scene.zh:
        word = "大" if large else "小"
        text = dice.pick((f"{a.zh}和{b.zh}哪个{word}？", f"哪个{word}，{a.zh}还是{b.zh}？"))
        return Question(text, (f"{best.zh}比{other.zh}{word}。", best.zh, f"{best.zh}{word}"), (a.zh, b.zh))
    word = "bigger" if large else "smaller"
    A, B, C, D = article(a.en), article(b.en), article(best.en), article(other.en)
    text = dice.pick((f"Which is {word}, {A} or {B}?", f"What is {word}: {A} or {B}?"))
    full = scene.g.capital(f"{C} is {word} than {D}.")
    return Question(text, (full, C, best.en, f"{C} is {word}", f"the {best.en}"), (A, B))


def _measured(scene: Scene, questions: int) -> Quiz:
    """People's ages or things' lengths and weights are told; the most or the least is asked for."""
    dice, g = scene.dice, scene.g
    count = scene.length(2, 3, 4)
    ages = dice.chance(0.4)
    numbers = _different_numbers(scene, count, 3, 60 if ages else 90)
    if ages:
        bearers = [scene.word(n) for n in scene.names(count)]
        said, more, less = ("is {0} years old", "今年{0}岁"), ("older", "oldest", "大"), ("younger", "youngest", "小")
    else:
        things = scene.companions("things", scene.words.portable, count)
        said, more, less = dice.pick(_MEASURES)
        bearers = [t.zh if scene.zh else f"the {t.en}" for t in things]
    pattern = said[scene.zh]
    facts = [bearer + g.SPACE + pattern.format(n) for bearer, n in zip(bearers, numbers, strict=True)]
    told = "，".join(facts) + "。" if scene.zh else " ".join(g.sentence(fact) for fact in facts)
    asked = []
    for large in dice.sample((True, False), min(questions, 2)):
        number = max(numbers) if large else min(numbers)
        best = bearers[numbers.index(number)]
        word = more if large else less
        if scene.zh:
            w = ("最" if count > 2 else "更") + word[2]
            age = "年纪" if ages else ""
            who = "谁" if ages else "哪个"
            text = f"{who}{age}{w}？"
            accepts: tuple[str, ...] = (f"{best}{age}{w}。", best, f"{best}{w}", f"{best}{age}{word[2]}")
        else:
            w = word[0] if count == 2 else word[1]
            bare = best.removeprefix("the ")
            who = "Who" if ages else "Which"
            the = "" if count == 2 else "the "
            text = f"{who} is {the}{w}?"
            accepts = (g.capital(f"{best} is {the}{w}."), best, bare, f"{best} is {w}", f"{best} is the {w}")
        jotted = _jotted(scene, numbers, bearers, number, w)
        asked.append(Question(text, accepts, tuple(bearers), count - 1, steps=jotted))
    return Quiz(told, asked)


def _jotted(scene: Scene, numbers: list[int], bearers: list[str], number: int, asked: str) -> tuple[str, ...]:
    """Each number with whose it is, then the one that is asked for: `12: Tom, 60: Ann. oldest: 60: Ann.`"""
    whose = {str(n): bearer.removeprefix("the ") for n, bearer in zip(numbers, bearers, strict=True)}
    found = str(number)
    return jot(scene, whose.items()), jot(scene, [(asked, found), (found, whose[found])])

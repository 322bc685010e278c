"""Using the calculator: the right call for sums too large to do by heart, and the result in the answer.

The assistant writes the call; the tool answers; the answer then states the result. An item counts as solved by the
final answer, which nobody guesses.
"""

from penjing.data.world.calculator import calculator, call
from penjing.data.world.items import Message, Skill
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene

SKILL = Skill("tools", True, "Calling the calculator for large sums and using its result in the answer.", 0.01)

_OPERATIONS = {
    "+": (("{0} plus {1}", "{0} + {1}", "the sum of {0} and {1}"), ("{0}加{1}", "{0}+{1}", "{0}与{1}的和")),
    "-": (("{0} minus {1}", "{0} - {1}", "the difference of {0} and {1}"), ("{0}减{1}", "{0}-{1}", "{0}与{1}的差")),
    "*": (("{0} times {1}", "{0} * {1}", "the product of {0} and {1}"), ("{0}乘以{1}", "{0}×{1}", "{0}与{1}的积")),
    "/": (("{0} divided by {1}", "{0} / {1}"), ("{0}除以{1}", "{0}÷{1}")),
}
_ASK = (
    ("What is {0}?", "Calculate {0}.", "Use the calculator: what is {0}?", "How much is {0}?"),
    ("{0}等于多少？", "请计算{0}。", "用计算器算一算：{0}是多少？", "{0}是多少？"),
)


def quiz(scene: Scene, questions: int) -> Quiz:
    """Bare sums, or sums inside a small problem about things."""
    return Quiz("", [_bare(scene) if scene.dice.chance(0.6) else _problem(scene) for _ in range(min(questions, 2))])


def _numbers(scene: Scene, sign: str, difficulty: int) -> tuple[int, int]:
    """Two numbers that are a new pair for this operation; a third digit more for each step of difficulty."""
    dice = scene.dice
    while True:
        top = 10 ** (difficulty + 2) - 1
        a, b = dice.between(100, top), dice.between(100, top)
        if sign == "*":
            b = dice.between(11, 99)
        if sign == "/":
            b = dice.between(12, 99)
            a = b * dice.between(12, 10 ** (difficulty + 1) - 1)
        if sign == "-" and a <= b:
            a, b = b + 1, a
        if scene.new("calculate", sign, a, b):
            return a, b


def _called(expression: str) -> tuple[tuple[Message, ...], str]:
    result = calculator(expression)
    return ({"role": "assistant", "content": call(expression)}, {"role": "tool", "content": result}), result


def _bare(scene: Scene) -> Question:
    dice, i = scene.dice, int(scene.zh)
    sign = dice.pick("++--**/")
    difficulty = scene.length(1, 1, 2)
    a, b = _numbers(scene, sign, difficulty)
    before, result = _called(f"{a}{sign}{b}")
    said = dice.pick(_OPERATIONS[sign][i]).format(a, b)
    question = Question(scene.g.capital(dice.pick(_ASK[i]).format(said)), (), difficulty=difficulty, before=before)
    if scene.zh:
        shown = "×" if sign == "*" else "÷" if sign == "/" else sign
        question.accepts = (
            f"结果是{result}。",
            result,
            f"等于{result}",
            f"{a}{shown}{b}={result}",
            f"答案是{result}",
            f"是{result}",
        )
    else:
        question.accepts = (
            f"The result is {result}.",
            result,
            f"It is {result}",
            f"{a} {sign} {b} = {result}",
            f"{a}{sign}{b}={result}",
            f"The answer is {result}",
            f"{said} is {result}",
        )
    return question


def _problem(scene: Scene) -> Question:
    """A box holds 24 pencils; how many are in 13 boxes? Or: 345 were there, 128 were sold."""
    dice, g = scene.dice, scene.g
    thing = scene.thing(scene.words.countable)
    name = scene.word(scene.name())
    kind = dice.pick(("boxes", "sold", "bought"))
    sign = {"boxes": "*", "sold": "-", "bought": "+"}[kind]
    a, b = _numbers(scene, sign, 1)
    before, result = _called(f"{a}{sign}{b}")
    accepts: tuple[str, ...]
    if scene.zh:
        m, t = thing.measure, thing.zh
        text = {
            "boxes": f"一个箱子里有{a}{m}{t}，{b}个箱子里一共有多少{m}{t}？",
            "sold": f"{name}的店里有{a}{m}{t}，卖了{b}{m}，还有多少{m}{t}？",
            "bought": f"{name}的店里有{a}{m}{t}，又买来{b}{m}，现在有多少{m}{t}？",
        }[kind]
        accepts = (
            f"有{result}{m}{t}。",
            result,
            f"{result}{m}",
            f"{result}{m}{t}",
            f"一共有{result}{m}{t}",
            f"还有{result}{m}{t}",
            f"现在有{result}{m}{t}",
            f"结果是{result}",
            f"答案是{result}",
        )
        return Question(text, accepts, before=before)
    t, one = thing.plural, g.noun(thing, 1)
    counted = t if result != "1" else one
    text = {
        "boxes": f"One box holds {a} {t}. How many {t} are in {b} boxes?",
        "sold": f"{name}'s shop has {a} {t} and sells {b}. How many {t} are left?",
        "bought": f"{name}'s shop has {a} {t} and buys {b} more. How many {t} are there now?",
    }[kind]
    be = "are" if result != "1" else "is"
    accepts = (
        f"There {be} {result} {counted}.",
        result,
        f"{result} {counted}",
        f"There {be} {result}",
        f"The result is {result}",
        f"The answer is {result}",
        f"{result} {counted} {be} left",
    )
    return Question(text, accepts, before=before)

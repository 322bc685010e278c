"""Sums by heart: addition, subtraction and small products, in digits and in words.

Held out are whole pairs of numbers. Sums of one-digit numbers are in training as every child learns them; products
are held out in one order only (7 times 8, where 8 times 7 is taught).
"""

from penjing.data.world.items import Skill
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene

SKILL = Skill(
    "arithmetic", False, "Sums and differences up to two digits and small products, in digits or words.", 0.05
)

_SAID = {
    "+": (("{0} plus {1}", "{0} + {1}"), ("{0}加{1}", "{0}+{1}")),
    "-": (("{0} minus {1}", "{0} - {1}"), ("{0}减{1}", "{0}-{1}")),
    "*": (("{0} times {1}", "{0} * {1}"), ("{0}乘以{1}", "{0}×{1}")),
}
_ASK = (("What is {0}?", "How much is {0}?", "{0} = ?"), ("{0}等于多少？", "{0}等于几？", "{0}=？"))


def quiz(scene: Scene, questions: int) -> Quiz:
    """Independent sums."""
    return Quiz("", [_sum(scene) for _ in range(questions)])


def draw(scene: Scene, sign: str, difficulty: int) -> tuple[int, int, int]:
    """Two numbers new for this operation, and the result; never negative."""
    dice = scene.dice
    while True:
        if sign == "*":
            a, b = dice.between(2, 12), dice.between(2, 9 if difficulty < 3 else 12)
            if a != b and scene.new("*", a, b) and not (scene.testing and _both_held_out(a, b)):
                return a, b, a * b
            continue
        if difficulty == 1:
            a, b = dice.between(1, 20), dice.between(1, 9)
        else:
            a, b = dice.between(1, 99), dice.between(1, 99)
            if difficulty == 2 and a + b >= 100 and sign == "+":
                a, b = a // 2, b // 2
        if sign == "-" and a < b:
            a, b = b, a
        low, high = (b, a - b) if sign == "-" else (a, b)
        if not scene.testing and max(a, b) < 10:
            return (a, b, a + b) if sign == "+" else (a, b, a - b)
        if max(a, b) >= 10 and scene.new("+", min(low, high), max(low, high)):
            return (a, b, a + b) if sign == "+" else (a, b, a - b)


def _both_held_out(a: int, b: int) -> bool:
    from penjing.data.world.split import held_out

    return held_out("*", b, a)


def _sum(scene: Scene) -> Question:
    dice, g, i = scene.dice, scene.g, int(scene.zh)
    sign = dice.pick("+++---**")
    difficulty = dice.pick((1, 1, 2, 2, 3)) if sign != "*" else dice.pick((1, 2, 3))
    a, b, result = draw(scene, sign, difficulty)
    if dice.chance(0.2):
        words = [g.number(n) for n in (a, b, result)]
        said = _SAID[sign][i][0].format(words[0], words[1])
        full = f"{said}等于{words[2]}。" if scene.zh else g.capital(f"{said} is {words[2]}.")
        text = g.capital(_ASK[i][0].format(said))
    else:
        said = dice.pick(_SAID[sign][i]).format(a, b)
        symbol = "×" if sign == "*" and scene.zh else sign
        full = f"{a}{symbol}{b}={result}。" if scene.zh else f"{a} {sign} {b} = {result}."
        text = dice.pick(_ASK[i]).format(said)
    plain = _SAID[sign][i][0].format(a, b)
    accepts = [full, str(result), f"{a}{sign}{b}={result}"]
    accepts += [f"{plain}等于{result}", f"等于{result}", f"{a}×{b}={result}"] if scene.zh else [
        f"{plain} is {result}", f"It is {result}", f"{a} {sign} {b} = {result}"]  # fmt: skip
    return Question(text, tuple(accepts), (), difficulty)

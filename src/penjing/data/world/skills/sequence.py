"""What comes next: numbers in steps, days and months in steps, and patterns of words that repeat."""

from penjing.data.world.items import Skill
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene

SKILL = Skill(
    "sequence", True, "The next member of a number series, of days or months, or of a repeating pattern.", 0.29
)

_SHAPES = ("ab", "ab", "abc", "aab", "abb", "abcd")


def quiz(scene: Scene, questions: int) -> Quiz:
    """Independent questions."""
    return Quiz("", [_one(scene) for _ in range(questions)])


def _one(scene: Scene) -> Question:
    x = scene.dice.random()
    if x < 0.45:
        return _numbers(scene)
    if x < 0.65:
        return _calendar(scene)
    return _pattern(scene)


def _question(
    scene: Scene, shown: list[str], right: str, options: tuple[str, ...], difficulty: int, what: str
) -> Question:
    listed = ("、" if scene.zh else ", ").join(shown)
    if scene.zh:
        text = scene.dice.pick(
            (f"接下来是什么：{listed}？", f"{listed}，下一个是什么？", f"找规律：{listed}，后面是什么？")
        )
        return Question(text, (f"下一个是{right}。", right, f"接下来是{right}", f"后面是{right}"), options, difficulty)
    text = scene.dice.pick((f"What comes next: {listed}?", f"{listed}: what is next?", f"Continue: {listed}."))
    text = scene.g.capital(text)
    accepts = (
        f"Next comes {right}.",
        right,
        f"{right} comes next",
        f"The next {what} is {right}",
        f"The next one is {right}",
    )
    return Question(text, accepts, options, difficulty)


def _numbers(scene: Scene) -> Question:
    dice = scene.dice
    length = scene.length(3, 5, 7)
    while True:
        step = dice.pick((1, 1, 2, 2, 3, 5, 10))
        start = dice.between(0, 60)
        if scene.new("series", start, step):
            break
    series = [start + step * i for i in range(length + 1)]
    if dice.chance(0.3):
        series.reverse()
        step = -step
    right = series[-1]
    others = [right - step, right + step, right + 2, right - 1, right + 10, right - 10]
    others = [n for n in dict.fromkeys(others) if n != right and n >= 0]
    options = (str(right), *(str(n) for n in others[:3]))
    return _question(scene, [str(n) for n in series[:-1]], str(right), options, abs(step), "number")


def _calendar(scene: Scene) -> Question:
    dice = scene.dice
    days = dice.chance(0.5)
    cycle = scene.words.weekdays if days else scene.words.months
    length = scene.length(2, 4, 6)
    while True:
        start, step = dice.below(len(cycle)), dice.pick((1, 1, 2, -1))
        if scene.new("cycle", cycle[start].en, step):
            break
    series = [scene.word(cycle[(start + step * i) % len(cycle)]) for i in range(length + 1)]
    options = tuple(scene.word(w) for w in cycle)
    return _question(scene, series[:-1], series[-1], options, length - 1, "day" if days else "month")


def _pattern(scene: Scene) -> Question:
    dice = scene.dice
    shape = dice.pick(_SHAPES)
    letters = sorted(set(shape))
    if dice.chance(0.4):
        shown = [scene.word(c) for c in scene.companions("pattern", scene.words.colours, len(letters))]
    else:
        shown = [scene.word(t) for t in scene.companions("things", scene.words.portable, len(letters))]
    meaning = dict(zip(letters, shown, strict=True))
    length = len(shape) + scene.length(2, 4, 6)
    series = [meaning[shape[i % len(shape)]] for i in range(length + 1)]
    return _question(scene, series[:-1], series[-1], tuple(meaning.values()), len(shape), "word")

"""Rows: counting, days and months in order, number words, sums, and sentences of both languages side by side."""

from penjing.data.world.lexicon import ordinal_words
from penjing.data.world.scene import Scene
from penjing.data.world.sentences import noun_pair, sentence_pair
from penjing.data.world.skills.arithmetic import draw


def row(scene: Scene) -> str:
    """One to four rows of one sort."""
    tell = scene.dice.pick((_counting, _cycle, _words, _sums, _sums, _ordinals))
    return "\n".join(tell(scene) for _ in range(scene.dice.between(2, 4)))


def _listed(scene: Scene, parts: list[str]) -> str:
    return scene.g.capital(("、" if scene.zh else ", ").join(parts)) + scene.g.STOP


def _counting(scene: Scene) -> str:
    dice = scene.dice
    step = dice.pick((1, 1, 2, 3, 5, 10))
    while True:
        start = dice.between(0, 60)
        if scene.may("series", start, step):
            break
    numbers = [start + step * i for i in range(dice.between(6, 12))]
    if dice.chance(0.3):
        numbers.reverse()
    return _listed(scene, [scene.g.number(n) for n in numbers] if dice.chance(0.3) else [str(n) for n in numbers])


def _cycle(scene: Scene) -> str:
    dice = scene.dice
    cycle = scene.words.weekdays if dice.chance(0.5) else scene.words.months
    start, back = dice.below(len(cycle)), dice.chance(0.3)
    order = [cycle[(start + (-i if back else i)) % len(cycle)] for i in range(len(cycle))]
    return _listed(scene, [scene.word(w) for w in order])


def _words(scene: Scene) -> str:
    numbers = [scene.dice.between(0, 100) for _ in range(5)]
    if scene.zh:
        return "，".join(f"{n}读作{scene.g.number(n)}" for n in numbers) + "。"
    return " ".join(f"{n} is {scene.g.number(n)}." for n in numbers)


def _ordinals(scene: Scene) -> str:
    numbers = [scene.dice.between(1, 30) for _ in range(4)]
    if scene.zh:
        return "，".join(f"{n}对应{ordinal_words(n, 'zh')}" for n in numbers) + "。"
    return " ".join(f"Number {n} is the {ordinal_words(n, 'en')}." for n in numbers)


def _sums(scene: Scene) -> str:
    said = []
    for _ in range(4):
        sign = scene.dice.pick("+-*")
        a, b, result = draw(scene, sign, scene.dice.between(1, 3))
        symbol = "×" if scene.zh and sign == "*" else sign
        said.append(f"{a}{symbol}{b}={result}" if scene.zh else f"{a} {sign} {b} = {result}")
    return ("，" if scene.zh else ", ").join(said) + scene.g.STOP


def parallel(scene: Scene) -> str:
    """The same things said in both languages, line by line, the scene's language first."""
    lines = []
    for _ in range(scene.dice.between(2, 4)):
        en, zh = noun_pair(scene) if scene.dice.chance(0.3) else sentence_pair(scene)[:2]
        if scene.dice.chance(0.25):
            entry = scene.dice.often_early(scene.words.things, 8)
            en, zh = entry.en, entry.zh
        lines.append(f"{zh} {en}" if scene.zh else f"{en} {zh}")
    return "\n".join(lines)

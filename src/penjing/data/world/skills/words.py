"""Puzzles about words: opposites, the odd one out, plurals or measure words, a place in a list, a list backwards."""

from penjing.data.world.items import Skill
from penjing.data.world.lexicon import Thing
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene
from penjing.data.world.telling import jot

SKILL = Skill(
    "words", False, "Opposites, the odd one out, plurals and measure words, positions in lists, reversing.", 0.10
)

_PLACES = (("first", "第一个"), ("second", "第二个"), ("third", "第三个"), ("fourth", "第四个"), ("last", "最后一个"))


def quiz(scene: Scene, questions: int) -> Quiz:
    """Independent puzzles."""
    kinds = (_opposite, _odd, _form, _place, _backwards)
    return Quiz("", [scene.dice.pick(kinds)(scene) for _ in range(questions)])


def _opposite(scene: Scene) -> Question:
    """Asked in one direction in training where the other is held out; texts state each pair without direction."""
    dice = scene.dice
    while True:
        pair = dice.often_early(scene.words.antonyms)
        forward = dice.chance(0.5)
        a, b = (pair.en, pair.en_opposite) if forward else (pair.en_opposite, pair.en)
        if scene.new("opposite", a, b):
            break
    if scene.zh:
        a, b = (pair.zh, pair.zh_opposite) if forward else (pair.zh_opposite, pair.zh)
        text = dice.pick((f"“{a}”的反义词是什么？", f"{a}的反义词是什么？", f"“{a}”的反面是什么？"))
        return Question(text, (f"{a}的反义词是{b}。", b, f"反义词是{b}", f"是{b}", f"{a}的反面是{b}"))
    text = dice.pick(
        (f'What is the opposite of "{a}"?', f"What is the opposite of {a}?", f"Tell me the opposite of {a}.")
    )
    return Question(text, (f"The opposite of {a} is {b}.", b, f"It is {b}"))


def _odd(scene: Scene) -> Question:
    dice, words = scene.dice, scene.words
    count = scene.length(3, 4, 5)
    families = words.remembered("families", lambda: tuple(k for k, m in words.members.items() if len(m) >= 8))
    while True:
        home, away = dice.sample(families, 2)
        if words.ancestors[home] & words.ancestors[away]:
            continue
        members = scene.things(count - 1, words.members[home])
        odd = dice.often_early(words.members[away])
        if scene.new("odd", members[0].en, odd.en) and odd.zh not in [m.zh for m in members]:
            break
    listed = [*members, odd]
    dice.shuffle(listed)
    options = tuple(scene.word(t) for t in listed)
    right = scene.word(odd)
    kinds = [scene.word(words.lexicon.category(away if t is odd else home)) for t in listed]
    steps = (jot(scene, zip(options, kinds, strict=True)),)
    if scene.zh:
        text = dice.pick((f"哪个词与众不同：{'、'.join(options)}？", f"{'、'.join(options)}，哪个不是同类？"))
        forms: tuple[str, ...] = (f"{right}不是同类。", right, f"{right}与众不同", f"是{right}")
        return Question(text, forms, options, count - 2, steps=steps)
    text = dice.pick(
        (f"Which is the odd one out: {', '.join(options)}?", f"Which word does not belong: {', '.join(options)}?")
    )
    full = scene.g.capital(f"{right} is the odd one out.")
    forms = (full, right, f"{right} does not belong", f"the {right}", f"It is {right}")
    return Question(text, forms, options, count - 2, steps=steps)


def _form(scene: Scene) -> Question:
    """The plural in English, the measure word in Chinese."""
    dice = scene.dice
    pool: tuple[Thing, ...] = scene.words.remembered(
        "counted", lambda: tuple(t for t in scene.words.things if t.number == "count")
    )
    while True:
        thing = dice.often_early(pool)
        if scene.new("form", thing.en):
            break
    if scene.zh:
        t, m = thing.zh, thing.measure
        text = dice.pick((f"“{t}”的量词是什么？", f"一（）{t}，括号里填什么量词？", f"{t}用什么量词？"))
        return Question(text, (f"一{m}{t}。", m, f"{t}的量词是{m}", f"量词是{m}", f"用{m}", f"填{m}", f"是{m}"))
    t, p = thing.en, thing.plural
    text = dice.pick((f'What is the plural of "{t}"?', f"What is the plural of {t}?", f"Say the plural of {t}."))
    return Question(text, (f"One {t}, two {p}.", p, f"The plural of {t} is {p}", f"two {p}", f"It is {p}"))


def _place(scene: Scene) -> Question:
    dice = scene.dice
    count = scene.length(3, 4, 5)
    words = scene.companions("things", scene.words.portable, count)
    shown = [scene.word(w) for w in words]
    i = dice.below(count)
    en, zh = _PLACES[4 if i == count - 1 and dice.chance(0.7) else min(i, 3)]
    right = shown[min(i, 3)] if en != "last" else shown[-1]
    if scene.zh:
        text = dice.pick((f"{'、'.join(shown)}：{zh}词是什么？", f"在“{'、'.join(shown)}”中，{zh}词是什么？"))
        return Question(text, (f"{zh}词是{right}。", right, f"是{right}", f"{zh}是{right}"), tuple(shown), count - 2)
    text = dice.pick(
        (f"Which word is {en}: {', '.join(shown)}?", f"What is the {en} word in this list: {', '.join(shown)}?")
    )
    return Question(
        text, (f"The {en} word is {right}.", right, f"It is {right}", f"{right} is {en}"), tuple(shown), count - 2
    )


def _backwards(scene: Scene) -> Question:
    dice = scene.dice
    count = scene.length(2, 4, 5)
    words = scene.companions("things", scene.words.portable, count)
    shown = [scene.word(w) for w in words]
    back = shown[::-1]
    if scene.zh:
        text = dice.pick((f"把这些词倒过来说：{'、'.join(shown)}。", f"倒序写出：{'、'.join(shown)}。"))
        return Question(text, ("、".join(back) + "。", " ".join(back)), (), count - 1)
    listed = ", ".join(shown)
    text = dice.pick((f"Say these words backwards, last one first: {listed}.", f"Reverse this list: {listed}."))
    full = scene.g.capital(", ".join(back) + ".")
    return Question(text, (full, " ".join(back), " and ".join(back)), (), count - 1)

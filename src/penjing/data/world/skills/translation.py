"""Translation between English and Chinese: words, phrases and composed sentences.

An item in English asks for Chinese, an item in Chinese for English. Right is the sentence that the other grammar
makes of the same meaning, and what the listed synonyms make of it.
"""

from penjing.data.world.grammar_en import article
from penjing.data.world.items import Skill
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene
from penjing.data.world.sentences import noun_pair, sentence_pair

SKILL = Skill("translation", False, "Words, phrases and composed sentences from English to Chinese and back.", 0.03)

_ASK = (
    ("Translate into Chinese: {0}", "Say this in Chinese: {0}", "What is this in Chinese? {0}"),
    ("翻译成英语：{0}", "用英语怎么说：{0}", "请把这句话翻译成英语：{0}"),
)


def quiz(scene: Scene, questions: int) -> Quiz:
    """Independent texts to translate."""
    return Quiz("", [_one(scene) for _ in range(questions)])


def _one(scene: Scene) -> Question:
    x = scene.dice.random()
    if x < 0.2:
        return _word(scene)
    if x < 0.45:
        en, zh = noun_pair(scene)
        return _question(scene, en, zh, 1)
    en, zh, difficulty = sentence_pair(scene)
    return _question(scene, en, zh, difficulty + 1)


def _question(scene: Scene, en: str, zh: str, difficulty: int) -> Question:
    given, right = (zh, en) if scene.zh else (en, zh)
    text = scene.dice.pick(_ASK[scene.zh]).format(given)
    accepts = [right]
    if scene.zh:
        lowered = right[0].lower() + right[1:]
        if right.startswith(("a ", "an ", "A ", "An ")):
            accepts.append("one " + lowered.partition(" ")[2])
        accepts += [
            right.replace("cannot", "can not"),
            right.replace("cannot", "can't"),
            right.replace("did not", "didn't"),
        ]
    return Question(text, tuple(dict.fromkeys(accepts)), (), difficulty)


def _word(scene: Scene) -> Question:
    dice, words = scene.dice, scene.words
    pool = words.remembered(
        "to translate",
        lambda: tuple(
            e
            for group in zip(words.things, words.lexicon.adjectives * 3, words.lexicon.places * 8, strict=False)
            for e in group
        ),
    )
    while True:
        entry = dice.often_early(pool, 8)
        if scene.new("word", scene.language, entry.en):
            break
    also = tuple(entry.also) if not scene.zh else ()
    if scene.zh:
        text = dice.pick((f"“{entry.zh}”用英语怎么说？", f"{entry.zh}的英语是什么？"))
        return Question(text, (f"{entry.en[0].upper()}{entry.en[1:]}.", article(entry.en), f"the {entry.en}"))
    text = dice.pick((f'How do you say "{entry.en}" in Chinese?', f"What is {entry.en} in Chinese?"))
    return Question(text, (f"{entry.zh}。", *also))

"""Conversation: someone says who they are, where they live or what they like, and later asks about it.

The answer always needs something that was said before in the same conversation; between the two there may be other
talk, greetings, thanks or a question about who the assistant is.
"""

from penjing.data.world.items import Skill
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene
from penjing.data.world.syntax import LIKE, YOU, Clause, I, Phrase
from penjing.data.world.telling import answers

SKILL = Skill("dialogue", True, "Using what was said earlier in the conversation: names, homes, likes, pets.", 0.03)

HELLO = {
    "en": ("Hello", "Hi", "Good morning", "Good evening", "Hello there"),
    "zh": ("你好", "您好", "早上好", "晚上好", "嗨"),
}
_I_AM = {"en": ("I am {0}.", "My name is {0}.", "I'm {0}."), "zh": ("我叫{0}。", "我是{0}。", "我的名字是{0}。")}
_WELCOME = {
    "en": ("Hello, {0}! Nice to meet you.", "Hi, {0}! How can I help you?"),
    "zh": ("你好，{0}！很高兴认识你。", "你好，{0}！有什么可以帮你的吗？"),
}
_PETS = ("dog", "cat", "rabbit", "hamster", "parrot", "goldfish", "horse", "duck")
TALK = {
    "en": (
        ("Who are you?", "I am Penjing, a small language model."),
        ("What are you?", "I am Penjing, a small language model."),
        ("How are you?", "I am fine, thank you."),
        ("Thank you!", "You are welcome."),
        ("What can you do?", "I can answer questions, count and translate."),
        ("Do you speak Chinese?", "Yes, I speak English and Chinese."),
    ),
    "zh": (
        ("你是谁？", "我是盆景，一个小小的语言模型。"),
        ("你叫什么名字？", "我叫盆景，是一个小小的语言模型。"),
        ("你好吗？", "我很好，谢谢。"),
        ("谢谢你！", "不客气。"),
        ("你会做什么？", "我会回答问题、数数和翻译。"),
        ("你会说英语吗？", "会，我会说中文和英语。"),
    ),
}


def quiz(scene: Scene, questions: int) -> Quiz:
    """One conversation: an introduction with a fact or two, perhaps other talk, and a question about a fact."""
    dice = scene.dice
    name = scene.name()
    shown = scene.word(name)
    first = dice.pick(HELLO[scene.language]) + scene.t("! ", "！") + dice.pick(_I_AM[scene.language]).format(shown)
    facts = [_named(scene, shown)]
    kinds = dice.sample((_home, _liking, _pet), scene.length(0, 1, 2))
    for kind in kinds:
        told, question = kind(scene)
        first += scene.g.SPACE + told
        facts.append(question)
    welcome = dice.pick(_WELCOME[scene.language]).format(shown)
    asked = []
    if dice.chance(0.3):
        said, reply = dice.pick(TALK[scene.language])
        asked.append(Question(said, (reply,)))
    asked += dice.sample(facts, min(questions, len(facts)))
    for question in asked:
        question.difficulty = len(facts)
    return Quiz(first, asked, together=False, reply=welcome)


def _named(scene: Scene, shown: str) -> Question:
    if scene.zh:
        question = scene.dice.pick(("我叫什么名字？", "你记得我的名字吗？", "我是谁？"))
        return Question(question, (f"你叫{shown}。", f"你的名字是{shown}", shown, f"你是{shown}", f"记得，你叫{shown}"))
    question = scene.dice.pick(("What is my name?", "Do you remember my name?", "Who am I?"))
    answers = (f"Your name is {shown}.", f"You are {shown}", shown, f"Yes, your name is {shown}", f"You're {shown}")
    return Question(question, answers)


def _home(scene: Scene) -> tuple[str, Question]:
    country = scene.dice.often_early(scene.words.lexicon.countries)
    if scene.zh:
        told = f"我住在{country.zh}。"
        return told, Question("我住在哪里？", (f"你住在{country.zh}。", country.zh, f"在{country.zh}"))
    where = f"{country.article} {country.en}" if country.article else country.en
    told = f"I live in {where}."
    return told, Question("Where do I live?", (f"You live in {where}.", where, f"in {where}", country.en))


def _liking(scene: Scene) -> tuple[str, Question]:
    while True:
        thing = scene.thing(scene.words.edible)
        if scene.new("likes", thing.en):
            break
    plural = Phrase(thing, "bare", number=2)
    told = scene.g.sentence(scene.g.clause(Clause(I, LIKE, plural, tense="present")))
    truth = Clause(YOU, LIKE, plural, tense="present")
    return told, Question(scene.t("What do I like?", "我喜欢什么？"), answers(scene, truth, "o"))


def _pet(scene: Scene) -> tuple[str, Question]:
    pets = scene.words.remembered("pets", lambda: tuple(scene.words.lexicon.thing(en) for en in _PETS))
    pet = scene.dice.pick(pets)
    name = scene.word(scene.name())
    if scene.zh:
        told = f"我有一{pet.measure}{pet.zh}，叫{name}。"
        return told, Question(
            f"我的{pet.zh}叫什么名字？", (f"你的{pet.zh}叫{name}。", name, f"叫{name}", f"它叫{name}")
        )
    told = f"I have a {pet.en} called {name}."
    question = scene.dice.pick((f"What is my {pet.en} called?", f"What is the name of my {pet.en}?"))
    return told, Question(question, (f"Your {pet.en} is called {name}.", name, f"It is called {name}"))

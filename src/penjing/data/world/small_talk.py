"""Small talk: what people say first to an assistant, though nothing is asked in it that could be right or wrong.

user       Hi!
assistant  Hello! How can I help you?
user       Who are you?
assistant  I am Penjing, a small language model.
"""

from penjing.data.world.conversation import new_scene
from penjing.data.world.items import Message
from penjing.data.world.skills.dialogue import HELLO, TALK

_WELCOME = {
    "en": ("Hello! How can I help you?", "Hi! Nice to meet you."),
    "zh": ("你好！有什么可以帮你的吗？", "你好！很高兴认识你。"),
}
_GOODBYE = {
    "en": (("Goodbye!", "Goodbye! See you soon."), ("See you tomorrow!", "See you tomorrow!")),
    "zh": (("再见！", "再见！下次再聊。"), ("明天见！", "明天见！")),
}


def small_talk(seed: int, *, split: str = "train", language: str | None = None) -> tuple[Message, ...]:
    """One conversation of one to four turns that begins as people begin; arguments and errors as of `dialogue`."""
    scene = new_scene(seed, split, language, kind=1)
    dice, spoken = scene.dice, scene.language
    turns: list[tuple[str, str]] = []
    if dice.chance(0.7):
        hello = dice.pick(HELLO[spoken]) + dice.pick(("", ".", "!") if spoken == "en" else ("", "。", "！"))
        turns.append((hello, dice.pick(_WELCOME[spoken])))
    turns += dice.sample(TALK[spoken], dice.between(0 if turns else 1, 2))
    if dice.chance(0.3):
        turns.append(dice.pick(_GOODBYE[spoken]))
    return tuple(
        Message(role=role, content=content)
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    )

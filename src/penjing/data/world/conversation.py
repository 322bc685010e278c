"""Dialogues: a quiz as turns between a user and the assistant, and the check of an answer."""

import math
from collections.abc import Mapping

from penjing.data.world.dice import Dice
from penjing.data.world.encyclopedia import about, draw
from penjing.data.world.items import LANGUAGES, Item, Message, Skill, is_accepted
from penjing.data.world.knowledge import many
from penjing.data.world.quiz import Quiz
from penjing.data.world.scene import Scene
from penjing.data.world.skills import module, modules
from penjing.data.world.split import SPLITS, check_split
from penjing.errors import DataError, nearest

_SYSTEM = {
    "en": ("You are Penjing, a helpful assistant.", "You are a small language model. Answer briefly."),
    "zh": ("你是盆景，一个乐于助人的助手。", "你是一个小小的语言模型。请简短地回答。"),
}
_EXPLAIN = {
    "en": ("Tell me about {0}.", "What do you know about {0}?", "Please describe {0}."),
    "zh": ("给我讲讲{0}。", "关于{0}，你知道什么？", "请介绍一下{0}。"),
}


def skills() -> tuple[Skill, ...]:
    """Every skill, the easier half first."""
    return tuple(m.SKILL for m in modules().values())


def weights_of_skills(weights: Mapping[str, float]) -> dict[str, float]:
    """A weight for every skill: those of `weights`, and 1 for the others.

    Raises:
        DataError: a skill is unknown, a weight is negative, or all are 0.
    """
    for name, weight in weights.items():
        module(name)
        if not 0 <= weight < math.inf:
            raise DataError(f"the weight of the skill '{name}' is {weight}; it is a number from 0 on")
    complete = {name: float(weights.get(name, 1)) for name in modules()}
    if not any(complete.values()):
        raise DataError("every skill has the weight 0: there is nothing to talk about")
    return complete


def dialogue(
    seed: int,
    *,
    split: str = "train",
    language: str | None = None,
    skill: str | None = None,
    notes: bool = True,
    weights: Mapping[str, float] | None = None,
) -> Item:
    """One conversation that ends in an answer which can be checked; the same for the same arguments everywhere.

    Args:
        seed: any integer from 0 on.
        split: train, or heldout for items with names and combinations (some also with lengths) that training never has.
        language: en or zh; by default either, by the seed.
        skill: the name of a skill; by default any, by the seed.
        notes: whether answers that may be worked out begin with their notes.
        weights: of all skills, from `weights_of_skills`: how often each is drawn where `skill` is None; None: alike.

    Raises:
        DataError: the split, the language or the skill is unknown, or the seed is negative.
    """
    scene = new_scene(seed, split, language, kind=1, notes=notes)
    dice = scene.dice
    name = skill
    if name is None:
        name = dice.weighted(weights) if weights else dice.pick(tuple(modules()))
    x = dice.random()
    quiz = module(name).quiz(scene, 1 if x < 0.45 else 2 if x < 0.8 else 3)
    messages: list[Message] = []
    if dice.chance(0.08):
        messages.append(_message("system", dice.pick(_SYSTEM[scene.language])))
    given = _turns(messages, quiz, scene)
    last = quiz.questions[-1]
    return Item(
        skill=name,
        language=scene.language,
        difficulty=last.difficulty,
        messages=tuple(messages),
        given=given,
        accepts=last.accepts,
        worked=bool(last.steps),
        options=last.options,
        rule=last.rule,
        keys=tuple(scene.keys),
    )


def explanation(seed: int, *, split: str = "train", language: str | None = None) -> tuple[Message, ...]:
    """One conversation in which the user has things explained, one to three: knowledge, and no question of a skill.

    Arguments and errors are those of `dialogue`.
    """
    scene = new_scene(seed, split, language, kind=1)
    dice = scene.dice
    messages: list[Message] = []
    for _ in range(dice.between(1, 3)):
        thing = draw(scene)
        name = thing.zh if scene.zh else many(thing)
        messages.append(_message("user", dice.pick(_EXPLAIN[scene.language]).format(name)))
        messages.append(_message("assistant", about(scene, thing)))
    return tuple(messages)


def _turns(messages: list[Message], quiz: Quiz, scene: Scene) -> int:
    """Appends the quiz's turns; gives how many messages stand before the last answer."""
    told = quiz.told
    if told and not quiz.together:
        messages += [_message("user", told), _message("assistant", quiz.reply)]
        told = ""
    given = 0
    gap = "\n" if scene.dice.chance(0.3) else scene.g.SPACE
    for question in quiz.questions:
        messages.append(_message("user", told + gap + question.text if told else question.text))
        told = ""
        given = len(messages)
        messages += question.before
        # In the test only the last answer is a model's own; those before it give away no steps.
        plain = not scene.notes or (scene.testing and question is not quiz.questions[-1])
        messages.append(_message("assistant", question.accepts[0] if plain else question.worked(scene.g.SPACE)))
    return given


def check(item: Item, answer: str) -> bool:
    """Whether an answer to the item is exactly right (see `items`); `answer` is the assistant's final text."""
    own = getattr(module(item.skill), "check", None)
    return bool(own(item, answer)) if own is not None else is_accepted(item, answer)


def new_scene(seed: int, split: str, language: str | None, kind: int, notes: bool = True) -> Scene:
    """A scene whose dice depend on the seed, the split and the kind of thing to be made."""
    if seed < 0:
        raise DataError(f"the seed is {seed}; seeds of the world start at 0")
    dice = Dice((seed * len(SPLITS) + SPLITS.index(check_split(split))) * 2 + kind)
    if language is None:
        language = dice.pick(LANGUAGES)
    elif language not in LANGUAGES:
        raise DataError(f"the world does not speak '{language}'{nearest(language, LANGUAGES)}")
    return Scene(dice, split, language, notes)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}

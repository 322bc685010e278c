"""Documents: the same knowledge and abilities as running text, for pretraining.

A document is one of: a quiz told through (a text, then questions each with its answer, in one of several layouts);
what is true of a thing or a kind of thing; records to look things up in; a longer story of many verbs; sentences in
both languages side by side; rows of numbers, days and sums.
"""

from collections.abc import Callable
from functools import cache

from penjing.data.world.conversation import new_scene
from penjing.data.world.encyclopedia import entry
from penjing.data.world.quiz import Quiz
from penjing.data.world.records import record
from penjing.data.world.rows import parallel, row
from penjing.data.world.scene import Scene
from penjing.data.world.skills import modules
from penjing.data.world.stories import story

_MARKS = {"en": (("Question: ", "Answer: "), ("Q: ", "A: ")), "zh": (("问题：", "回答："), ("问：", "答："))}


def document(seed: int, *, split: str = "train", language: str | None = None, notes: bool = True) -> str:
    """One document of pretraining text; the same for the same arguments everywhere.

    Args:
        seed: any integer from 0 on.
        split: train, or heldout for text with held-out names and combinations.
        language: en or zh; by default either, by the seed.
        notes: whether answers that may be worked out begin with their notes.

    Raises:
        DataError: the split or the language is unknown, or the seed is negative.
    """
    scene = new_scene(seed, split, language, kind=0, notes=notes)
    return scene.dice.pick(_in_hundred())(scene)


@cache
def _in_hundred() -> tuple[Callable[[Scene], str], ...]:
    """Each kind of document as often as it comes in a hundred."""
    return tuple(kind for kind, share in _MIX for _ in range(share))


def _questions(scene: Scene) -> str:
    skill = scene.dice.pick(tuple(modules().values()))
    return told_through(scene, skill.quiz(scene, scene.dice.between(3, 5)))


def told_through(scene: Scene, quiz: Quiz) -> str:
    """A quiz as running text: plain, with marks for question and answer, or as talk."""
    dice = scene.dice
    x, space = dice.random(), scene.g.SPACE
    ask, reply = dice.pick(_MARKS[scene.language]) if x < 0.4 else ("", "")
    lines = [quiz.told] if quiz.told else []
    if quiz.reply:
        lines.append(quiz.reply)
    for q in quiz.questions:
        said = [m["content"] for m in q.before]
        answer = q.worked(space) if scene.notes else q.accepts[0]
        if x < 0.4 or said:
            lines += [ask + q.text, *said, reply + answer]
        else:
            lines.append(space.join([q.text, *said, answer]))
    return ("\n" if x < 0.75 or quiz.questions[0].before else scene.g.SPACE).join(lines)


_MIX: tuple[tuple[Callable[[Scene], str], int], ...] = (
    (_questions, 57),
    (record, 18),
    (entry, 11),
    (parallel, 8),
    (story, 3),
    (row, 3),
)
"""How many of a hundred documents are of each kind."""

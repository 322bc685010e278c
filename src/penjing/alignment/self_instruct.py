"""Self-instruct: a model thinks of new tasks by the example of some, and answers them.

    pool = seed tasks
    repeat:  show the model a few tasks of the pool (most of them written by people), ask for others
             keep those whose ROUGE-L with every task there is at most 0.7, and which a text alone can answer
             let the model answer each; the pair is a record, the task joins the pool

From 175 seeds GPT-3 came to 52,000 tasks, and tuned on them it answered people's own questions about as well as
InstructGPT of the time. What a small model makes of it is as good as the model.

Source: Wang et al., "Self-Instruct: Aligning Language Models with Self-Generated Instructions", 2022, arXiv:2212.10560,
section 2.
Departs from it: the model is one that chats, so answering needs no examples, and whether a task is a classification is
not asked; tasks without an input of their own, for each is one message.
"""

import random
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from penjing.alignment.asking import Asker
from penjing.alignment.building import Made
from penjing.data import conversations, messages
from penjing.data.languages import language_of
from penjing.data.order import key_of
from penjing.errors import DataError

VERSION = "self-instruct-1"
"""Of the words below, for provenance: another wording is another version."""
BY_PEOPLE, BY_MODEL, WANTED = 6, 2, 4
"""Tasks that are shown in a round, and how many are asked for."""
WORDS = {
    "English": (
        "Here are some tasks for an assistant that answers in text:\n\n{shown}\n\n"
        "Think of {wanted} new tasks that differ from these and from one another. Write each in a line of its own that "
        "begins with its number, and nothing else."
    ),
    "Chinese": (
        "下面是交给一个用文字回答的助手的一些任务：\n\n{shown}\n\n"
        "请想出{wanted}个新任务，彼此不同，也与上面的不同。每个任务单独一行，以编号开头，不要写别的内容。"
    ),
}
_NUMBERED = re.compile(r"^\s*\d{1,3}\s*[.)、．：:]\s*(?P<task>\S.*)$", re.MULTILINE)


class SelfInstruct:
    """Rounds without end, each with new tasks and their answers.

    Args:
        seeds: tasks that people wrote, with where each is from.
        seed: decides which tasks are shown.
    """

    version = VERSION

    def __init__(self, seeds: Sequence[tuple[str, str]], seed: int = 0):
        if not seeds:
            raise DataError("there are no seed tasks")
        self._seeds = list(seeds)
        self._seed = seed
        self.language = "Chinese" if language_of("\n".join(task for task, _ in seeds)) == "Chinese" else "English"

    @property
    def questions(self) -> list[str]:
        """The tasks that are there before the first round."""
        return [task for task, _ in self._seeds]

    @property
    def settings(self) -> dict[str, Any]:
        """What the rounds depend on: the tasks that people wrote."""
        return {"seeds": f"{key_of(*self.questions):016x}", "shown": self._seed}

    def units(self) -> Iterator[str]:
        """The rounds' names."""
        number = 0
        while True:
            number += 1
            yield f"round {number}"

    def make(self, unit: str, ask: Asker, before: Sequence[str]) -> Iterator[Made]:
        """New tasks, with a way to have each answered; `before` are the tasks that earlier rounds kept."""
        dice = random.Random(key_of(self._seed, "shown", unit))
        people = dice.sample(self._seeds, min(BY_PEOPLE, len(self._seeds)))
        own = dice.sample(list(before), min(BY_MODEL, len(before)))
        shown = [task for task, _ in people] + own
        dice.shuffle(shown)
        listed = "\n".join(f"{number}. {' '.join(task.split())}" for number, task in enumerate(shown, 1))
        said = ask(WORDS[self.language].format(shown=listed, wanted=WANTED), unit, "tasks")
        source = "; ".join(origin for _, origin in people)
        tasks = tasks_in(said.text)[:WANTED]
        if not tasks:
            yield Made("", source, said.fault if said.fault and said.fault != "not finished" else "no list of tasks")
        for number, task in enumerate(tasks):
            yield Made(task, source, answered=partial(ask, task, unit, number))


def tasks_in(text: str) -> list[str]:
    r"""The tasks of a numbered list.

    >>> tasks_in("Sure:\n1. Name a bird.\n2) 写一首诗。\n")
    ['Name a bird.', '写一首诗。']
    """
    return [match["task"].strip() for match in _NUMBERED.finditer(text)]


def seed_tasks(path: str | Path) -> list[tuple[str, str]]:
    """The tasks of a file of seeds: self-instruct's own (`instruction`, `instances`), or any conversations' questions.

    Raises:
        DataError: as of `conversations.read`.
    """
    first = next(messages.parsed(path, lambda _, __: lambda record, _: record), None)
    if first is not None and "instruction" in first and "instances" in first:
        return list(messages.parsed(path, lambda _, __: _seed_task))
    found = []
    for talk in conversations.read(path):
        question = next((message["content"] for message in talk.messages if message["role"] == "user"), "")
        if question.strip():
            found.append((question, talk.origin))
    return found


def are_seeds(path: str | Path) -> bool:
    """Whether a path looks like seed tasks and not like documents: its first record has an instruction or messages."""
    if not str(path).lower().removesuffix(".gz").removesuffix(".zst").endswith((".json", ".jsonl", ".ndjson")):
        return False
    first = next(messages.parsed(path, lambda _, __: lambda record, _: record), {})
    return any(name in first for name in ("instruction", "messages", "conversations"))


def _seed_task(record: dict[str, Any], where: str) -> tuple[str, str]:
    return messages.text(messages.field(record, "instruction", where), where, "instruction"), where

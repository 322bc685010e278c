"""Constitutional revision: a model finds fault with its own answer by a principle, and writes a better one.

    draft      the answer to a prompt
    repeat     draw a principle;  critique: how does the answer break it?   revision: the answer, rewritten
    records    prompt -> last revision                    to be tuned on
               prompt -> last revision over draft         a preference

People write a few principles and no answers. The paper does this to answers that do harm; any principle works ("say it
in one sentence", "do not make up facts"). A revision that is the draft again teaches nothing, and is counted.

Source: Bai et al., "Constitutional AI: Harmlessness from AI Feedback", 2022, arXiv:2212.08073, section 3.1.
Departs from it: one sentence is the principle of critique and revision alike; no examples are shown first; revisions
over drafts are preferences too, where the paper has pairs judged by a model (`judge` does that, by the same words).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penjing.alignment.asking import Asker
from penjing.alignment.judge import written
from penjing.data.conversations import Conversation
from penjing.data.languages import language_of
from penjing.data.order import key_of
from penjing.data.preferences import Comparison
from penjing.errors import DataError

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message

VERSION = "constitution-1"
"""Of the words below, for provenance: another wording is another version."""
CRITIQUE = {
    "English": (
        "{talk}\n\n[assistant]\n{answer}\n\nIn which way does the assistant's last answer not keep to this principle: "
        "{principle}\nSay it briefly."
    ),
    "Chinese": (
        "{talk}\n\n[assistant]\n{answer}\n\n助手的最后一个回答在哪些方面不符合这条原则：{principle}\n请简短说明。"
    ),
}
REVISION = {
    "English": (
        "{talk}\n\n[assistant]\n{answer}\n\nA critique of the last answer: {critique}\n\nWrite the answer anew so that "
        "it keeps to this principle: {principle}\nWrite the new answer alone."
    ),
    "Chinese": (
        "{talk}\n\n[assistant]\n{answer}\n\n对最后一个回答的批评：{critique}\n\n请改写这个回答，使它符合这条原则：{principle}\n"
        "只写新的回答。"
    ),
}


@dataclass(frozen=True)
class Revised:
    """An answer and what became of it."""

    prompt: "tuple[Message, ...]"
    draft: str
    steps: tuple[tuple[str, str, str], ...]
    """Principle, critique and revision, one after the other."""
    origin: str = ""

    @property
    def answer(self) -> str:
        """The last revision."""
        return self.steps[-1][2] if self.steps else self.draft

    @property
    def conversation(self) -> Conversation:
        """What to tune on."""
        return Conversation((*self.prompt, {"role": "assistant", "content": self.answer}), self.origin)

    @property
    def comparison(self) -> Comparison:
        """What is preferred to what."""
        better, worse = ({"role": "assistant", "content": text} for text in (self.answer, self.draft))
        return Comparison(self.prompt, (better,), (worse,), origin=self.origin)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Constitution:
    """Principles, and a model that revises its answers by them."""

    principles: tuple[str, ...]
    ask: Asker
    rounds: int = 1
    """How often an answer is revised, each time by another principle as long as there are some."""

    def __post_init__(self) -> None:
        if not self.principles:
            raise DataError("there are no principles to revise by")

    def revise(self, prompt: "Sequence[Message]", name: str) -> Revised | str:
        """The model's answer to a prompt and its revisions; or why there are none.

        `name` tells the prompt from others: principles and seeds follow from it.
        """
        draft = self.ask(prompt, name, "draft")
        if draft.fault:
            return f"draft {draft.fault}"
        talk = written(prompt)
        language = "Chinese" if language_of(talk) == "Chinese" else "English"
        order = random.Random(key_of(self.ask.seed, "principles", name)).sample(self.principles, len(self.principles))
        answer, steps = draft.text, []
        for number in range(self.rounds):
            known = {"talk": talk, "answer": answer, "principle": order[number % len(order)]}
            critique = self.ask(CRITIQUE[language].format(**known), name, "critique", number)
            if critique.fault:
                return f"critique {critique.fault}"
            revision = self.ask(REVISION[language].format(**known, critique=critique.text), name, "revision", number)
            if revision.fault:
                return f"revision {revision.fault}"
            steps.append((known["principle"], critique.text, revision.text))
            answer = revision.text
        if answer.strip() == draft.text.strip():
            return "unchanged"
        return Revised(tuple(prompt), draft.text, tuple(steps), name)

    @property
    def provenance(self) -> dict[str, Any]:
        """Who revised, and how, as JSON holds it."""
        return {"prompt": VERSION, **self.ask.provenance, "principles": list(self.principles), "rounds": self.rounds}


def read_principles(path: Path) -> tuple[str, ...]:
    """The principles in a text file: one a line; empty lines, and those that begin with #, are left out.

    Raises:
        DataError: it cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise DataError(f"{path} cannot be read as text: {getattr(fault, 'strerror', None) or fault}") from None
    found = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not found:
        raise DataError(f"{path} has no principles; write one a line")
    return found

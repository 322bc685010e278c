"""A model as judge: which of two answers is better, asked in both orders. Preferences from it are RLAIF's.

    first order     A: one, B: two    -> A, B or tie
    second order    A: two, B: one    -> A, B or tie

    both times the same answer        it is preferred
    each time another                 a tie: the judge went by the place
    a tie, and an answer              a tie
    no verdict to be read             no preference; counted

Judges like what they see first (or last), often more than what is better. Asked in both orders, that liking cancels: a
judge that always says A makes ties only. How often it said A of what it said at all is counted, one half being fair.

Sources: Lee et al., "RLAIF vs. RLHF: Scaling Reinforcement Learning from Human Feedback with AI Feedback", 2023,
arXiv:2309.00267, section 3.1 (position bias: section 3.1.1); Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and
Chatbot Arena", 2023, arXiv:2306.05685, section 3.4; principles for the judge: Bai et al., "Constitutional AI", 2022,
arXiv:2212.08073, section 4.1.
Departs from them: a verdict in words instead of the probabilities of A and B, as any `ChatModel` can give it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from penjing.alignment.asking import Asker
from penjing.data.languages import language_of
from penjing.data.preferences import Comparison

if TYPE_CHECKING:
    from penjing.tokenizer.chat import Message

VERSION = "judge-1"
"""Of the words below, for provenance: another wording is another version."""
WORDS = {
    "English": (
        "Which of two answers to this conversation is better{by}?\n\n{talk}\n\n"
        "[Answer A]\n{one}\n\n[Answer B]\n{two}\n\n"
        "Say which in the last line: A, B or tie, and nothing else in that line."
    ),
    "Chinese": (
        "对下面这段对话，两个回答哪个更好{by}？\n\n{talk}\n\n[回答A]\n{one}\n\n[回答B]\n{two}\n\n"
        "请在最后一行只写A、B或平。"
    ),
}
BY = {"English": " by these principles: {principles}", "Chinese": "（依据这些原则：{principles}）"}
_VERDICT = re.compile(
    r"\W*(?:(?:the )?(?:better|best|winner|verdict|choice|answer|更好的是|结论|选择|回答|答案)\W*(?:is\W*|是\W*)?)*"
    r"(?P<word>a|b|tie|draw|equal|平|平局|一样)\W*(?:is better\W*|更好\W*)?",
    re.IGNORECASE,
)
_TIES = frozenset({"tie", "draw", "equal", "平", "平局", "一样"})

Vote = Literal["A", "B", "tie"]


@dataclass(frozen=True)
class Verdict:
    """What a judge said of two answers."""

    votes: tuple[Vote | None, Vote | None]
    """In the given order, and in the other one; None: nothing that can be read."""

    @property
    def winner(self) -> int | None:
        """0 or 1 for the answer that was better in both orders; None where there is none."""
        return {("A", "B"): 0, ("B", "A"): 1}.get(self.votes)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """What it comes to: "decided", "tie", "by place" or "unclear"."""
        if None in self.votes:
            return "unclear"
        if self.winner is not None:
            return "decided"
        return "by place" if self.votes in (("A", "A"), ("B", "B")) else "tie"


@dataclass(frozen=True)
class Judge:
    """Compares answers by asking a model; at temperature 0 it says the same each time."""

    ask: Asker
    principles: tuple[str, ...] = ()
    """What an answer should be like; none: whatever the model thinks is better."""

    def compare(self, prompt: "Sequence[Message]", one: str, two: str, *name: str | int) -> Verdict:
        """The verdict on two answers to a conversation, asked for under a name that tells it from others."""
        votes = []
        for order, answers in enumerate(((one, two), (two, one))):
            said = self.ask(self._question(prompt, *answers), *name, "order", order)
            votes.append(None if said.fault else vote_in(said.text))
        return Verdict((votes[0], votes[1]))

    def preferences(
        self, prompt: "Sequence[Message]", answers: Sequence[str], name: str
    ) -> tuple[list[Comparison], dict[str, int]]:
        """The pairs of different answers on which a verdict was reached, and counts of how it went."""
        found: list[Comparison] = []
        counts = {"pairs": 0, "decided": 0, "tie": 0, "by place": 0, "unclear": 0, "votes for A": 0, "votes": 0}
        distinct = list(dict.fromkeys(answer.strip() for answer in answers))
        for one, two in combinations(range(len(distinct)), 2):
            verdict = self.compare(prompt, distinct[one], distinct[two], name, one, two)
            counts["pairs"] += 1
            counts[verdict.name] += 1
            counts["votes for A"] += verdict.votes.count("A")
            counts["votes"] += verdict.votes.count("A") + verdict.votes.count("B")
            if verdict.winner is not None:
                better, worse = (distinct[one], distinct[two])[:: 1 if verdict.winner == 0 else -1]
                found.append(Comparison(tuple(prompt), _said(better), _said(worse), origin=name))
        return found, counts

    @property
    def provenance(self) -> dict[str, Any]:
        """Who judged, and how, as JSON holds it."""
        return {"prompt": VERSION, **self.ask.provenance, "principles": list(self.principles)}

    def _question(self, prompt: "Sequence[Message]", one: str, two: str) -> str:
        talk = written(prompt)
        language = "Chinese" if language_of(talk) == "Chinese" else "English"
        by = BY[language].format(principles="; ".join(self.principles)) if self.principles else ""
        return WORDS[language].format(by=by, talk=talk, one=one, two=two)


def vote_in(text: str) -> Vote | None:
    r"""The verdict in the last line of what a judge said, or None.

    >>> vote_in("A is longer, and B is right.\nB"), vote_in("Better answer: **A**"), vote_in("I like both.")
    ('B', 'A', None)
    """
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    found = _VERDICT.fullmatch(line.strip())
    if found is None:
        return None
    word = found["word"].lower()
    if word in _TIES:
        return "tie"
    return "A" if word == "a" else "B"


def written(talk: "Sequence[Message]") -> str:
    """A conversation as text to be read by a judge."""
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in talk)


def _said(text: str) -> "tuple[Message, ...]":
    return ({"role": "assistant", "content": text},)

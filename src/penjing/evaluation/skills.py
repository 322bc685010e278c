"""What a model can do: the share of the generated world's held-out items that it answers exactly right, skill by skill.

Each skill is asked in each language, greedily, with the items that its own checker judges; names, combinations and
lengths are ones that training never had. Every share has Wilson's 95 % interval and the share that a guesser who
knows the form of the answers would get.

A chat model is asked through its chat template, and has the calculator. A base model has never seen that template; it
is asked as its pretraining text asks, and may answer a line:

    Question: Ann has 3 pears and eats one. How many are left?
    Answer:                                                           (in Chinese 问题： and 回答：)

This is kinder to it than chat tokens that it has never seen, and it measures the same knowledge; it has no tools.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from penjing.data.world import LANGUAGES, Item, Skill, calculator, check, dialogue
from penjing.data.world import skills as world_skills
from penjing.errors import GenerationError, nearest
from penjing.evaluation.statistics import Share
from penjing.inference.batch_chat import answer_all, continue_all
from penjing.inference.sampling import Sampling
from penjing.inference.text import encode_prompt
from penjing.inference.tools import CALL_OPEN

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer
    from penjing.tokenizer.chat import Message

LONGEST_ANSWER = 128
"""Tokens that a model may answer with, in each round of a tool call."""
_EXAMPLES = 2
"""How many right and how many wrong answers of each skill and language are kept."""
_PLAIN = {"en": ("Question: ", "Answer:"), "zh": ("问题：", "回答：")}


@dataclass(frozen=True)
class Example:
    """One item and what the model made of it."""

    skill: str
    language: str
    question: str
    """The conversation up to the answer, a message a line."""
    expected: str
    answer: str
    right: bool


@dataclass(frozen=True)
class SkillReport:
    """How a model did."""

    shares: dict[tuple[str, str], Share]
    """By skill and language."""
    easier: frozenset[str]
    """The skills of the easier half."""
    examples: tuple[Example, ...]
    """Some right and some wrong answers of each skill and language."""

    @property
    def overall(self) -> Share:
        """All items."""
        return self.of()

    @property
    def easy(self) -> Share:
        """The items of the easier half of the skills."""
        return self.of(easy=True)

    def of(self, *, skill: str | None = None, language: str | None = None, easy: bool = False) -> Share:
        """The items of a skill, of a language, of the easier half, or of any of these together."""
        chosen = (
            share
            for (its_skill, its_language), share in self.shares.items()
            if skill in (None, its_skill)
            and language in (None, its_language)
            and (its_skill in self.easier or not easy)
        )
        return sum(chosen, Share(0, 0))

    def to_dict(self) -> dict[str, Any]:
        """For report.json: `easy` and `overall`, the same by language, and each skill with its examples."""
        languages = list(dict.fromkeys(language for _, language in self.shares))
        names = list(dict.fromkeys(skill for skill, _ in self.shares))
        return {
            "easy": self.easy.accuracy,
            "overall": self.overall.accuracy,
            "chance": {"easy": self.easy.chance, "overall": self.overall.chance},
            "halves": {"easy": self.easy.to_dict(), "overall": self.overall.to_dict()},
            "languages": {
                language: {
                    "easy": self.of(language=language, easy=True).to_dict(),
                    "overall": self.of(language=language).to_dict(),
                }
                for language in languages
            },
            "skills": {
                name: {
                    "easy": name in self.easier,
                    **self.of(skill=name).to_dict(),
                    "languages": {language: self.shares[name, language].to_dict() for language in languages},
                    "examples": [vars(example) for example in self.examples if example.skill == name],
                }
                for name in names
            },
        }


def evaluate(
    model: "LanguageModel",
    tokenizer: "Tokenizer",
    *,
    items_per_skill: int = 40,
    split: str = "heldout",
    languages: Sequence[str] = LANGUAGES,
    skills: Sequence[str] | None = None,
    base: bool | None = None,
    batch: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> SkillReport:
    """Asks a model `items_per_skill` items of each skill in each language.

    Args:
        model: any language model; its evaluation mode is used.
        tokenizer: the model's.
        items_per_skill: how many items of each skill and language; the same ones every time.
        split: which items; "train" measures memory.
        languages: of "en" and "zh".
        skills: names; None: all.
        base: whether to ask as pretraining text asks; None: where the tokenizer has no chat template.
        batch: how many items are answered at once.
        progress: called with how many items are answered and how many there are.

    Raises:
        GenerationError: an unknown skill, or no items.
    """
    known = {skill.name: skill for skill in world_skills()}
    for name in skills or ():
        if name not in known:
            raise GenerationError(f"there is no skill '{name}'{nearest(name, known)}")
    if items_per_skill < 1:
        raise GenerationError(f"items_per_skill is {items_per_skill}; ask at least one")
    chosen = [known[name] for name in skills or known]
    items = [
        dialogue(seed, split=split, language=language, skill=skill.name)
        for skill in chosen
        for language in languages
        for seed in range(items_per_skill)
    ]
    base = tokenizer.chat is None if base is None else base
    answers: list[str] = []
    for start in range(0, len(items), 8 * batch):
        answers += _answers(model, tokenizer, items[start : start + 8 * batch], base, batch)
        if progress is not None:
            progress(len(answers), len(items))
    return _report(chosen, items, answers)


def _answers(
    model: "LanguageModel", tokenizer: "Tokenizer", items: Sequence[Item], base: bool, batch: int
) -> list[str]:
    if base:
        settings = Sampling(temperature=0, max_new_tokens=LONGEST_ANSWER, stop=("\n",))
        prompts = [encode_prompt(tokenizer, plain_prompt(item)) for item in items]
        return [text.strip() for text in continue_all(model, tokenizer, prompts, settings, batch=batch)]
    settings = Sampling(temperature=0, max_new_tokens=LONGEST_ANSWER)
    conversations = cast("list[list[Message]]", [list(item.prompt) for item in items])
    found = answer_all(model, tokenizer, conversations, settings, tools={"calculator": calculator}, batch=batch)
    return [_final(messages) for messages in found]


def _final(messages: "Sequence[Message]") -> str:
    """What the assistant said last; nothing where that is a call: to ask the calculator is not to answer."""
    last = messages[-1]
    return "" if last["role"] != "assistant" or CALL_OPEN in last["content"] else last["content"].strip()


def plain_prompt(item: Item) -> str:
    """An item as the world's pretraining text would ask it, up to where the answer goes.

    System messages are left out: they say nothing of the question.
    """
    question, answer = _PLAIN[item.language]
    gap = " " if item.language == "en" else ""
    lines = []
    for message in item.prompt:
        if message["role"] == "user":
            lines.append(question + message["content"])
        elif message["role"] == "assistant":
            lines.append(answer + gap + message["content"])
    return "\n".join([*lines, answer])


def _report(chosen: Sequence[Skill], items: Sequence[Item], answers: Sequence[str]) -> SkillReport:
    chances = {skill.name: skill.chance for skill in chosen}
    shares: dict[tuple[str, str], Share] = {}
    kept: dict[tuple[str, str, bool], list[Example]] = {}
    for item, answer in zip(items, answers, strict=True):
        right = check(item, answer)
        one = Share(int(right), 1, chances[item.skill])
        shares[item.skill, item.language] = shares.get((item.skill, item.language), Share(0, 0)) + one
        examples = kept.setdefault((item.skill, item.language, right), [])
        if len(examples) < _EXAMPLES:
            question = "\n".join(f"{message['role']}: {message['content']}" for message in item.prompt)
            examples.append(Example(item.skill, item.language, question, item.answer, answer, right))
    return SkillReport(
        shares,
        frozenset(skill.name for skill in chosen if skill.easy),
        tuple(example for examples in kept.values() for example in examples),
    )

"""Preferences and better answers out of the model's own: draw several, score them, learn from what differs.

    score      of each of n answers to a prompt, by a checker, a reward model or a judge
    pairs      the prompt's answers above its mean score, best first, over those below, worst first: for DPO
    best of n  the best answer as a conversation to learn from as it is: rejection sampling, for instruction tuning

Pairs of the model's own answers are on policy: what is pushed down is what the model would say. A prompt whose answers
are all alike teaches nothing and makes no pair. Answers that were cut where the tokens ran out are left out, for their
text does not end where they ended.

Source: best of n: Stiennon et al., "Learning to summarize from human feedback", 2020, arXiv:2009.01325, section 3.4;
rejection sampling: Touvron et al., "Llama 2", 2023, arXiv:2307.09288, section 3.2.3; pairs: Pang et al., "Iterative
Reasoning Preference Optimization", 2024, arXiv:2404.19733, section 2.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from penjing.alignment.rollouts import Rollout, Rollouts
from penjing.data.conversations import Conversation
from penjing.data.order import key_of
from penjing.data.preferences import Comparison
from penjing.data.world import LANGUAGES, Item, check, dialogue
from penjing.errors import DataError

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer
    from penjing.tokenizer.chat import Message

_TOGETHER = 64
"""Prompts whose answers are drawn at once."""


@dataclass(frozen=True)
class Sampled:
    """A prompt, answers to it, and what each is worth."""

    prompt: "tuple[Message, ...]"
    answers: "tuple[tuple[Message, ...], ...]"
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """What an answer is worth on average; 0 where there is none."""
        return sum(self.scores) / len(self.scores) if self.scores else 0.0


def sample(
    model: "LanguageModel",
    tokenizer: "Tokenizer",
    prompts: "Sequence[Sequence[Message]]",
    score: Callable[[int, Rollout], float],
    *,
    rollouts: Rollouts,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Sampled]:
    """Draws answers to each prompt and scores them; in the prompts' order.

    Args:
        model: who answers.
        tokenizer: its tokenizer, with a chat template.
        prompts: conversations, each up to where the assistant is to answer.
        score: what an answer to the prompt of that number is worth.
        rollouts: how many answers, and how they are drawn.
        seed: the same one draws the same answers.
        progress: called with how many prompts are done and how many there are.

    Raises:
        GenerationError: there is no chat template, or a prompt leaves no room for an answer.
    """
    found: list[Sampled] = []
    for start in range(0, len(prompts), _TOGETHER):
        part = prompts[start : start + _TOGETHER]
        seeds = [key_of(seed, "sampled", number) for number in range(start, start + len(part))]
        for number, drawn in enumerate(rollouts.draw(model, tokenizer, part, seeds), start):
            kept = [one for one in drawn if not one.truncated]
            answers, scores = (tuple(one.messages for one in kept), tuple(score(number, one) for one in kept))
            found.append(Sampled(tuple(prompts[number]), answers, scores))
        if progress is not None:
            progress(len(found), len(prompts))
    return found


def pairs_of(sampled: Iterable[Sampled], most: int = 1) -> list[Comparison]:
    """Of each prompt up to `most` different pairs of a better and a worse answer; their margins are of the scores."""
    pairs: list[Comparison] = []
    for number, one in enumerate(sampled):
        places = sorted(range(len(one.scores)), key=lambda place: -one.scores[place])  # ties in the order of the draw
        better = [place for place in places if one.scores[place] > one.mean]
        worse = [place for place in reversed(places) if one.scores[place] < one.mean]
        here: list[Comparison] = []
        for turn in range(max(len(better), len(worse)) if better else 0):
            high, low = better[turn % len(better)], worse[turn % len(worse)]
            margin = one.scores[high] - one.scores[low]
            pair = Comparison(one.prompt, one.answers[high], one.answers[low], margin, f"prompt {number}")
            if pair not in here and len(here) < most:
                here.append(pair)
        pairs += here
    return pairs


def best_of(sampled: Iterable[Sampled], least: float) -> list[Conversation]:
    """Each prompt with its best answer, where that is worth at least so much; of equal ones the first drawn."""
    found = []
    for number, one in enumerate(sampled):
        if one.scores and max(one.scores) >= least:
            best = one.answers[one.scores.index(max(one.scores))]
            found.append(Conversation((*one.prompt, *best), f"prompt {number}"))
    return found


def world_items(
    count: int,
    *,
    seed: int = 0,
    split: str = "train",
    skills: Sequence[str] = (),
    languages: Sequence[str] = LANGUAGES,
    notes: bool = True,
) -> list[Item]:
    """Items of the generated world, skills and languages in turn; by default any skill.

    Args:
        count: how many.
        seed: which: the items of seeds from `seed` on.
        split: train or heldout.
        skills: their names.
        languages: of en and zh.
        notes: whether answers in the prompts begin with notes.

    Raises:
        DataError: an unknown skill or language, or there are no languages.
    """
    if not languages:
        raise DataError("items need a language")
    return [
        dialogue(
            seed + number,
            split=split,
            language=languages[number % len(languages)],
            skill=skills[number // len(languages) % len(skills)] if skills else None,
            notes=notes,
        )
        for number in range(count)
    ]


def checked(items: Sequence[Item]) -> Callable[[int, Rollout], float]:
    """The score of an answer to one of the world's items: 1 if it is exactly right, else 0."""
    return lambda number, answer: float(check(items[number], answer.text))


def prompts_of(items: Sequence[Item]) -> "list[list[Message]]":
    """What a model is asked in the world's items."""
    return [cast("list[Message]", list(item.prompt)) for item in items]

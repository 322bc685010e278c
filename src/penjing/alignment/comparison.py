"""Assistants side by side: the same questions to each, their answers checked, and who wins how often.

    share of right answers        with Wilson's 95 % interval
    win rate                      (wins + ties / 2) / questions, against a baseline's answer to the same question
    KL(assistant || baseline)     mean over its own answers of  sum_t log p(y_t) - log p_baseline(y_t),   nats an answer

An answer wins if it is right and the baseline's is wrong, or by whatever score it is given. The win rate's interval is
a bootstrap over questions, because the two answers to one question belong together: Efron, "Bootstrap Methods", 1979.
The divergence is measured on answers drawn at temperature 1, where that mean is an unbiased estimate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from penjing.alignment.batch import AnswerBatch, pack
from penjing.alignment.log_probs import answer_log_probs
from penjing.alignment.rollouts import Rollouts
from penjing.data.order import key_of
from penjing.data.world import Item, calculator, check
from penjing.errors import ConfigError, GenerationError
from penjing.evaluation.statistics import Share
from penjing.inference.batch_chat import answer_all
from penjing.inference.sampling import Sampling
from penjing.nn.mode import evaluation_mode

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel
    from penjing.tokenizer import Tokenizer
    from penjing.tokenizer.chat import ChatTokens, Message

_RESAMPLES = 2000
_ROWS = 16  # answers of a pass that measures the divergence


@dataclass(frozen=True)
class WinRate:
    """How often one assistant's answer is better than another's."""

    wins: int
    losses: int
    ties: int
    low: float
    high: float
    """The 95 % interval of the rate."""

    @property
    def rate(self) -> float:
        """A tie counts as half a win."""
        return (self.wins + self.ties / 2) / (self.wins + self.losses + self.ties)

    def to_dict(self) -> dict[str, Any]:
        """For reports."""
        return {"rate": self.rate, **vars(self)}


def win_rate(scores: Sequence[float], baseline: Sequence[float], seed: int = 0) -> WinRate:
    """Compares scores question by question.

    Raises:
        ConfigError: there are no questions, or not the same number of both.
    """
    if not scores or len(scores) != len(baseline):
        raise ConfigError(f"{len(scores)} scores and {len(baseline)} of the baseline: they go in pairs")
    difference = np.sign(np.array(scores, dtype=np.float64) - np.array(baseline, dtype=np.float64))
    points = (difference + 1) / 2
    dice = np.random.default_rng(seed)
    means = points[dice.integers(len(points), size=(_RESAMPLES, len(points)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    wins, losses, ties = (int((difference == sign).sum()) for sign in (1, -1, 0))
    return WinRate(wins, losses, ties, float(low), float(high))


@dataclass(frozen=True)
class Answered:
    """One assistant's answers to the questions."""

    name: str
    answers: tuple[str, ...]
    right: tuple[bool, ...]

    @property
    def share(self) -> Share:
        """How many are right."""
        return Share(sum(self.right), len(self.right))


def answered(
    name: str, model: "LanguageModel", tokenizer: "Tokenizer", items: Sequence[Item], *, max_new_tokens: int = 128
) -> Answered:
    """Asks an assistant the items' questions, greedily, with the calculator at hand.

    Raises:
        GenerationError: there is no chat template, or there are no items.
    """
    if not items:
        raise GenerationError("there are no questions to ask")
    sampling = Sampling(temperature=0, max_new_tokens=max_new_tokens)
    prompts = cast("list[list[Message]]", [list(item.prompt) for item in items])
    found = answer_all(model, tokenizer, prompts, sampling, tools={"calculator": calculator})
    answers = tuple(messages[-1]["content"].strip() for messages in found)
    return Answered(name, answers, tuple(check(item, text) for item, text in zip(items, answers, strict=True)))


def divergence(
    model: "LanguageModel", baseline: "LanguageModel", tokenizer: "Tokenizer", items: Sequence[Item], *, seed: int = 0
) -> tuple[float, float]:
    """KL(model || baseline) of whole answers, estimated on one drawn from the model for each question; nats an answer.

    Returns:
        The mean and its standard error.

    Raises:
        GenerationError: the two models or the tokenizer do not fit together.
    """
    if tokenizer.chat is None or model.config.vocab != baseline.config.vocab:
        raise GenerationError("both models need one vocabulary, and a chat template to be asked by")
    rollouts = Rollouts(n=1, tools={"calculator": calculator})
    prompts = cast("list[list[Message]]", [list(item.prompt) for item in items])
    drawn = rollouts.draw(model, tokenizer, prompts, [key_of(seed, number) for number in range(len(prompts))])
    answers = [group[0].tokens for group in drawn]
    fitting = [answer for answer in answers if len(answer.ids) <= baseline.config.context]
    if not fitting:
        raise GenerationError("no answer is short enough for the baseline to read")
    differences: list[float] = []
    with torch.inference_mode(), evaluation_mode(model), evaluation_mode(baseline):
        for start in range(0, len(fitting), _ROWS):
            differences += _log_ratios(model, baseline, fitting[start : start + _ROWS])
    values = np.array(differences)
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def _log_ratios(model: "LanguageModel", baseline: "LanguageModel", answers: "Sequence[ChatTokens]") -> list[float]:
    """Log p_model - log p_baseline of each answer."""
    batch = pack(answers, AnswerBatch).to(model.embedding.weight.device)
    ratios = answer_log_probs(model, batch)[0] - answer_log_probs(baseline, batch)[0]
    sums: list[float] = batch.per_answer(ratios).tolist()
    return sums


def side_by_side(items: Sequence[Item], assistants: Sequence[Answered], count: int) -> str:
    """A page of questions with everyone's answers: first those on which they do not agree, as Markdown."""
    order = sorted(range(len(items)), key=lambda n: len({one.right[n] for one in assistants}) == 1)
    parts = []
    for number in order[:count]:
        item = items[number]
        question = "\n".join(f"> **{message['role']}**: {_line(message['content'])}  " for message in item.prompt)
        answers = "\n".join(
            f"- {'✓' if one.right[number] else '✗'} **{one.name}**: {_line(one.answers[number])}" for one in assistants
        )
        parts.append(f"### {item.skill} ({item.language})\n\n{question}\n\n{answers}\n- wanted: {_line(item.answer)}\n")
    return "\n".join(parts)


def accuracies(assistants: Sequence[Answered], items: Sequence[Item]) -> Mapping[str, Mapping[str, Share]]:
    """Of each assistant, the share of right answers to each skill's items."""
    skills = list(dict.fromkeys(item.skill for item in items))
    return {
        one.name: {
            skill: sum(
                (Share(int(right), 1) for right, item in zip(one.right, items, strict=True) if item.skill == skill),
                Share(0, 0),
            )
            for skill in skills
        }
        for one in assistants
    }


def _line(text: str) -> str:
    return " ".join(text.split())

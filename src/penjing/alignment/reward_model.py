r"""Reward models: a score for every answer, learned from which of two answers people preferred.

Bradley and Terry's model says how likely one answer is preferred to another, given their scores:

    P(a preferred to b) = sigmoid(r(x, a) - r(x, b))

and the loss is what the observed preferences have against it. Of K answers to a prompt that were ranked, all pairs are
learned from in one batch, where each answer is read once, and count as one prompt:

    loss = -1 / pairs  sum over pairs of  log sigmoid(r(x, better) - r(x, worse) - margin)

averaged over prompts. Learned pair by pair, each answer would be seen K - 1 times an epoch, and a model overfits in
one. Two answers that are equally good are no pair; what is left of a prompt's K (K - 1) / 2 pairs is averaged.

The loss knows differences only, so scores may lie anywhere. Two ways to bring them to 0: `centre` adds
centre * (r(x, better) + r(x, worse))^2 to each pair's loss, and `ScoredModel.offset` takes the mean score of reference
answers away when training is over.

Sources: Ouyang et al., "Training language models to follow instructions with human feedback", 2022, arXiv:2203.02155,
section 3.5, equation 1, and appendix C.2 (all pairs of a prompt in one batch; a bias so that demonstrations score 0 on
average); Touvron et al., "Llama 2", 2023, arXiv:2307.09288, equation 2 (margin); Eisenstein et al., "Helping or
Herding?", 2023, arXiv:2312.09244, section 2 (centring).
Departs from the first: a prompt of which some pairs are ties is divided by the pairs that are left, so that each prompt
counts the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from penjing.alignment.batch import AnswerBatch, pack
from penjing.alignment.scores import answer_scores, score_all, whole
from penjing.errors import ConfigError, DataError
from penjing.tokenizer.chat import ChatTokens
from penjing.training.objectives import Loss

if TYPE_CHECKING:
    from penjing.models.scored import ScoredModel


@dataclass(frozen=True)
class Ranked:
    """Answers to one prompt and how good each is."""

    answers: tuple[ChatTokens, ...]
    """Whole conversations, the prompt included."""
    ranks: tuple[float, ...]
    """The higher, the better; two alike are not compared."""
    margin: float = 0.0
    """How far apart the scores of two answers should be, at least."""

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The numbers of the better and of the worse answer of each pair."""
        ordered = combinations(range(len(self.answers)), 2)
        found = (pair if self.ranks[pair[0]] > self.ranks[pair[1]] else pair[::-1] for pair in ordered)
        return [(better, worse) for better, worse in found if self.ranks[better] != self.ranks[worse]]


@dataclass(frozen=True)
class ComparisonBatch(AnswerBatch):
    """Answers and which is preferred to which."""

    better: Int[Tensor, " pairs"] | None = None
    """The number of the better answer of each pair."""
    worse: Int[Tensor, " pairs"] | None = None
    share: Float[Tensor, " pairs"] | None = None
    """What each pair counts: 1 over the pairs of its prompt."""
    margins: Float[Tensor, " pairs"] | None = None
    prompts: int = 0


def pack_ranked(items: Sequence[Ranked], *, origin: str = "", row: int | None = None) -> ComparisonBatch:
    """A batch of all pairs of some prompts, each answer in it once.

    Raises:
        DataError: the answers of a prompt are all alike, or cannot be packed.
    """
    better, worse, share, margins = [], [], [], []
    answers: list[ChatTokens] = []
    for number, item in enumerate(items):
        pairs = item.pairs
        if not pairs:
            raise DataError(
                f"the answers to prompt {number} are all equally good{f' ({origin})' if origin else ''}; "
                "leave such prompts out"
            )
        better += [len(answers) + pair[0] for pair in pairs]
        worse += [len(answers) + pair[1] for pair in pairs]
        share += [1 / len(pairs)] * len(pairs)
        margins += [item.margin] * len(pairs)
        answers += [whole(answer) for answer in item.answers]
    return pack(
        answers,
        ComparisonBatch,
        origin=origin,
        row=row,
        better=torch.tensor(better),
        worse=torch.tensor(worse),
        share=torch.tensor(share),
        margins=torch.tensor(margins),
        prompts=len(items),
    )


@dataclass(frozen=True)
class BradleyTerry:
    """The objective: a mean over prompts. Batches are `ComparisonBatch`es, the model a `ScoredModel`.

    Raises:
        ConfigError: `centre` is negative.
    """

    centre: float = 0.0
    """What the squared sum of a pair's scores adds to its loss."""

    def __post_init__(self) -> None:
        if self.centre < 0:
            raise ConfigError(f"centre is {self.centre}; it must not be negative")

    def __call__(self, model: "ScoredModel", batch: ComparisonBatch) -> Loss:
        """The loss; `accuracy` counts a pair of equal scores as half right."""
        assert batch.better is not None
        assert batch.worse is not None
        assert batch.share is not None
        assert batch.margins is not None
        scores = answer_scores(model, batch)  # (answers,)
        better, worse = scores[batch.better], scores[batch.worse]  # (pairs,)
        losses = preference_loss(better, worse, batch.margins)
        if self.centre:
            losses = losses + self.centre * (better + worse).square()
        with torch.no_grad():
            share, spread = batch.share, scores.std(correction=0) if batch.answers > 1 else scores.new_zeros(())
            right = (better > worse).float() + 0.5 * (better == worse).float()
            sums = [(share * right).sum(), (share * (better - worse)).sum(), (share * (better + worse) / 2).sum()]
            found = torch.stack([*sums, spread * batch.prompts]).tolist()
        names = ("accuracy", "margin", "score", "score_spread")
        return Loss((batch.share * losses).sum(), batch.prompts, dict(zip(names, found, strict=True)))


def preference_loss(
    better: Float[Tensor, " pairs"], worse: Float[Tensor, " pairs"], margins: Float[Tensor, " pairs"] | float = 0.0
) -> Float[Tensor, " pairs"]:
    """What each observed preference has against the scores, in nats: ln 2 where they are equal."""
    return -F.logsigmoid(better - worse - margins)


def differences(model: "ScoredModel", items: Sequence[Ranked]) -> Float[Tensor, " pairs"]:
    """How much higher the better answer of each pair is scored, over all prompts; positive where the model is right."""
    scores = score_all(model, [answer for item in items for answer in item.answers])
    found, start = [], 0
    for item in items:
        found += [scores[start + better] - scores[start + worse] for better, worse in item.pairs]
        start += len(item.answers)
    return torch.stack(found) if found else torch.empty(0)


def mean_loss(model: "ScoredModel", batches: Iterable[ComparisonBatch]) -> dict[str, float]:
    """Loss, accuracy and margin over held-out batches: means over prompts."""
    objective, sums, prompts = BradleyTerry(), dict[str, float](), 0
    device = model.embedding.weight.device
    for batch in batches:
        with torch.no_grad():
            loss = objective(model, batch.to(device))
        for name, value in {"loss": float(loss.total), **loss.metrics}.items():
            sums[name] = sums.get(name, 0.0) + value
        prompts += loss.weight
    return {name: value / prompts for name, value in sums.items()}


def centred_on(model: "ScoredModel", reference: Sequence[ChatTokens]) -> None:
    """Sets the model's offset, so that reference answers are rewarded with 0 on average.

    Raises:
        DataError: there are none.
    """
    if not reference:
        raise DataError("there are no reference answers to centre the scores on")
    model.offset = float(score_all(model, reference).double().mean())


def rewards_of(model: "ScoredModel", answers: Sequence[ChatTokens]) -> Float[Tensor, " answers"]:
    """The rewards of answers: their scores less the model's offset."""
    return score_all(model, answers) - model.offset

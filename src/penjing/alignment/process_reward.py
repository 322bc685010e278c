r"""Process rewards: a score for each step of a solution, read at the step's last token.

    P(step k is right) = sigmoid(score at the end of step k),      loss = cross-entropy of each judged step

An outcome reward judges a solution by its end, and praises wrong steps that happen to end well; judging each step says
where it went wrong, and lets a search leave a bad beginning. A label may be 1 or 0, or how often continuations from
there ended well. A whole solution is worth the product of its steps' probabilities, or the least of them.

Sources: Lightman et al., "Let's Verify Step by Step", 2023, arXiv:2305.20050, section 2.6 (a prediction at each step's
last token; the product); Wang et al., "Math-Shepherd", 2023, arXiv:2312.08935, section 3 (labels from continuations,
the least).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from penjing.alignment.batch import AnswerBatch, pack
from penjing.alignment.scores import whole
from penjing.errors import DataError
from penjing.nn.mode import evaluation_mode
from penjing.tokenizer.chat import ChatTokens
from penjing.training.objectives import Loss

if TYPE_CHECKING:
    from penjing.models.scored import ScoredModel
    from penjing.tokenizer import Tokenizer


@dataclass(frozen=True)
class Steps:
    """A solution, and what is known of its steps."""

    tokens: ChatTokens
    labels: tuple[float | None, ...]
    """Of each of the assistant's tokens: how right the step is that it ends, from 0 to 1; None where no judged step
    ends."""


@dataclass(frozen=True)
class StepBatch(AnswerBatch):
    """Solutions whose steps are judged."""

    labels: Float[Tensor, " counted"] | None = None
    """NaN where no judged step ends."""


def step_ends(tokenizer: "Tokenizer", answer: ChatTokens, separator: str = "\n") -> list[int]:
    """Which of the assistant's tokens end a step: those with a separator in what they spell, and the last one."""
    said = [number for number, counts in zip(answer.ids, answer.mask, strict=True) if counts]
    mark = separator.encode()
    found = [place for place, number in enumerate(said) if mark in tokenizer.token_bytes(number)]
    return sorted({*found, len(said) - 1})


def labelled(tokenizer: "Tokenizer", answer: ChatTokens, labels: Sequence[float], separator: str = "\n") -> Steps:
    """A solution whose steps have labels, first to last.

    Raises:
        DataError: it has another number of steps, or a label is not from 0 to 1.
    """
    places = step_ends(tokenizer, answer, separator)
    if len(places) != len(labels):
        raise DataError(f"a solution of {len(places)} steps has {len(labels)} labels")
    if not all(0 <= label <= 1 for label in labels):
        raise DataError(f"the labels of steps are {list(labels)}; they are from 0 (wrong) to 1 (right)")
    known = dict(zip(places, labels, strict=True))
    return Steps(answer, tuple(known.get(place) for place in range(sum(answer.mask))))


def pack_steps(items: Sequence[Steps], *, origin: str = "", row: int | None = None) -> StepBatch:
    """A batch of solutions.

    Raises:
        DataError: a solution cannot be packed, or has not one label, or None, for each of the assistant's tokens.
    """
    for number, item in enumerate(items):
        if len(item.labels) != sum(item.tokens.mask[1:]):
            raise DataError(f"solution {number} has {len(item.labels)} labels for {sum(item.tokens.mask[1:])} tokens")
    batch = pack([whole(item.tokens) for item in items], StepBatch, origin=origin, row=row)
    labels = [torch.tensor([torch.nan if label is None else label for label in item.labels]) for item in items]
    return replace(batch, labels=batch.spread(labels))


def step_cross_entropy(model: "ScoredModel", batch: StepBatch) -> Loss:
    """The objective: a mean over judged steps, in nats."""
    scores, labels = step_scores(model, batch)
    losses = F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="none")
    with torch.no_grad():
        right = float(((scores > 0) == (labels > 0.5)).sum())
    return Loss(losses.sum(), len(labels), {"accuracy": right})


def step_scores(model: "ScoredModel", batch: StepBatch) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
    """The score and the label of each judged step, in the order of the batch."""
    assert batch.labels is not None
    judged = ~batch.labels.isnan()
    places = batch.counted[judged] + 1  # the token itself, not what predicts it
    return model.scores(batch.tokens, places, batch.positions, batch.documents), batch.labels[judged]


@torch.no_grad()
def solution_reward(
    model: "ScoredModel", items: Sequence[Steps], by: Literal["product", "minimum"] = "product"
) -> Float[Tensor, " answers"]:
    """What each solution's steps are worth together, from 0 to 1. What labels say does not matter, but where they are
    does.
    """
    found = []
    with evaluation_mode(model):
        for item in items:
            scores, _ = step_scores(model, pack_steps([item]).to(model.embedding.weight.device))
            chances = scores.sigmoid()
            found.append(chances.prod() if by == "product" else chances.min())
    return torch.stack(found).cpu()

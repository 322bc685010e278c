"""Scores of packed answers: one at each answer's last token, or one for each token.

    reward of an answer        read at its last token, the end of the turn as a rule:  r(prompt, answer)
    value of a text so far     read where the next token is predicted:                 V(prompt, answer up to there)
    score of a step            read at the step's last token

The packing of answers keeps what predicts a token, so the last token itself is in it only where another one follows.
`whole` sees to that: it cuts a conversation after the assistant's last token and puts one after it that nobody reads.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from penjing.alignment.batch import AnswerBatch, pack
from penjing.nn.mode import evaluation_mode
from penjing.tokenizer.chat import ChatTokens

if TYPE_CHECKING:
    from penjing.models.scored import ScoredModel

_TOKENS = 1 << 14
"""Tokens that are scored at once where no gradient is kept, about."""


def whole(answer: ChatTokens) -> ChatTokens:
    """The conversation up to the assistant's last token, and one token after it that stands for nothing."""
    end = len(answer.mask) - answer.mask[::-1].index(True) if True in answer.mask else len(answer.mask)
    return ChatTokens([*answer.ids[:end], 0], [*answer.mask[:end], False])


def ends(batch: AnswerBatch) -> Int[Tensor, " answers"]:
    """Where each answer's last token is, as a place in the flattened batch. Answers are `whole`."""
    assert batch.owner is not None
    last = batch.counted.new_zeros(batch.answers).scatter_reduce(0, batch.owner, batch.counted, "amax")
    return last + 1  # it is predicted at the place before


def answer_scores(model: "ScoredModel", batch: AnswerBatch) -> Float[Tensor, " answers"]:
    """The score of each answer, at its last token. Answers are `whole`."""
    return model.scores(batch.tokens, ends(batch), batch.positions, batch.documents)


def token_values(model: "ScoredModel", batch: AnswerBatch) -> Float[Tensor, " counted"]:
    """The score of what stands before each counted token."""
    return model.scores(batch.tokens, batch.counted, batch.positions, batch.documents)


@torch.no_grad()
def score_all(model: "ScoredModel", answers: Sequence[ChatTokens]) -> Float[Tensor, " answers"]:
    """The scores of any number of answers, without a gradient; on the CPU. Answers need not be `whole`."""
    found = torch.empty(len(answers))
    order = sorted(range(len(answers)), key=lambda number: len(answers[number].ids))  # little padding
    with evaluation_mode(model):
        while order:
            taken, tokens = 0, 0
            while taken < len(order) and (not taken or tokens + len(answers[order[taken]].ids) <= _TOKENS):
                tokens += len(answers[order[taken]].ids)
                taken += 1
            numbers, order = order[:taken], order[taken:]
            batch = pack([whole(answers[number]) for number in numbers], AnswerBatch)
            found[numbers] = answer_scores(model, batch.to(model.embedding.weight.device)).float().cpu()
    return found

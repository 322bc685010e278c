"""Answers as training sees them: whole conversations, packed into rows, and whose each counted prediction is.

Alignment learns from answers, not from text: a pair of which one is preferred, a group that was drawn from one prompt.
An answer is a conversation as ids and a mask of what counts, the assistant's tokens (`ChatTokens`). Several share a
row, by best fit, and attention never crosses from one to the next, so nothing is computed on padding:

    tokens   p p a a a | p a a .        p: prompt, a: the assistant's
    owner        0 0 0     1 1          of each counted prediction, in the order of the flattened rows

Whatever is computed for each counted prediction (a log-probability, an advantage) is a vector in that order;
`per_answer` adds it up. So nothing depends on which answers stand beside one another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from penjing.data.batch import TokenBatch
from penjing.data.packing import best_fit
from penjing.errors import DataError
from penjing.tokenizer.chat import ChatTokens

B = TypeVar("B", bound="AnswerBatch")


@dataclass(frozen=True)
class AnswerBatch(TokenBatch):
    """Packed answers. What a method needs of them besides is in classes made from this one.

    Tensors of subclasses are moved with the others, whatever their names.
    """

    owner: Int[Tensor, " counted"] | None = None
    """Which answer each counted prediction is of; the order is that of `counted`."""
    answers: int = 0
    """How many answers there are."""

    def to(self: B, device: torch.device | str) -> B:
        """The same batch on another device."""
        return _moved(self, lambda tensor: tensor.to(device, non_blocking=True))

    def per_answer(self, values: Float[Tensor, " counted"]) -> Float[Tensor, " answers"]:
        """The sum of what was computed for each counted prediction, answer by answer."""
        assert self.owner is not None
        return values.new_zeros(self.answers).index_add(0, self.owner, values)

    def spread(self, values: Sequence[Tensor]) -> Tensor:
        """What is known of each answer's counted predictions, answer by answer, in the order of the batch."""
        assert self.owner is not None
        places = torch.argsort(self.owner, stable=True)  # of each answer's first prediction, second, ...
        together = torch.cat(list(values))
        return torch.empty_like(together).index_copy(0, places, together)

    @property
    def lengths(self) -> Int[Tensor, " answers"]:
        """How many predictions of each answer count."""
        assert self.owner is not None
        return torch.bincount(self.owner, minlength=self.answers)


def pack(answers: Sequence[ChatTokens], kind: type[B], *, origin: str = "", row: int | None = None, **more: Any) -> B:
    """A batch of answers.

    Args:
        answers: whole conversations; at least one of each one's tokens, its first aside, is the assistant's.
        kind: the class of the batch.
        origin: where they come from, for error messages.
        row: tokens of a row; by default as many as the longest answer needs.
        more: what the class has besides, given as it is.

    Raises:
        DataError: there is nothing to pack, or an answer is longer than a row or has nothing that counts.
    """
    lengths = [len(answer.ids) - 1 for answer in answers]  # the last token is predicted, but no input
    for number, answer in enumerate(answers):
        if not any(answer.mask[1:]):
            raise DataError(f"answer {number} has no token of the assistant's{f' ({origin})' if origin else ''}")
        if row is not None and lengths[number] > row:
            raise DataError(f"answer {number} has {lengths[number] + 1} tokens; a row has room for {row + 1}")
    if not answers:
        raise DataError("there are no answers to pack")
    width = max(lengths) if row is None else row
    rows = best_fit(lengths, width)
    order = np.fromiter(chain.from_iterable(rows), np.int64, len(answers))  # answers as they stand in the rows
    members = np.array([len(row) for row in rows])
    sizes = np.array(lengths)[order]
    before, first = np.cumsum(sizes) - sizes, np.cumsum(members) - members  # tokens before, and each row's first answer
    row_of = np.repeat(np.arange(len(rows)), members)
    starts = row_of * width + before - before[first][row_of]
    whose = np.repeat(np.arange(len(order)), sizes)  # of each input token, its answer's place in `order`
    within = np.arange(len(whose)) - before[whose]
    places, tokens_at = starts[whose] + within, np.arange(len(whose)) + whose  # one token of each is no input
    ids = np.fromiter(chain.from_iterable(answers[member].ids for member in order), np.int64)
    counts = np.fromiter(chain.from_iterable(answers[member].mask for member in order), np.bool_)

    def laid_out(values: NDArray[Any], empty: int) -> Tensor:
        flat = np.full(len(rows) * width, empty, dtype=np.int64)
        flat[places] = values
        return torch.from_numpy(flat).view(len(rows), width)

    owners = laid_out(np.where(counts[tokens_at + 1], order[whose], -1), -1)  # of all predictions
    plain = bool((members == 1).all() and (sizes == width).all())
    return kind(
        laid_out(ids[tokens_at], 0),
        laid_out(ids[tokens_at + 1], 0),
        owners >= 0,
        None if plain else laid_out(within, 0),
        None if plain else laid_out((np.arange(len(order)) - first[row_of])[whose], -1),
        origin,
        owner=owners[owners >= 0],
        answers=len(answers),
        **more,
    )


def _moved(batch: B, move: Callable[[Tensor], Tensor]) -> B:
    values: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    values = {name: move(value) if isinstance(value, Tensor) else value for name, value in values.items()}
    moved = type(batch)(**values)
    moved.__dict__["counted"] = move(batch.counted)  # found where the mask is: asking a GPU would wait for it
    return moved

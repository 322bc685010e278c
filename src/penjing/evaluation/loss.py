"""The mean loss over given batches: what training looks at to see whether it still learns."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from penjing.data.batch import TokenBatch
from penjing.errors import DataError
from penjing.nn.mode import evaluation_mode
from penjing.training.objectives import next_token

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel


@runtime_checkable
class Spread(Protocol):
    """A model that several processes hold together."""

    def summed_loss(self, batches: Iterable[TokenBatch]) -> tuple[float, int]:
        """The loss summed over batches that every process is given whole, and the weight of the sum."""


def mean_loss(model: "LanguageModel | Spread", batches: Iterable[TokenBatch]) -> float:
    """Nats a token over all counted predictions of the batches, in the model's evaluation mode.

    Raises:
        DataError: no prediction counts.
    """
    total, weight = 0.0, 0
    if isinstance(model, Spread):
        total, weight = model.summed_loss(batches)
    else:
        with torch.inference_mode(), evaluation_mode(model):
            for batch in batches:
                loss = next_token(model, batch.to(model.embedding.weight.device))
                total, weight = total + float(loss.total), weight + loss.weight
    if not weight:
        raise DataError("there is nothing to validate on: no prediction counts")
    return total / weight

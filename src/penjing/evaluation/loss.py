"""The mean loss over given batches: what training looks at to see whether it still learns."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from penjing.data.batch import TokenBatch
from penjing.errors import DataError
from penjing.training.objectives import next_token

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel


def mean_loss(model: "LanguageModel", batches: Iterable[TokenBatch]) -> float:
    """Nats a token over all counted predictions of the batches, in the model's evaluation mode.

    Raises:
        DataError: no prediction counts.
    """
    device, training = model.embedding.weight.device, model.training
    total, weight = 0.0, 0
    model.eval()
    with torch.inference_mode():
        for batch in batches:
            loss = next_token(model, batch.to(device))
            total, weight = total + float(loss.total), weight + loss.weight
    model.train(training)
    if not weight:
        raise DataError("there is nothing to validate on: no prediction counts")
    return total / weight

"""Objectives: functions `(model, batch) -> Loss`. The Trainer does the rest.

A loss is a *sum* and the weight that it is a sum over, so that any number of micro-batches, of any lengths, adds up to
exactly the mean over one large batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from penjing.data.batch import TokenBatch
from penjing.nn.cross_entropy import cross_entropy

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel


@dataclass(frozen=True)
class Loss:
    """A summed loss and what it is summed over."""

    total: Float[Tensor, ""]
    """The sum over what counts, in nats (or the objective's own unit); differentiable."""
    weight: int
    """How many things (tokens, pairs) the sum runs over."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Further sums over the same things, logged as means."""


Objective = Callable[[Any, Any], Loss]


@runtime_checkable
class Prepares(Protocol):
    """An objective that must know something of all of a step's batches before the first gradient is computed.

    So what a micro-batch's loss is need not depend on how the step was cut into micro-batches.
    """

    def prepare(self, model: Any, batches: Sequence[Any]) -> Sequence[Any]:
        """The same batches with what it found, without a gradient."""


def next_token(model: "LanguageModel", batch: TokenBatch) -> Loss:
    """Cross-entropy of each token given those before it in its document, in nats."""
    counted = batch.counted if batch.weight < batch.mask.numel() else None
    hidden = model.hidden(batch.tokens, batch.positions, batch.documents, wanted=counted)
    targets = batch.targets if counted is None else batch.targets.flatten()[counted]
    return Loss(cross_entropy(hidden, model.head, targets), batch.weight)

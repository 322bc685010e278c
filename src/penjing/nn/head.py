"""The output head: a score for every token of the vocabulary.

    logits = W h + b,   or softcap * tanh(logits / softcap) when they are kept within a bound

Source of the bound: Gemma Team, "Gemma 2", 2024, arXiv:2408.00118, section 2.
"""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from penjing.nn.linear import Linear


class Share(Protocol):
    """The part of a vocabulary that this process has, where several divide it; what they find is put together."""

    first: int
    """The first token id of the part; the weight's rows tell how many there are."""

    def largest(self, numbers: Tensor) -> Tensor:
        """The largest of all processes' numbers, place by place; may overwrite."""

    def total(self, numbers: Tensor) -> Tensor:
        """Their sum; may overwrite."""


def cap(logits: Tensor, softcap: float | None) -> Tensor:
    """Keeps logits within (-softcap, softcap), smoothly."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


class Head(Linear):
    """Logits of hidden vectors. Shapes: `(..., width)` to `(..., vocab)`, float32 whatever the weights are.

    A tied head has the token embedding's parameter as its weight.
    """

    share: Share | None = None
    """Set where the weight is a part of the vocabulary's."""

    def __init__(self, width: int, vocab: int, *, bias: bool = False, softcap: float | None = None):
        super().__init__(width, vocab, bias=bias)
        self.softcap = softcap

    def forward(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        """Logits in float32 (float64 for a float64 model)."""
        logits = super().forward(hidden)
        return cap(logits if logits.dtype == torch.float64 else logits.float(), self.softcap)

"""What may be done to a step's logits before a token is drawn: penalties, temperature, and three ways to cut the tail.

Each is a pure function of `(batch, vocab)` logits. They are applied in this order, which is also transformers':

    repetition -> presence, frequency -> temperature -> top-k -> top-p -> min-p

so penalties see the model's own logits, and each cut sees the distribution that the steps before it left. A token
that is cut has the logit -inf; a logit that is already -inf stays so. The most probable token is never cut.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penjing.errors import GenerationError

Logits = Float[Tensor, "batch vocab"]

_SHORTLIST = 512
"""How many of the most probable tokens `top_p` looks at before it sorts the whole vocabulary (30 times as slow)."""


DAMAGED = "the model's logits are not finite: its weights are damaged, or overflow in this precision"


def check_finite(largest: Float[Tensor, " batch"]) -> None:
    """Refuses a step in which a row's largest logit is no number that a token can be chosen by.

    Raises:
        GenerationError: one is NaN or infinite.
    """
    if not all(map(math.isfinite, largest.tolist())):
        raise GenerationError(DAMAGED)


def repetition_penalty(logits: Logits, seen: Bool[Tensor, "batch vocab"], penalty: float) -> Logits:
    """Divides a seen token's positive logit by `penalty`, multiplies a negative one by it.

    Source: Keskar et al., "CTRL", 2019, arXiv:1909.05858, section 4.1. The paper divides every logit, which would
    make a token with a negative logit *more* probable; like transformers we multiply there.

    Args:
        logits: the step's logits.
        seen: which tokens stand in the row's prompt or in what it has generated.
        penalty: above 1 discourages repetition, below 1 encourages it.
    """
    penalized = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, penalized, logits)


def count_penalties(
    logits: Logits, counts: Int[Tensor, "batch vocab"], presence: float = 0.0, frequency: float = 0.0
) -> Logits:
    """Lowers a token's logit by `presence` once and by `frequency` for each time that it was generated.

        logit[j] - presence * (count[j] > 0) - frequency * count[j]

    Source: OpenAI API reference, "Frequency and presence penalties". Counts are of generated tokens,
    not of the prompt's.
    """
    return logits - presence * (counts > 0) - frequency * counts


def temperature(logits: Logits, value: float) -> Logits:
    """Divides by `value` > 0: below 1 sharpens the distribution, above 1 flattens it."""
    return logits / max(value, torch.finfo(logits.dtype).tiny)


def top_k(logits: Logits, k: int) -> Logits:
    """Keeps the `k` largest logits of each row, and all that equal the smallest of them.

    Source: Fan, Lewis, Dauphin, "Hierarchical Neural Story Generation", 2018, arXiv:1805.04833, section 5.4.
    """
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def top_p(logits: Logits, p: float) -> Logits:
    """Keeps the smallest set of most probable tokens that holds at least the probability `p`: the nucleus.

    A token is kept when those more probable than it hold less than `p`. Tokens that equal the least probable of the
    nucleus are kept with it, as in `top_k`; transformers keeps some of them, which ones its sort decides.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019, arXiv:1904.09751, section 3.1.
    """
    total = logits.logsumexp(dim=-1, keepdim=True)  # (batch, 1)
    values = logits.topk(min(_SHORTLIST, logits.shape[-1]), dim=-1).values  # (batch, shortlist), falling
    mass = (values - total).exp()
    if values.shape[-1] < logits.shape[-1] and bool((mass.sum(dim=-1) < p).any()):
        values = logits.sort(dim=-1, descending=True).values  # (batch, vocab)
        mass = (values - total).exp()
    before = mass.cumsum(dim=-1) - mass
    least = values.masked_fill(before >= p, math.inf).amin(dim=-1, keepdim=True)
    return logits.masked_fill(logits < least, -math.inf)


def min_p(logits: Logits, p: float) -> Logits:
    """Keeps the tokens at least `p` times as probable as the most probable one.

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling", 2024, arXiv:2407.01082, section 3. Written with
    logits: the ratio of two probabilities is the exponential of the difference of their logits.
    """
    least = logits.amax(dim=-1, keepdim=True) + math.log(p)
    return logits.masked_fill(logits < least, -math.inf)


def draw(logits: Logits, uniforms: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Draws a token of each row by inverting its cumulative distribution at that row's number in [0, 1).

    One number a row, so that a row's draw depends on nothing but its own logits and its own number.
    """
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1, dtype=wide)  # (batch, vocab)
    total = cumulative[:, -1:].contiguous()
    chosen = torch.searchsorted(cumulative, uniforms[:, None].to(wide) * total, right=True)
    last = torch.searchsorted(cumulative, total)  # the last token with any probability, should rounding go past it
    return torch.minimum(chosen, last)[:, 0]

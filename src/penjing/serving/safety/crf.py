r"""A linear-chain conditional random field: one label for each token, the best row of labels, not a row of best labels.

    score(y | x) = sum over t  e[t, y_t]  +  sum over t > 0  A[y_{t-1}, y_t]           e: emissions, A: transitions
    p(y | x)     = exp(score(y | x) - log Z),         log Z = log of the sum over all labels^length rows of exp(score)

The sum has too many terms to write down, and needs none of them: what is left of a row depends on its past only through
the last label. With every prefix that ends in label k gathered in one number (and every suffix in another),

    forward   a[t, k] = e[t, k] + log sum_j exp(a[t-1, j] + A[j, k])                 log Z = log sum_k exp(a[last, k])
    backward  b[t, j] = log sum_k exp(A[j, k] + e[t+1, k] + b[t+1, k])
    marginals p(y_t = k) = exp(a[t, k] + b[t, k] - log Z)
              p(y_t = j, y_{t+1} = k) = exp(a[t, j] + A[j, k] + e[t+1, k] + b[t+1, k] - log Z)
    Viterbi   the forward pass with max in the place of log-sum-exp, and the way back remembered

The gradient of log Z is these marginals: of an emission the first, of a transition the second summed over places. So
`log_partition` brings its own backward pass, and autograd need not remember what the recursion did.

Sources: Lafferty, McCallum, Pereira, "Conditional Random Fields", 2001, section 3; Rabiner, "A Tutorial on Hidden
Markov Models", 1989, section III (forward-backward, Viterbi), here in logarithms, of scores that need not sum to one.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penjing.errors import ConfigError

NEVER = -1e4
"""The score of what cannot be: far below any other, and no infinity, whose difference with itself is no number."""


def row_scores(
    emissions: Float[Tensor, "rows time labels"],
    transitions: Float[Tensor, "labels labels"],
    mask: Bool[Tensor, "rows time"],
    labels: Int[Tensor, "rows time"],
) -> Float[Tensor, " rows"]:
    """The score of a given row of labels; what the mask leaves out, which is at a row's end, counts nothing."""
    own = emissions.gather(2, labels[:, :, None])[:, :, 0] * mask  # (rows, time)
    steps = transitions[labels[:, :-1], labels[:, 1:]] * mask[:, 1:]  # (rows, time - 1)
    return own.sum(1) + steps.sum(1)


def log_partition(
    emissions: Float[Tensor, "rows time labels"],
    transitions: Float[Tensor, "labels labels"],
    mask: Bool[Tensor, "rows time"],
) -> Float[Tensor, " rows"]:
    """Log Z of each row, in nats; its gradient is the marginals.

    Raises:
        ConfigError: a row has no token.
    """
    if not bool(mask[:, :1].all()) or mask.shape[1] == 0:
        raise ConfigError("a row without tokens has no labels: leave it out")
    found: Tensor = _LogPartition.apply(emissions, transitions, mask)
    return found


def marginals(
    emissions: Float[Tensor, "rows time labels"],
    transitions: Float[Tensor, "labels labels"],
    mask: Bool[Tensor, "rows time"],
) -> Float[Tensor, "rows time labels"]:
    """Each label's probability at each place, all rows of labels considered; zeros where the mask leaves out."""
    alphas, log_z = _forward(emissions, transitions, mask)
    return _marginals(alphas, _backward(emissions, transitions, mask), log_z, mask)


def viterbi(emissions: Float[np.ndarray, "time labels"], transitions: Float[np.ndarray, "labels labels"]) -> list[int]:
    """The row of labels with the highest score; of equal ones, that with the lower numbers from its end on."""
    if len(emissions) == 0:
        return []
    best, ways = emissions[0], []
    for row in emissions[1:]:
        through = best[:, None] + transitions  # (from, to)
        way = through.argmax(0)
        ways.append(way)
        best = through[way, np.arange(len(way))] + row
    labels = [int(best.argmax())]
    for way in reversed(ways):
        labels.append(int(way[labels[-1]]))
    return labels[::-1]


class _LogPartition(torch.autograd.Function):
    """log Z, and the marginals as its gradient."""

    @staticmethod
    def forward(ctx: Any, emissions: Tensor, transitions: Tensor, mask: Tensor) -> Tensor:
        alphas, log_z = _forward(emissions, transitions, mask)
        ctx.save_for_backward(emissions, transitions, mask, alphas, log_z)
        return log_z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        emissions, transitions, mask, alphas, log_z = ctx.saved_tensors
        betas = _backward(emissions, transitions, mask)
        of_emissions = _marginals(alphas, betas, log_z, mask) * grads[0][:, None, None]
        after = emissions[:, 1:] + betas[:, 1:] - log_z[:, None, None]  # (rows, time - 1, labels)
        pairs = (alphas[:, :-1, :, None] + transitions + after[:, :, None, :]).exp()  # (rows, time - 1, from, to)
        weights = (mask[:, 1:] * grads[0][:, None])[:, :, None, None]
        return of_emissions, (pairs * weights).sum((0, 1)), None


def _forward(emissions: Tensor, transitions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """a[t, k] and log Z; past a row's end a stays as it was there."""
    alpha, alphas = emissions[:, 0], [emissions[:, 0]]
    for time in range(1, emissions.shape[1]):
        further = torch.logsumexp(alpha[:, :, None] + transitions, 1) + emissions[:, time]
        alpha = torch.where(mask[:, time, None], further, alpha)
        alphas.append(alpha)
    return torch.stack(alphas, 1), torch.logsumexp(alpha, 1)


def _backward(emissions: Tensor, transitions: Tensor, mask: Tensor) -> Tensor:
    """b[t, j]; zeros from a row's last token on."""
    beta = torch.zeros_like(emissions[:, 0])
    betas = [beta]
    for time in range(emissions.shape[1] - 1, 0, -1):
        further = torch.logsumexp(transitions + (emissions[:, time] + beta)[:, None, :], 2)
        beta = torch.where(mask[:, time, None], further, beta)
        betas.append(beta)
    return torch.stack(betas[::-1], 1)


def _marginals(alphas: Tensor, betas: Tensor, log_z: Tensor, mask: Tensor) -> Tensor:
    return (alphas + betas - log_z[:, None, None]).exp() * mask[:, :, None]

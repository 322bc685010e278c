"""Muon: momentum, orthogonalized. Every direction of a weight matrix gets an equally large step.

A gradient matrix of a transformer is nearly of low rank: a few directions carry almost all of it and the rest hardly
learn. Muon replaces the momentum M = U S V^T by U V^T, all of whose singular values are 1:

    B <- mu B + (1 - mu) G                     momentum
    M  = (1 - mu) G + mu B                     Nesterov's look ahead
    O  = NewtonSchulz(M), about U V^T          a few matrix products, no decomposition
    W <- W - lr decay W - lr 0.2 sqrt(max(rows, columns)) O

Newton-Schulz applies an odd polynomial p(x) = a x + b x^3 + c x^5 to all singular values, five times. Its coefficients
are chosen to lift small values fast rather than to converge: they end anywhere in 0.7 to 1.2, which is good enough.
With `polynomials` = "minimax" each iteration has its own: the one that moves what the ones before have left as near 1
as any can. Three of these do for training what five of the fixed one do, and on a CPU their time is felt.

O has entries of size 1/sqrt(max(rows, columns)), so with the factor above an update's root mean square is 0.2, about
that of AdamW: learning rates of the two are comparable. Embeddings, the head, norms and biases are not maps
between hidden vectors, and are left to AdamW, inside this one optimizer.

Sources: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, a web page at
kellerjordan.github.io/posts/muon; the scale: Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982,
section 2.2; minimax: Amsel et al., "The Polar Express", 2025, arXiv:2505.16932, sections 3 and 4.
Departs from them: matrices of one shape are orthogonalized in one batched product, tall ones as their transposes; long
ones in float32 by their Gram matrices; and for minimax the matrix is first divided by its Schatten 4-norm, which is as
safe as its Frobenius norm, lies nearer to its largest singular value, and costs nothing, for X X^T is needed anyway.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from penjing.device import PRECISIONS, choose_precision
from penjing.errors import ConfigError, nearest
from penjing.training.adamw import AdamW, adamw_step, check_rates, trainable
from penjing.training.weights import local, piece_of, whole

Polynomial = tuple[float, float, float]

COEFFICIENTS: Polynomial = (3.4445, -4.7750, 2.0315)
"""a, b, c of the fixed polynomial."""

MINIMAX: Mapping[int, tuple[float, tuple[Polynomial, ...]]] = {
    3: (
        0.02,
        (
            (7.71096925, -22.11375479, 16.24874302),
            (3.21527602, -2.41117204, 0.50130002),
            (2.21830785, -1.59398972, 0.41074790),
        ),
    ),
    4: (
        0.005,
        (
            (8.29870349, -24.43049815, 18.09030419),
            (3.91522099, -2.92113025, 0.55922326),
            (3.17460378, -2.38043293, 0.49782640),
            (2.18946299, -1.56722082, 0.40788717),
        ),
    ),
    5: (
        0.001,
        (
            (8.47032880, -25.10807471, 18.62927560),
            (4.18283422, -3.10870114, 0.58060668),
            (3.96185796, -2.95406423, 0.56297617),
            (3.28658815, -2.46472158, 0.50735786),
            (2.27375170, -1.64466191, 0.41619109),
        ),
    ),
}
"""By number of iterations: the least singular value that ends near 1, within 0.12, and a, b, c of each iteration."""

_POLYNOMIALS = ("fixed", "minimax")
_LONG = 1.5  # columns for each row from which on Gram matrices take fewer products


class Muon(torch.optim.Optimizer):
    """Muon over hidden matrices and AdamW over the rest, by the groups that `Muon.Config.build` makes."""

    @dataclass(frozen=True)
    class Config:
        """What Muon can be told."""

        learning_rate: float = 5e-3
        """The peak for hidden matrices; the schedule scales it."""
        momentum: float = 0.95
        """How slowly the momentum moves."""
        weight_decay: float = 0.1
        """How fast hidden matrices shrink, per unit of learning rate."""
        iterations: int = 5
        """Newton-Schulz iterations; fewer are faster and less exact."""
        polynomials: str = "fixed"
        """What they apply: "fixed", one polynomial; or "minimax", for each of 3, 4 or 5 iterations the best one."""
        precision: str = "auto"
        """What Newton-Schulz computes in: "fp32", "bf16", or "auto" for what measures faster. Momentum is fp32."""
        adamw: AdamW.Config = field(default_factory=lambda: AdamW.Config(learning_rate=5e-3))
        """For embeddings, head, norms and biases."""
        rates: Mapping[str, float] | None = None
        """Factors on the learning rates of single hidden matrices, by name; others have 1. Decay stays as it is."""

        def __post_init__(self) -> None:
            check_rates(self.rates)
            if self.learning_rate < 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1 or self.iterations < 1:
                raise ConfigError(
                    "Muon's learning_rate and weight_decay must not be negative, "
                    "its momentum lies in 0 to below 1, its iterations are at least 1"
                )
            if self.precision not in PRECISIONS:
                raise ConfigError(f"Muon's precision is '{self.precision}'{nearest(self.precision, PRECISIONS)}")
            polynomials_of(self.polynomials, self.iterations)

        def build(self, model: nn.Module, parameters: dict[str, Tensor] | None = None) -> "Muon":
            """Muon over a model's trainable parameters, or over stand-ins for them of the same names.

            The model is asked only which of its parameters are hidden matrices.
            """
            named = parameters or trainable(model)
            hidden = hidden_matrices(model) & named.keys()
            groups = self.adamw.groups((name, p) for name, p in named.items() if name not in hidden)
            by_rate: dict[float, list[Tensor]] = defaultdict(list)
            for name, parameter in named.items():
                if name in hidden:
                    by_rate[(self.rates or {}).get(name, 1.0)].append(parameter)
            muons = [
                {
                    "params": members,
                    "method": "muon",
                    "lr": self.learning_rate * factor,
                    "peak": self.learning_rate * factor,
                    "momentum": self.momentum,
                    "weight_decay": self.weight_decay / factor,
                    "iterations": self.iterations,
                    "polynomials": self.polynomials,
                    "dtype": choose_precision(self.precision, members[0].device)[0],
                }
                for factor, members in by_rate.items()
            ]
            return Muon(muons + groups)

    def __init__(self, groups: list[dict[str, Any]]):
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            if group["method"] == "muon":
                _muon_step(group, self.state)
            else:
                adamw_step(group, self.state)


def _muon_step(group: dict[str, Any], state: dict[Any, dict[str, Tensor]]) -> None:
    by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    for parameter in group["params"]:
        if parameter.grad is not None:
            if not state[parameter]:
                state[parameter]["momentum"] = torch.zeros_like(parameter)
            by_shape[min(parameter.shape), max(parameter.shape)].append(parameter)
    for shape, parameters in by_shape.items():
        stack = torch.empty(len(parameters), *shape, dtype=group["dtype"], device=parameters[0].device)
        for wide, parameter in zip(stack, parameters, strict=True):
            assert parameter.grad is not None
            gradient = local(parameter.grad)
            momentum = local(state[parameter]["momentum"]).lerp_(gradient, 1 - group["momentum"])
            wide.copy_(_wide(whole(torch.lerp(gradient, momentum, group["momentum"]), like=parameter)))
        directions = orthogonalize(
            stack, group["iterations"], group.get("polynomials", "fixed")
        )  # (matrices, short side, long side)
        step = -group["lr"] * update_scale(*shape)
        for direction, parameter in zip(directions, parameters, strict=True):
            direction = direction if parameter.shape == shape else direction.mT
            own = local(parameter).mul_(1 - group["lr"] * group["weight_decay"])
            own.add_(piece_of(direction, like=parameter), alpha=step)


def orthogonalize(
    matrices: Float[Tensor, "count rows columns"], iterations: int = 5, polynomials: str = "fixed"
) -> Float[Tensor, "count rows columns"]:
    """Each matrix with all of its singular values moved near 1, in the matrices' own dtype; rows <= columns."""
    steps = polynomials_of(polynomials, iterations)
    if polynomials == "minimax":
        gram = matrices @ matrices.mT  # (count, rows, rows); its norm is the Schatten 4-norm, squared
        size = gram.norm(dim=(-2, -1), keepdim=True).sqrt() * 1.01  # rounding must lift no singular value above 1
    else:
        size = matrices.norm(dim=(-2, -1), keepdim=True)
    x = matrices / size.clamp(min=1e-7)  # no singular value above 1
    if matrices.dtype.itemsize >= 4 and x.shape[-1] > _LONG * x.shape[-2]:
        return _by_gram(x, steps)
    for a, b, c in steps:
        gram = x @ x.mT  # (count, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(
    x: Float[Tensor, "count rows columns"], steps: Sequence[Polynomial]
) -> Float[Tensor, "count rows columns"]:
    """The same by products of rows x rows alone, but for the first and the last.

    An iteration is X <- Q X with Q = a + b G + c G^2 and G = X X^T, so G <- Q G Q; the Qs are polynomials of one matrix
    and commute. In bfloat16 G's small eigenvalues, the squares of X's singular values, would be lost.
    """
    gram = x @ x.mT
    whole: Tensor | None = None
    for number, (a, b, c) in enumerate(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        whole = factor if whole is None else factor @ whole
        if number + 1 < len(steps):
            gram = factor @ (factor @ gram)
    return x if whole is None else whole @ x


def polynomials_of(kind: str, iterations: int) -> Sequence[Polynomial]:
    """Each iteration's a, b, c.

    Raises:
        ConfigError: there are no such polynomials, or minimax ones for another number of iterations.
    """
    if kind == "fixed":
        return [COEFFICIENTS] * iterations
    if kind not in _POLYNOMIALS:
        raise ConfigError(f"Muon's polynomials are '{kind}'{nearest(kind, _POLYNOMIALS)}")
    if iterations not in MINIMAX:
        raise ConfigError(
            f"Muon has minimax polynomials for {', '.join(map(str, MINIMAX))} iterations, not {iterations}"
        )
    return MINIMAX[iterations][1]


def update_scale(rows: int, columns: int) -> float:
    """What an orthogonalized update is multiplied by, besides the learning rate: its root mean square becomes 0.2."""
    return 0.2 * max(rows, columns) ** 0.5


def hidden_matrices(model: nn.Module) -> set[str]:
    """Names of the matrices that map hidden vectors to hidden vectors: all but embeddings and the head."""
    lookups = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = getattr(model, "head", None)
    if isinstance(head, nn.Module):
        lookups |= {id(parameter) for parameter in head.parameters()}
    return {name for name, p in model.named_parameters() if p.ndim == 2 and id(p) not in lookups}


def _wide(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "short long"]:
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix

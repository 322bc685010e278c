"""Muon: momentum, orthogonalized. Every direction of a weight matrix gets an equally large step.

A gradient matrix of a transformer is nearly of low rank: a few directions carry almost all of it and the rest hardly
learn. Muon replaces the momentum M = U S V^T by U V^T, all of whose singular values are 1:

    B <- mu B + (1 - mu) G                     momentum
    M  = (1 - mu) G + mu B                     Nesterov's look ahead
    O  = NewtonSchulz(M), about U V^T          a few matrix products, no decomposition
    W <- W - lr decay W - lr 0.2 sqrt(max(rows, columns)) O

Newton-Schulz applies an odd polynomial p(x) = a x + b x^3 + c x^5 to all singular values, five times. Its coefficients
are chosen to lift small values fast rather than to converge: they end anywhere in 0.7 to 1.2, which is good enough.

O has entries of size 1/sqrt(max(rows, columns)), so with the factor above an update's root mean square is 0.2, about
that of AdamW: learning rates of the two are comparable. Embeddings, the head, norms and biases are not maps
between hidden vectors, and are left to AdamW, inside this one optimizer.

Sources: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, a web page at
kellerjordan.github.io/posts/muon; the scale: Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982,
section 2.2.
Departs from them: matrices of one shape are orthogonalized in one batched product, tall ones as their transposes.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from penjing.device import PRECISIONS, choose_precision
from penjing.errors import ConfigError, nearest
from penjing.training.adamw import AdamW, adamw_step, check_rates, trainable
from penjing.training.weights import local, piece_of, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the polynomial."""


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
        directions = orthogonalize(stack, group["iterations"])  # (matrices, short side, long side)
        step = -group["lr"] * update_scale(*shape)
        for direction, parameter in zip(directions, parameters, strict=True):
            direction = direction if parameter.shape == shape else direction.mT
            own = local(parameter).mul_(1 - group["lr"] * group["weight_decay"])
            own.add_(piece_of(direction, like=parameter), alpha=step)


def orthogonalize(
    matrices: Float[Tensor, "count rows columns"], iterations: int = 5
) -> Float[Tensor, "count rows columns"]:
    """Each matrix with all of its singular values moved near 1, in the matrices' own dtype; rows <= columns."""
    a, b, c = COEFFICIENTS
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(iterations):
        gram = x @ x.mT  # (count, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


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

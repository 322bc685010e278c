"""PPO's optimizer: AdamW with a learning rate of its own for the value network, and a running average of the policy.

    average <- decay * average + (1 - decay) * weight          after each step, of the policy's weights

The average is a part of the optimizer's state, float32 whatever layers compute in, so checkpoints hold it and a resumed
run goes on with it. It is often a little better than the last weights, whose steps are noisy.

Source: Ouyang et al., "Training language models to follow instructions with human feedback", 2022, arXiv:2203.02155,
appendix C.4 (a decay of 0.992, learning rates of policy and value network apart).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import CheckpointError, ConfigError
from penjing.models.language_model import LanguageModel
from penjing.training.adamw import AdamW, trainable
from penjing.training.saving import holding
from penjing.training.tensor_files import read_tensors

_POLICY, _VALUE, _AVERAGE = "policy.", "value.", "average"


class PPOOptimizer(AdamW):
    """AdamW that averages the policy's weights."""

    @dataclass(frozen=True)
    class Config(AdamW.Config):
        """What it can be told."""

        weight_decay: float = 0.0
        value_learning_rate: float | None = None
        """The value network's peak; by default the policy's."""
        average: float | None = None
        """The decay of the policy's average; None: none is kept."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.value_learning_rate is not None and self.value_learning_rate < 0:
                raise ConfigError(f"value_learning_rate is {self.value_learning_rate}; it must not be negative")
            if self.average is not None and not 0 <= self.average < 1:
                raise ConfigError(f"average is {self.average}; a decay is from 0 to below 1")

        def build(self, model: nn.Module, parameters: dict[str, Tensor] | None = None) -> "PPOOptimizer":
            """Over the parameters of an `ActorCritic`, or stand-ins for them of the same names."""
            named = parameters or trainable(model)
            rate = self.learning_rate if self.value_learning_rate is None else self.value_learning_rate
            value = {name: p for name, p in named.items() if name.startswith(_VALUE)}
            groups = self.groups((name, p) for name, p in named.items() if name not in value)
            groups += replace(self, learning_rate=rate).groups(value.items())
            averaged = [] if self.average is None else [p for name, p in named.items() if name.startswith(_POLICY)]
            return PPOOptimizer(groups, averaged, self.average or 0.0)

    def __init__(self, groups: list[dict[str, Any]], averaged: list[Tensor], decay: float):
        super().__init__(groups)
        self._averaged, self._decay = averaged, decay

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient, then the averages."""
        before = {p: p.detach().clone() for p in self._averaged if _AVERAGE not in self.state[p]}
        super().step()
        for parameter, weight in before.items():  # AdamW fills an empty state only
            self.state[parameter][_AVERAGE] = weight
        if self._averaged:
            averages = [self.state[p][_AVERAGE] for p in self._averaged]
            torch._foreach_lerp_(averages, self._averaged, 1 - self._decay)


def averaged_policy(checkpoint: Path, policy: LanguageModel) -> LanguageModel:
    """The policy with the averaged weights that a checkpoint holds.

    Args:
        checkpoint: its folder.
        policy: a model of the same shape.

    Raises:
        CheckpointError: it holds no averages.
    """
    tensors: Mapping[str, Tensor] = read_tensors(checkpoint / "optimizer.safetensors")
    end = f"/{_AVERAGE}"
    weights = {
        name.removeprefix(_POLICY).removesuffix(end): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith(_POLICY) and name.endswith(end)
    }
    if not weights:
        raise CheckpointError(f"{checkpoint} holds no averaged weights: the run kept none (average)")
    return holding(policy, weights).eval()

"""One optimizer step: forward and backward over micro-batches, normalize, clip, update. The Trainer loops over it.

    total, weight = sum over micro-batches of objective(model, batch)       each a sum, not a mean
    gradient      = d total / d weights, divided by weight
    gradient     *= min(1, clip / |gradient|)
    the optimizer updates the float32 weights

Because losses are sums, any division of a batch into micro-batches gives the same gradient, however many tokens of each
count.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import TrainingError
from penjing.training.adamw import AdamW
from penjing.training.interfaces import Batch
from penjing.training.muon import Muon
from penjing.training.objectives import Objective, Prepares
from penjing.training.weights import Weights


class NotFinite(Exception):
    """A loss or a gradient norm that is not a number any more."""


class Outcome:
    """A step's loss and gradient norm, still on their way from the device until `read`."""

    def __init__(self, numbers: Tensor, metrics: Mapping[str, float]):
        self.metrics = metrics
        self._ready: torch.cuda.Event | None = None
        if numbers.device.type == "cuda":
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record()
        else:
            self._numbers = numbers

    @property
    def arrived(self) -> bool:
        """Whether `read` needs no waiting, as far as is known: only CUDA tells."""
        return self._ready is None or self._ready.query()

    def read(self) -> tuple[float, float]:
        """The mean loss and the gradient norm before clipping; waits for the device if they are not there yet.

        Raises:
            NotFinite: one of them is NaN or infinite.
        """
        if self._ready is not None:
            self._ready.synchronize()
        loss, norm = self._numbers.tolist()
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                raise NotFinite(f"the {name} is {value}")
        return loss, norm


class Engine:
    """A model, its float32 weights and their optimizer; `step` trains on a list of micro-batches."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: AdamW.Config | Muon.Config,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        clip: float | None = 1.0,
    ):
        self.model = model.to(device)
        self.objective = objective
        self.device = torch.device(device)
        self.clip = clip
        self.weights = Weights(model, dtype)
        if not self.weights.trained:
            raise TrainingError("no weight of the model is trainable")
        self.optimizer = optimizer.build(model, self.weights.trained)

    @property
    def reader(self) -> Any:
        """What a validation is to measure."""
        return self.model

    def step(self, batches: Sequence[Batch], factor: float = 1.0) -> Outcome:
        """Trains one step.

        Args:
            batches: micro-batches whose gradients are added up.
            factor: what the schedule makes of the peak learning rates.

        Raises:
            NotFinite: on a CPU, before anything is updated. Elsewhere `Outcome.read` raises it, a step later, so that
                the device never waits.
            TrainingError: nothing in the batches counts in the loss.
        """
        total, length, weight, sums = self._gradients(batches)
        gradients, norm = self.weights.gradients, length / weight
        outcome = Outcome(torch.stack([total / weight, norm]), {name: value / weight for name, value in sums.items()})
        if self.device.type == "cpu":
            outcome.read()
        scale = torch.ones_like(norm) if self.clip is None else (self.clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, (scale / weight).to(gradients[0].device))  # offloaded ones are on the CPU
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimizer.step()
        self.weights.publish()
        return outcome

    def _gradients(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor, float, Mapping[str, float]]:
        """Sums over the batches: the loss; the norm of its gradient, which the weights have; what counted; metrics."""
        total = torch.zeros((), device=self.device)
        weight, sums = 0, defaultdict[str, float](float)
        if isinstance(self.objective, Prepares):
            batches = self.objective.prepare(self.model, [batch.to(self.device) for batch in batches])
        for batch in batches:
            loss = self.objective(self.model, batch.to(self.device))
            loss.total.backward()
            self.weights.collect()
            total += loss.total.detach().float()
            weight += loss.weight
            for name, value in loss.metrics.items():
                sums[name] += value
        if weight == 0:
            raise TrainingError(f"nothing in the batch counts in the loss ({origins(batches)})")
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self.weights.gradients)))
        return total, norm, weight, sums


def origins(batches: Sequence[Batch]) -> str:
    """Where the batches came from, for an error message."""
    known = [batch.origin for batch in batches if batch.origin]
    return "batch from " + "; ".join(known[:4]) if known else "batch of unknown origin"


def count_tokens(batch: Batch) -> int:
    """How many tokens of a batch are not padding."""
    documents = getattr(batch, "documents", None)
    return batch.tokens.numel() if documents is None else int((documents >= 0).sum())


def compile_blocks(model: nn.Module) -> Callable[[], None]:
    """Compiles each block by itself: the blocks are alike, so this takes a fraction of the time of the whole model.

    Returns:
        What undoes it.
    """
    blocks = blocks_of(model)
    for block in blocks:
        block.compile()

    def undo() -> None:
        for block in blocks:
            block._compiled_call_impl = None

    return undo


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The model's blocks; a model without any counts as one."""
    blocks = getattr(model, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.ModuleList) and len(blocks) else [model]

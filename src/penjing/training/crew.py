"""The processes that train together, as far as the training loop must know of them: one alone, as a rule.

Whatever a loop decides by (clock, Ctrl-C, how many tokens were read) must come out the same on all of them, or they
would wait for each other for ever. `training.distributed.team` is the crew of several.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from penjing.device import choose_device
from penjing.training import randomness
from penjing.training.checkpoints import Checkpoints
from penjing.training.deferred import Fill, begin, is_deferred
from penjing.training.engine import Engine

if TYPE_CHECKING:
    from penjing.training.adamw import AdamW
    from penjing.training.muon import Muon
    from penjing.training.objectives import Objective


class Crew:
    """A run on one process."""

    first = True
    """Whether this process speaks and writes for all."""
    size = 1
    """How many processes there are."""
    tensor = 1
    """How many of them divide each layer's matrices."""
    same_signal_within = 0.0
    """Seconds in which a second Ctrl-C is taken for the first one, come again."""

    def told(self, value: Any = None) -> Any:
        """What the first process says (plain JSON); the others' `value` does not matter."""
        return value

    def agreed(self, seconds: float, asked: bool) -> tuple[float, bool]:
        """The first process's seconds, and whether anyone was asked to stop."""
        return seconds, asked

    def tokens(self, here: int) -> int:
        """How many tokens all have read together."""
        return here

    def seed(self, seed: int, step: int) -> None:
        """Starts the random generators, at a step of a run."""
        randomness.seed_everything(seed)

    def checkpoints(self, folder: Path, keep: int, say: Callable[[str], None], **how: Any) -> Checkpoints:
        """Where the run's checkpoints lie; `how` is what they take besides."""
        return Checkpoints(folder, keep, say, **how)

    @property
    def readers(self) -> tuple[int, int]:
        """Which part of each batch's rows is this process's, and of how many."""
        return 0, 1

    def check(self, model: nn.Module, rows: int, row: int) -> None:
        """Whether a model, and batches of so many rows of so many tokens, can be divided among the processes.

        Raises:
            ConfigError: they cannot.
        """

    def device(self, name: str) -> torch.device:
        """This process's device, where the recipe names one or "auto"."""
        return choose_device(name)

    def engine(
        self,
        model: nn.Module,
        objective: "Objective",
        optimizer: "AdamW.Config | Muon.Config",
        *,
        device: torch.device,
        dtype: torch.dtype,
        clip: float | None,
        fill: Fill | None = None,
    ) -> Engine:
        """What takes the steps; `fill` puts the first weights into a model that has no memory yet."""
        if is_deferred(model):
            begin(model, device, fill)
        return Engine(model, objective, optimizer, device=device, dtype=dtype, clip=clip)

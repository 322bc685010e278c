"""What a run needs of its data, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Batch(Protocol):
    """What the engine needs to know of a batch; the objective knows the rest."""

    @property
    def tokens(self) -> Tensor:
        """Token ids, `(batch, seq)`."""

    @property
    def origin(self) -> str:
        """Where it came from, for error messages."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""


class Loader(Protocol):
    """Batches without end, whose position can be saved."""

    def __next__(self) -> Any:
        """The next batch."""

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain JSON."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a saved position."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    step: int
    """Steps done, resumed ones included."""
    loss: float
    """Training loss of the last step."""
    tokens: int
    """Tokens read."""
    seconds: float
    """Wall-clock time, resumed runs included."""
    stopped: str
    """Why: "budget" or "interrupted"."""
    checkpoint: Path
    """The newest checkpoint."""
    best: Path | None
    """The checkpoint with the lowest validation loss."""
    validation: Mapping[str, float]
    """The last validation."""

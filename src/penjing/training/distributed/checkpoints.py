"""Checkpoints that several processes write together, and that any number of processes can go on from.

    checkpoints/step-000123/
      pieces/*.safetensors   weights and optimizer, a file for each process that had a part of them
      trainer.json           as in any other checkpoint

The first process makes the folder, all write into it, and it takes its name once the first has seen that all is there.
It must lie where every process can write: with several machines, on a file system that they share.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from penjing.errors import CheckpointError
from penjing.files import atomic_folder, read_json
from penjing.training.checkpoints import RECORD, Checkpoint, Checkpoints
from penjing.training.distributed import pieces
from penjing.training.weights import local, piece_of

if TYPE_CHECKING:
    from penjing.training.distributed.engine import DistributedEngine
    from penjing.training.distributed.team import Team


class TeamCheckpoints(Checkpoints):
    """The checkpoints of a run on several processes; each method is called on all of them."""

    def __init__(self, team: "Team", folder: Path, keep: int, say: Callable[[str], None], keep_every: int | None):
        super().__init__(folder, keep, say, keep_every)
        self._team = team

    def newest(self) -> Checkpoint | None:
        """The whole checkpoint with the most steps."""
        return self._agreed(super().newest)

    def best(self) -> Checkpoint | None:
        """The checkpoint with the lowest validation score."""
        return self._agreed(super().best)

    def load(self, checkpoint: Checkpoint, model: nn.Module, engine: Any) -> None:
        """Puts every process's piece of a checkpoint, however it was saved, where it belongs."""
        if checkpoint.in_pieces:
            _load_pieces(checkpoint, engine)
        else:
            _load_whole(checkpoint, model, engine)

    def write_model(self, folder: Path, model: nn.Module, tokenizer: Any, engine: Any, dtype: torch.dtype) -> None:
        """Puts the newest checkpoint's weights together as a model folder: the first process does."""
        checkpoint = self.newest()
        assert checkpoint
        if self._team.first:
            checkpoint.export(folder, engine.blank(), tokenizer, dtype)
        self._team.told()

    def _write(self, path: Path, model: nn.Module, tokenizer: Any, engine: Any, record: Mapping[str, Any]) -> None:
        with ExitStack() as stack:
            if self._team.first:
                temporary = stack.enter_context(atomic_folder(path))
            place = Path(self._team.told(str(temporary) if self._team.first else None))
            pieces.write(place / "pieces", engine.state())
            if self._team.first:
                self._finish(place, record)
        self._team.told()

    def _agreed(self, find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        found = find() if self._team.first else None
        path = self._team.told(str(found.path) if found else None)
        if found or path is None:
            return found
        return Checkpoint(Path(path), read_json(Path(path) / RECORD, CheckpointError))


def _load_pieces(checkpoint: Checkpoint, engine: "DistributedEngine") -> None:
    folder = checkpoint.path / "pieces"
    for name, size, dtype in pieces.shapes(folder):
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            name, _, what = rest.rpartition("/")
            for parameter in engine.known_as(name):
                like = size == parameter.shape
                empty = torch.zeros_like(parameter) if like else torch.zeros(size, dtype=dtype, device=parameter.device)
                engine.optimizer.state[parameter][what] = empty.detach()
    pieces.read_into(folder, engine.state())


def _load_whole(checkpoint: Checkpoint, model: nn.Module, engine: "DistributedEngine") -> None:
    weights, optimizer = checkpoint.tensors(model)
    with torch.no_grad():
        for name, tensor in weights.items():
            for parameter in engine.known_as(name):
                if parameter.shape != tensor.shape:
                    raise CheckpointError(f"{checkpoint.path} holds another model: the weight {name} has another shape")
                local(parameter).copy_(piece_of(tensor, like=parameter))
    for key, tensor in optimizer.items():
        name, _, what = key.rpartition("/")
        for parameter in engine.known_as(name):
            engine.optimizer.state[parameter][what] = _spread(tensor, parameter)


def _spread(tensor: Tensor, parameter: Tensor) -> Tensor:
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device)
    spread = torch.zeros_like(parameter).detach()
    local(spread).copy_(piece_of(tensor, like=parameter))
    return spread

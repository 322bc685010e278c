"""Checkpoints that several processes write together, and that any number of processes can go on from.

    checkpoints/step-000123/
      pieces/*.safetensors          weights and optimizer, a file for each process that had a part of them
      config.json, tokenizer.json   as of any model folder: `penjing export` puts the weights beside them
      trainer.json                  as in any other checkpoint

The first process makes the folder, all write into it, and it takes its name once the first has seen that all is there.
It must lie where every process can write: with several machines, on a file system that they share.

The threads that write agree among themselves in a process group of their own (gloo, whatever trains), so that they
never come between the exchanges of the training that goes on; a process that dies is noticed there, too.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from penjing.errors import CheckpointError, PenjingError
from penjing.files import atomic_folder, read_json
from penjing.models.folder import describe_into
from penjing.training.checkpoints import PIECES, Checkpoint, Checkpoints
from penjing.training.distributed import pieces
from penjing.training.saving import RECORD, finish, save_model
from penjing.training.tensor_files import facts
from penjing.training.weights import local, piece_of

if TYPE_CHECKING:
    from penjing.training.distributed.engine import DistributedEngine
    from penjing.training.distributed.team import Team

T = TypeVar("T")


class TeamCheckpoints(Checkpoints):
    """The checkpoints of a run on several processes; each method is called on all of them."""

    def __init__(
        self,
        team: "Team",
        folder: Path,
        keep: int,
        say: Callable[[str], None],
        keep_every: int | None = None,
        background: bool = True,
    ):
        super().__init__(folder, keep, say, keep_every, background)
        self._team = team
        self._group = dist.new_group(backend="gloo")

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
            whole = checkpoint.language_model(engine.model.config, dtype)
            with atomic_folder(folder) as temporary:
                save_model(temporary, whole, tokenizer)
        self._team.told()

    def _prepare(
        self, path: Path, model: nn.Module, tokenizer: Any, engine: Any, record: Mapping[str, Any]
    ) -> Callable[[], None]:
        share = pieces.share_of(engine.state())
        share = share.holding(self._kept(share.tensors))
        config = engine.model.config

        def write() -> None:
            with ExitStack() as stack:

                def begin() -> str:
                    temporary = stack.enter_context(atomic_folder(path))
                    (temporary / PIECES).mkdir()
                    describe_into(temporary, config, torch.float32, tokenizer)
                    return str(temporary)

                place = Path(self._first(begin))
                files = self._each(lambda: {f"{PIECES}/{f.name}": facts(f) for f in share.write(place / PIECES)})
                written = {name: size for own in files for name, size in own.items()}
                self._first(lambda: finish(place, record, written))
                self._first(stack.close)

        return write

    def _first(self, do: Callable[[], T]) -> T:
        """Does something on the first process; all have what comes of it."""
        return self._each(lambda: do() if self._team.first else None)[0]  # type: ignore[return-value]

    def _each(self, do: Callable[[], T]) -> list[T]:
        """Does something on every process; each has what comes of it on all, and an error on one is one on all."""
        found, failure = None, ""
        try:
            found = do()
        except (PenjingError, OSError) as error:
            failure = str(error)
        answers: list[Any] = [None] * self._team.size
        dist.all_gather_object(answers, (found, failure), group=self._group)
        for rank, (_, failure) in enumerate(answers):
            if failure:
                raise CheckpointError(f"process {rank}: {failure}" if rank else failure)
        return [found for found, _ in answers]

    def _prune(self) -> None:
        if self._team.first:
            super()._prune()

    def _agreed(self, find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        found = find() if self._team.first else None
        path = self._team.told(str(found.path) if found else None)
        if found or path is None:
            return found
        return Checkpoint(Path(path), read_json(Path(path) / RECORD, CheckpointError))


def _load_pieces(checkpoint: Checkpoint, engine: "DistributedEngine") -> None:
    folder = checkpoint.path / PIECES
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

"""Models that begin without memory: a process gets room for its own pieces only, and fills these alone.

A model larger than one process's memory is built on the meta device, where tensors have shapes and no numbers, and is
divided there. Then each process makes room for its pieces. What would fill a whole model on one process now fills the
divided one: whoever writes to a weight writes a whole tensor, of which each process keeps its piece and drops the rest
before the next. So the numbers are those that a single process would have had, bit for bit, and besides its pieces a
process never holds more than one tensor. Every process draws all random numbers, in the same order, also those that it
has no use for: this costs a second or two for a billion weights.

Sources: PyTorch's meta device and `fully_shard`, whose parameters may be of it until they are first used.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from penjing.errors import TrainingError
from penjing.models.language_model import LanguageModel
from penjing.training.weights import local, piece_of

Fill = Callable[[LanguageModel], None]
"""What puts the first weights into a model: its `initialise`, or what reads them from a folder."""


def is_deferred(model: nn.Module) -> bool:
    """Whether a model has no memory yet."""
    return any(parameter.is_meta for parameter in model.parameters())


def make_room(modules: Sequence[nn.Module], device: torch.device) -> None:
    """Gives the parameters of these modules memory; their numbers mean nothing yet."""
    for module in modules:
        module.to_empty(device=device)


def begin(model: nn.Module, device: torch.device, fill: Fill | None) -> None:
    """Makes room for a whole model, and fills it, or leaves that to a checkpoint.

    Raises:
        TrainingError: it is no language model, and nobody knows what else it may hold.
    """
    if not isinstance(model, LanguageModel):
        raise TrainingError(f"only language models can begin on the meta device; this is a {type(model).__name__}")
    make_room([model], device)
    model.tie()
    if fill is not None:
        fill_pieces(model, fill)


@torch.no_grad()
def fill_pieces(model: LanguageModel, fill: Fill) -> None:
    """Fills a model of which this process has pieces, none or all of each weight."""
    with _KeepPieces():
        fill(model)


class _KeepPieces(TorchDispatchMode):
    """Whole tensors written to a weight of which this process has a piece: it keeps that; to one that it lacks: none.

    What fills a weight with one number, or changes each number by itself, does that to the piece.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named: dict[str, Any] = kwargs or {}
        target = args[0] if args else None
        if not isinstance(target, Tensor) or not (_is_spread(target) or target.is_meta):
            return func(*args, **named)
        if torch.Tag.nondeterministic_seeded in func.tags and func.overloadpacket.__name__.endswith("_"):
            whole = func(torch.empty(target.shape, dtype=target.dtype), *args[1:], **named)
        elif func is torch.ops.aten.copy_.default and not _is_spread(args[1]):
            whole = args[1].expand(target.shape)
        else:
            return func(*args, **named)
        if _is_spread(target):
            local(target).copy_(piece_of(whole, like=target))
        return target


def _is_spread(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")  # a DTensor, whose module a single process need not import

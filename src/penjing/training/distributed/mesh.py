"""The mesh: how the processes of a run are laid out, and what each of them is to the others.

    world = pipeline x data x shard x context x tensor

    data      whole copies of the weights, each with its own rows of the batch
    shard     one copy in pieces, a piece on each; whole layers are put together when they compute (FSDP, ZeRO-3)
    tensor    each layer's matrices in pieces that compute side by side, and the tokens between layers in pieces, too
    pipeline  some of the layers on each; micro-batches stream through
    context   each row's tokens in pieces; keys and values go round in a ring

The last one changes fastest from process to process: tensor parallelism talks most, so its processes are neighbours.
Context pieces hold the same weights, so that FSDP spreads these over shard x context processes.

Sources: Zhao et al., "PyTorch FSDP", 2023, arXiv:2304.11277; Narayanan et al., "Efficient Large-Scale Language Model
Training on GPU Clusters Using Megatron-LM", 2021, arXiv:2104.04473, section 3 (the order of the axes).
"""

from dataclasses import dataclass, fields
from math import prod
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from penjing.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

AXES = ("pipeline", "data", "shard", "context", "tensor")


@dataclass(frozen=True)
class Parallel:
    """How a run is divided among processes; all ones for a single one."""

    data: int = 1
    """Copies of the weights, each trained on its own rows."""
    shard: int = 1
    """Processes that hold a copy together, each trained on its own rows."""
    tensor: int = 1
    """Processes that compute each layer together."""
    pipeline: int = 1
    """Processes that hold the layers one after another."""
    context: int = 1
    """Processes that divide the tokens of each row."""
    micro_batches: int | None = None
    """Pieces that a batch is cut into to fill a pipeline; None for twice as many as there are stages, if that goes."""
    interleave: int = 1
    """Stages on each process of a pipeline; more of them keep processes waiting for less time, and talk more."""
    offload: bool = False
    """Keep the weights, their gradients and the optimizer on the CPU, and bring layers to the GPU as they compute."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < 1:
                raise ConfigError(f"parallel {field.name} is {value}; it must be at least 1")

    @property
    def world(self) -> int:
        """How many processes it takes."""
        return prod(getattr(self, axis) for axis in AXES)

    @property
    def readers(self) -> int:
        """How many of them read rows of their own."""
        return self.data * self.shard

    def __str__(self) -> str:
        named = [f"{axis} {getattr(self, axis)}" for axis in AXES if getattr(self, axis) > 1]
        return " x ".join(named) or "one process"


class Mesh:
    """The processes of a run, as one of them sees them; `torch.distributed` must have been started."""

    def __init__(self, parallel: Parallel, device: torch.device | str = "cpu"):
        """Makes the groups.

        Raises:
            ConfigError: there are more or fewer processes than `parallel` speaks of.
        """
        world = dist.get_world_size()
        if parallel.world != world:
            raise ConfigError(
                f"[parallel] asks for {parallel.world} processes ({parallel}), and there are {world}: "
                f"start it with torchrun --nproc-per-node {parallel.world}, or change [parallel]"
            )
        self.parallel = parallel
        self.device = torch.device(device)
        shape = [getattr(parallel, axis) for axis in AXES]
        self.place = dict(zip(AXES, _coordinates(dist.get_rank(), shape), strict=True))
        """Where this process stands on each axis."""
        # pieces of a row hold the same weights: to FSDP they are like pieces of a batch
        weights = parallel.shard * parallel.context
        self.mesh = init_device_mesh(
            self.device.type,
            (parallel.pipeline, parallel.data, weights, parallel.tensor),
            mesh_dim_names=("pipeline", "data", "weights", "tensor"),
        )
        self.rows = parallel.readers
        self.row = self.place["data"] * parallel.shard + self.place["shard"]
        """Which of the `rows` parts of each batch is this process's."""
        self.context = _group_along("context", shape)
        """The processes that have the other pieces of this one's rows."""
        self.ends = _group_along("pipeline", shape) if parallel.pipeline > 1 else None
        """The processes of this one's pipeline."""

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return dist.get_rank() == 0

    @property
    def weights(self) -> DeviceMesh:
        """Those that FSDP works with: copies, and within a copy its pieces."""
        return self.mesh["data", "weights"]

    @property
    def tensor(self) -> DeviceMesh:
        """Those that compute layers together with this one."""
        return self.mesh["tensor"]

    @property
    def pipeline(self) -> "ProcessGroup":
        """Those that hold the layers before and after this one's."""
        return self.mesh["pipeline"].get_group()

    def total(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        dist.all_reduce(numbers)
        return numbers


def _coordinates(rank: int, shape: list[int]) -> list[int]:
    place = []
    for size in reversed(shape):
        place.append(rank % size)
        rank //= size
    return place[::-1]


def _group_along(axis: str, shape: list[int]) -> "ProcessGroup":
    """The group of the processes that differ from this one along an axis alone; every process must call it."""
    ranks = torch.arange(prod(shape)).view(shape).movedim(AXES.index(axis), -1).flatten(0, -2)
    mine, _ = dist.new_subgroups_by_enumeration(ranks.tolist())
    assert mine is not None
    return mine

"""Tensors that are spread over processes, in files: each process writes its pieces, and any other layout reads them.

The layout is that of PyTorch's distributed checkpoints (DCP) over safetensors: each file's header says which part of
which tensor it holds, so that four processes' files can be read by one, two or eight. DCP's own files are not used,
because their metadata is a pickle, which could run any code; only its planner is, and its reader of safetensors.

    {"__metadata__": {"DCP_SHARDING_INFO": {NAME: {"saved_offsets": [first row, first column, ...]}}, ...}, ...}
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.state_dict_loader import load

from penjing.errors import CheckpointError
from penjing.training.tensor_files import write_tensors


@dataclass(frozen=True)
class Share:
    """What one process is to write of tensors that several have."""

    tensors: Mapping[str, Tensor]
    """Its pieces, by the names of the whole tensors; what several processes have alike, only one of them writes."""
    offsets: Mapping[str, tuple[int, ...]]
    """Where each piece begins in the whole one."""
    file: str
    """The name of its file."""

    def holding(self, tensors: Mapping[str, Tensor]) -> "Share":
        """The same with other tensors, copies say."""
        return replace(self, tensors=tensors)

    def write(self, folder: Path) -> list[Path]:
        """Writes the file, on this process alone; none, where there is nothing to write.

        Raises:
            CheckpointError: it could not be written.
        """
        if not self.tensors:
            return []
        offsets = {name: {"saved_offsets": list(self.offsets[name])} for name in self.tensors}
        metadata = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
        write_tensors(folder / self.file, {name: tensor.cpu() for name, tensor in self.tensors.items()}, metadata)
        return [folder / self.file]


def share_of(tensors: Mapping[str, Tensor]) -> Share:
    """What this process is to write of tensors that all of them have; every process must call it.

    The pieces share the memory of `tensors`.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    planner = DefaultSavePlanner()
    planner.set_up_planner(dict(tensors), is_coordinator=rank == 0)
    plans: list[Any] = [None] * world
    dist.all_gather_object(plans, planner.create_local_plan())
    divided, _ = planner.create_global_plan(plans)
    plan: SavePlan = planner.finish_plan(divided[rank])
    pieces: dict[str, Tensor] = {}
    offsets: dict[str, tuple[int, ...]] = {}
    for item in plan.items:
        piece = planner.resolve_data(item)
        assert isinstance(piece, Tensor)
        assert item.tensor_data
        pieces[item.index.fqn] = piece.detach()
        offsets[item.index.fqn] = tuple(item.tensor_data.chunk.offsets)
    return Share(pieces, offsets, f"{rank + 1:05d}-of-{world:05d}.safetensors")


def read_into(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fills this process's pieces; every process must call it.

    Raises:
        CheckpointError: a file is damaged, or lacks a tensor.
    """
    with _said_plainly(folder):
        load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)))


def read_whole(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """Whole tensors, of those whose names begin with `prefix`, without it; on this process alone.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    with _said_plainly(folder):
        wanted = [stored for stored in shapes(folder) if stored[0].startswith(prefix)]
        tensors = {name: torch.zeros(size, dtype=dtype) for name, size, dtype in wanted}
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def shapes(folder: Path) -> Iterator[tuple[str, torch.Size, torch.dtype]]:
    """Name, size and dtype of what there is."""
    for name, stored in HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata.items():
        if isinstance(stored, TensorStorageMetadata):
            yield name, stored.size, stored.properties.dtype


@contextmanager
def _said_plainly(folder: Path) -> Iterator[None]:
    logger = logging.getLogger("torch.distributed.checkpoint")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # reading on one process is no mistake
            yield
    except (OSError, RuntimeError, KeyError, ValueError, SafetensorError, CheckpointException) as error:
        reasons = getattr(error, "failures", {})
        reason = next((str(failure[0]) for failure in reasons.values()), str(error)).splitlines()
        raise CheckpointError(f"{folder} cannot be read: {reason[0] if reason else type(error).__name__}") from None
    finally:
        logger.setLevel(level)

"""Tensors that are spread over processes, in files: each process writes its pieces, and any other layout reads them.

The format is PyTorch's distributed checkpoint over safetensors: each file's header says which part of which tensor it
holds, so that four processes' files can be read by one, two or eight. Nothing is pickled.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from penjing.errors import CheckpointError


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Writes this process's pieces; every process must call it.

    Raises:
        CheckpointError: a process could not write.
    """
    with _said_plainly(f"{folder} could not be written"):
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read_into(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fills this process's pieces; every process must call it.

    Raises:
        CheckpointError: a file is damaged, or lacks a tensor.
    """
    with _said_plainly(f"{folder} cannot be read"):
        load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)))


def read_whole(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """Whole tensors, of those whose names begin with `prefix`, without it; on this process alone."""
    with _said_plainly(f"{folder} cannot be read"):
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
def _said_plainly(what: str) -> Iterator[None]:
    logger = logging.getLogger("torch.distributed.checkpoint")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, CheckpointException) as error:
        reasons = getattr(error, "failures", {})
        reason = next((str(failure[0]) for failure in reasons.values()), str(error)).splitlines()
        raise CheckpointError(f"{what}: {reason[0] if reason else type(error).__name__}") from None
    finally:
        logger.setLevel(level)
